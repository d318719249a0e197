"""Questions to a recording of any size: whole slots of time are answered by its digest, the rest by its records."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import MODES

from ..lengths import STAGE_COLUMNS
from ..recordings.digest import SLOWEST, TABLES, Digest
from ..recordings.file import RecordingFile
from ..recordings.slots import STAGES
from ..recordings.standing import ALL_VMS, BINS
from . import places
from .edges import Edges
from .engine import Engine
from .scan import Cells, Key, Part, Scan
from .standing import most_at_once
from .ticks import MAX_TICKS, tick_width_ns

FEW_RECORDS: Final = 1_000_000
"""In whole slots: so few are read at once. The other slots are answered by their sums."""

Int64s = npt.NDArray[np.int64]


class Records(Scan):
    """All questions, answered by reading the records. reaching: no fault that began earlier lasts until that moment."""

    indexed = False

    def __init__(self, engine: Engine, recording: RecordingFile, reaching: Callable[[int], int] = lambda _: 0) -> None:
        super().__init__(engine, recording)
        self._since = reaching

    def stall(self, part: Part) -> dict[Key, Int64s]:
        """Time that each vCPU stood still in each tick, (ticks,) ns; as Scan.stalls."""
        return self.stalls(part, self._reach(part.from_ns))

    def most_at_once(self, part: Part, vm: str | None) -> Int64s:
        """As standing.most_at_once."""
        return most_at_once(self._engine, self._recording, part, vm, self._reach(part.from_ns))

    def gpa(self, part: Part, vm: str | None) -> list[dict[str, Any] | None]:
        """Of each tick, as models.GpaFaults; None of more than one VM."""
        only = places.only_vm(self._recording, vm)
        if only is None:
            return [None] * part.ticks
        shift = self._shift(only)
        return [*places.gpa_columns(part.ticks, shift, self._gpa(part, only, shift))]

    def _reach(self, moment_ns: int) -> int:
        return self._since(moment_ns)

    def _shift(self, vm: str) -> int:
        return places.shift_of(self._engine, self._recording, vm)

    def _gpa(self, part: Part, vm: str, shift: int) -> places.GpaCells:
        return places.gpa_cells(self._engine, self._recording, part, vm, shift)


def questions(
    engine: Engine, recording: RecordingFile, from_ns: int, to_ns: int, outermost: tuple[bool, bool]
) -> tuple[Records, Part]:
    """Who answers for [from_ns, to_ns), and its ticks. outermost: also faults that began before or after."""
    part = Part(from_ns, to_ns, tick_width_ns(to_ns - from_ns), *outermost)
    digest = recording.digest()
    if digest is None:
        return Records(engine, recording), part
    try:
        indexed = Indexed(engine, recording, digest)
    except (OSError, KeyError):
        return Records(engine, recording), part
    if indexed.records(part) < FEW_RECORDS:
        return indexed.unindexed(), part
    slots = -(-(to_ns - from_ns) // (digest.whole_ns * (MAX_TICKS - 1)))
    width_ns = max(slots, 1) * digest.whole_ns
    cut_ns = (from_ns - digest.started_ns) % width_ns
    return indexed, Part(from_ns, to_ns, width_ns, *outermost, cut_ns)


class Indexed(Records):
    """The same answers, but the ticks of `part` must be of whole slots. Raises OSError, KeyError for a damaged file."""

    indexed = True

    def __init__(self, engine: Engine, recording: RecordingFile, digest: Digest) -> None:
        super().__init__(engine, recording)
        self._digest = digest
        self._tables = {name: digest.columns(name) for name in TABLES if name != "stages"}
        pa.default_memory_pool().release_unused()
        self._lengths_of = {name: self._tables[f"{name}_lengths"] for name in ("whole", "stages")}
        self._slots = {
            "whole": -(-max(recording.meta.ended_ns - digest.started_ns, 1) // digest.whole_ns),
            "stages": -(-max(recording.meta.ended_ns - digest.started_ns, 1) // digest.stages_ns),
        }
        for name, table in self._lengths_of.items():
            self._slots[name] = max(self._slots[name], int(table["slot"].max(initial=0)) + 1)
        self._who = self._codes()
        self._edges_of: Part | None = None

    def unindexed(self) -> Records:
        """Who reads the records."""
        return Records(self._engine, self._recording, self._reach)

    def records(self, part: Part) -> int:
        """Records in the slots that are wholly in the part."""
        first, last = self._whole_slots(part, "whole")
        return int(self._between(self._lengths_of["whole"], first, last)["count"].sum())

    def cells(self, part: Part, rows: int) -> Cells:
        """As Scan.cells."""
        table, tick = self._ticks_of(part, "whole")
        found = [(tick, table)]
        for one, grid in zip(self._edges(part, "whole"), self._edge_sums(part).wholes, strict=True):
            edge = grid.cells()
            number = min(max((one.from_ns - part.origin_ns) // part.tick_ns, 0), part.ticks - 1)
            found.append((np.full(len(edge["slot"]), number, np.int32), edge))
        tick = np.concatenate([ticks for ticks, _ in found])
        key, count = (np.concatenate([edge[name] for _, edge in found]) for name in ("key", "count"))
        who = self._who[key // BUCKETS // STAGES]
        order = np.argsort(tick, kind="stable")
        order = order[who[order] > 0]
        vcpus, codes = np.unique(who[order] >> 3, return_inverse=True)
        columns = (tick[order], codes, who[order] & 7, key[order] % BUCKETS, count[order])
        return Cells([self._key(vcpu) for vcpu in vcpus.tolist()], *(one.astype(np.int32) for one in columns))

    def stall(self, part: Part) -> dict[Key, Int64s]:
        """As Records.stall."""
        found: dict[Key, Int64s] = {}
        for one in self._edges(part, "whole"):
            for key, ticks in super().stall(one).items():
                mine = found.setdefault(key, np.zeros(part.ticks, np.int64))
                mine[: len(ticks)] += ticks
        table, tick = self._ticks_of(part, "stall")
        who = self._who[table["key"]]
        for vcpu in np.unique(who[who > 0] >> 3).tolist():
            mine = found.setdefault(self._key(vcpu), np.zeros(part.ticks, np.int64))
            chosen = who >> 3 == vcpu
            np.add.at(mine, tick[chosen], table["ns"][chosen])
        return found

    def most_at_once(self, part: Part, vm: str | None) -> Int64s:
        """As standing.most_at_once."""
        most = np.zeros(part.ticks, np.int64)
        for one in self._edges(part, "whole"):
            ticks = super().most_at_once(one, vm)
            mine = slice(one.cut_ns // one.tick_ns, len(ticks))
            most[mine] = np.maximum(most[mine], ticks[mine])
        table, tick = self._ticks_of(part, "peaks")
        mine = table["key"] == (ALL_VMS if vm is None else self._digest.vms.index(vm) if vm in self._digest.vms else -2)
        np.maximum.at(most, tick[mine], table["most"][mine])
        return most

    def slowest(self, part: Part, vm: str | None, count: int) -> list[dict[str, Any]]:
        """As Scan.slowest; count: at most extremes.MOST."""
        found = [fault for one in self._edges(part, "whole") for fault in super(Indexed, self).slowest(one, vm, count)]
        kept = self._digest.table(SLOWEST)
        low, high = np.searchsorted(kept["slot"].to_numpy(), self._whole_slots(part, "whole"))
        faults = kept.slice(low, high - low).drop_columns("slot").to_pylist()
        for fault in faults:
            fault["latency_ns"] = sum(fault[name] for name in STAGE_COLUMNS)
        found += [fault for fault in faults if vm in (None, fault["vm"])]
        return sorted(found, key=lambda fault: (-fault["latency_ns"], fault["begin_ns"]))[:count]

    def _stages(self, part: Part) -> Iterator[tuple[Int64s, ...]]:
        for table in (
            *self._digest.batches("stages", *self._whole_slots(part, "stages")),
            self._edge_sums(part).stages.cells(),
        ):
            rest, bucket = np.divmod(table["key"].astype(np.int64), BUCKETS)
            who, stage = self._who[rest // STAGES], rest % STAGES
            known = (who > 0) & (stage > 0)
            yield who[known], stage[known], bucket[known], table["count"][known]

    def _lengths(self, part: Part) -> Iterator[tuple[int, int, int, int]]:
        first, last = self._whole_slots(part, "stages")
        times = self._digest.stages_ns // self._digest.whole_ns
        for table in (
            self._between(self._lengths_of["whole"], first * times, last * times),
            self._between(self._lengths_of["stages"], first, last),
            self._edge_sums(part).stages.lengths(),
        ):
            keys, codes = np.unique(table["key"], return_inverse=True)
            sums, longest = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
            np.add.at(sums, codes, table["sum"])
            np.maximum.at(longest, codes, table["max"])
            who = self._who[keys // STAGES]
            for one, stage, total, most in zip(*(x.tolist() for x in (who, keys % STAGES, sums, longest)), strict=True):
                if one > 0:
                    yield one, stage, total, most

    def _edge_sums(self, part: Part) -> Edges:
        """What is before and after the whole slots."""
        if self._edges_of != part:
            outer, inner = ([one.bounds_ns for one in self._edges(part, grid)] for grid in ("stages", "whole"))
            self._edges_of = part
            self._sums = Edges(self._recording.path, self._digest.people(), outer, inner)
        return self._sums

    def _shift(self, vm: str) -> int:
        return places.shift_for(self._recording, vm, self._digest.gpa_bin_bytes * BINS - 1)

    def _gpa(self, part: Part, vm: str, shift: int) -> places.GpaCells:
        found = [super(Indexed, self)._gpa(one, vm, shift) for one in self._edges(part, "whole")]
        table, tick = self._ticks_of(part, "gpa")
        number = self._digest.vms.index(vm) if vm in self._digest.vms else -1
        mine = table["key"] // BINS == number
        places_of = table["key"][mine] % BINS * self._digest.gpa_bin_bytes >> shift
        found.append((tick[mine], places_of, table["count"][mine]))
        return tuple(np.concatenate(columns) for columns in zip(*found, strict=True))

    def _codes(self) -> Int64s:
        """who of scan.py by who of the digest, 0 for VMs that the recording does not name."""
        number = {vm: place for place, vm in enumerate(self._vms, 1)}
        return np.array(
            [
                (number[vm] * 65536 + vcpu + 1) * 8 + mode if vm in number and mode < len(MODES) else 0
                for vm, vcpu, mode in self._digest.who
            ]
            or [0],
            np.int32,
        )

    def _whole_slots(self, part: Part, grid: str) -> tuple[int, int]:
        """First slot that is wholly in the part, and the one after the last."""
        length_ns = getattr(self._digest, f"{grid}_ns")
        first = max(-((self._digest.started_ns - part.from_ns) // length_ns), 0)
        last = self._slots[grid] if part.later else (part.to_ns - self._digest.started_ns) // length_ns
        return first, max(first, last)

    def _edges(self, part: Part, grid: str) -> list[Part]:
        """What is before and after the whole slots."""
        first, last = self._whole_slots(part, grid)
        length_ns = getattr(self._digest, f"{grid}_ns")
        begin_ns, end_ns = (self._digest.started_ns + slot * length_ns for slot in (first, last))
        if first == last:
            return [part]
        found = []
        if begin_ns > part.from_ns and first > 0:
            found.append(part.within(part.from_ns, begin_ns))
        if end_ns < part.to_ns and not part.later:
            found.append(part.within(end_ns, part.to_ns))
        return found

    def _ticks_of(self, part: Part, name: str) -> tuple[dict[str, Any], Int64s]:
        """The rows of a table, by the slots of `whole`, that are wholly in the part; and the tick of each."""
        table = self._between(self._tables[name], *self._whole_slots(part, "whole"))
        begin_ns = self._digest.started_ns + table["slot"].astype(np.int64) * self._digest.whole_ns
        tick = (begin_ns - part.origin_ns) // part.tick_ns
        return table, np.clip(tick, 0, part.ticks - 1).astype(np.int32)

    @staticmethod
    def _between(table: dict[str, Any], first: int, last: int) -> dict[str, Any]:
        low, high = np.searchsorted(table["slot"], (first, last))
        return {name: column[low:high] for name, column in table.items()}

    def _reach(self, moment_ns: int) -> int:
        """Begin of the first slot with a fault that can have lasted until then; that moment if there is none."""
        table = self._lengths_of["whole"]
        begin_ns = self._digest.started_ns + table["slot"] * self._digest.whole_ns
        reach = (begin_ns + self._digest.whole_ns + table["max"] > moment_ns) & (begin_ns < moment_ns)
        if not reach.any():
            return moment_ns
        slot = int(table["slot"][reach].min())
        return int(begin_ns[reach].min()) if slot else 0
