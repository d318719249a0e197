"""What the faults of a part of a recording come down to: the histograms and columns of time that live tracing keeps."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import (
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODES,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
    SERIES,
    STAGE_SERIES,
)

from ..recordings.columns import FAULTS_SQL, STAGE_COLUMNS
from ..recordings.file import RecordingFile
from .engine import Engine
from .faults import LATENCY

USER_MODES: Final = tuple(mode for mode in MODES if mode != "kernel")
_EXIT_MODES: Final = (MODES[MODE_EXIT], MODES[MODE_MEMORY_FAULT])
_VCPUS: Final = 1 << 16
_NEVER_NS: Final = (1 << 63) - 1
_MAX_GROUPS: Final = 400_000
"""Groups of one query, some 100 bytes each."""
_BUCKETS_USED: Final = 100
"""Buckets per vCPU and tick to reckon with: 6 powers of two."""

Key = tuple[str, int]
"""Id of a VM, and number of a vCPU or -1."""


def bucket_sql(length: str) -> str:
    """SQL of histogram.bucket_of: log2 is exact enough below 2^42, where the last bucket begins."""
    units = f"(least({length}, {(1 << 42) - 1}) >> 2)"
    exponent = f"greatest(floor(log2(greatest({units}, 1)))::INTEGER - 4, 0)"
    return f"({exponent} * 16 + ({units} >> {exponent}))"


@dataclass(frozen=True)
class Part:
    """Faults that began in [from_ns, to_ns), in ticks of tick_ns.

    earlier, later: also those that began before or after, as far as there are any; they go to the outermost ticks.
    """

    from_ns: int
    to_ns: int
    tick_ns: int
    earlier: bool = False
    later: bool = False

    @property
    def bounds_ns(self) -> tuple[int, int]:
        """Begins of the faults that belong to it: the first one, and the one that is too late."""
        return 0 if self.earlier else self.from_ns, _NEVER_NS if self.later else self.to_ns

    @property
    def ticks(self) -> int:
        """Number of ticks; the last one may be cut."""
        return max(-(-(self.to_ns - self.from_ns) // self.tick_ns), 1)


@dataclass(frozen=True)
class Series:
    """Of one vCPU: histograms (SERIES, BUCKETS), sums_ns and longest_ns (SERIES,), all int64."""

    histograms: npt.NDArray[np.int64]
    sums_ns: npt.NDArray[np.int64]
    longest_ns: npt.NDArray[np.int64]

    @classmethod
    def empty(cls) -> "Series":
        """No fault."""
        return cls(np.zeros((SERIES, BUCKETS), np.int64), np.zeros(SERIES, np.int64), np.zeros(SERIES, np.int64))


class Scan:
    """Questions to the records of one recording."""

    def __init__(self, engine: Engine, recording: RecordingFile) -> None:
        self._engine = engine
        self._path = os.path.abspath(recording.path)
        self._vms = [vm.id for vm in recording.meta.vms]

    def series(self, part: Part, cells: "Cells") -> dict[Key, Series]:
        """Every series of every vCPU that has a fault. cells: those of the part, they have the whole latencies."""
        found = {key: Series.empty() for key in cells.keys}
        for i, key in enumerate(cells.keys):
            mine = cells.vcpu == i
            np.add.at(found[key].histograms, (cells.mode[mine], cells.bucket[mine]), cells.count[mine])
        stages = enumerate(zip(STAGE_COLUMNS, _counted(), strict=True), 1)
        keys = ", ".join(f"CASE WHEN {seen} THEN who * 1024 + {bucket_sql(length)} END AS k{i}"
                         for i, (length, seen) in stages)  # fmt: skip
        names = [f"k{i}" for i in range(1, len(STAGE_COLUMNS) + 1)]
        buckets = self._numpy(
            f"SELECT coalesce({', '.join(names)}) AS key, grouping({', '.join(names)}) AS others, count(*) AS n "
            f"FROM (SELECT {keys} FROM {_FAULTS}) GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in names)}) "
            "HAVING key IS NOT NULL",
            part,
        )
        for key, others, count in zip(*(buckets[name].tolist() for name in ("key", "others", "n")), strict=True):
            # A bit for each key that is not grouped by, the first one's is the highest.
            stage = len(names) + 1 - (~others & (1 << len(names)) - 1).bit_length()
            series, number = self._place(found, key >> 10, stage)
            series.histograms[number, key & 1023] += count
        for who, seen, *values in self._lengths(part):
            for stage in (0, *_stages_seen(MODES[who & 7], seen)):
                series, number = self._place(found, who, stage)
                total, longest = values[2 * stage : 2 * stage + 2]
                series.sums_ns[number] += total
                series.longest_ns[number] = max(series.longest_ns[number], longest)
        return found

    def longest(self, part: Part) -> dict[Key, npt.NDArray[np.int64]]:
        """Longest of each series of every vCPU that has a fault, (SERIES,) ns."""
        found: dict[Key, Series] = {}
        for who, seen, *values in self._lengths(part):
            for stage in (0, *_stages_seen(MODES[who & 7], seen)):
                series, number = self._place(found, who, stage)
                series.longest_ns[number] = max(series.longest_ns[number], values[2 * stage + 1])
        return {key: series.longest_ns for key, series in found.items()}

    def cells(self, part: Part, rows: int) -> "Cells":
        """Whole latencies per tick, vCPU and mode. rows: about so many vCPUs, to keep the memory in bounds."""
        step = max(_MAX_GROUPS // (max(rows, 1) * _BUCKETS_USED), 1)
        parts = [self._numpy(
            f"SELECT greatest(least((begin_ns - $from_ns) // $tick_ns, {part.ticks - 1}), 0) AS tick, "
            f"who >> 3 AS vcpu, who & 7 AS mode, {bucket_sql(LATENCY)} AS bucket, count(*) AS n "
            f"FROM {_FAULTS} GROUP BY ALL ORDER BY ALL",
            part,
            (part.from_ns + first * part.tick_ns if first else part.bounds_ns[0],
             part.from_ns + (first + step) * part.tick_ns if first + step < part.ticks else part.bounds_ns[1]),
        ) for first in range(0, part.ticks, step)]  # fmt: skip
        columns = {name: np.concatenate([one[name] for one in parts]).astype(np.int32) for name in parts[0]}
        keys, codes = np.unique(columns["vcpu"], return_inverse=True)
        return Cells([self._key(int(key)) for key in keys], columns["tick"], codes.reshape(-1).astype(np.int32),
                     columns["mode"], columns["bucket"], columns["n"])  # fmt: skip

    def stall(self, part: Part) -> dict[Key, npt.NDArray[np.int64]]:
        """Time that each vCPU stood still in each tick, (ticks,) ns; faults that began before the part count, too.

        Async faults are not in it: their records do not say how long the vCPU stood still.
        """
        found: dict[Key, npt.NDArray[np.int64]] = {}
        clipped = (
            f"SELECT who >> 3 AS vcpu, greatest(begin_ns, $from_ns) - $from_ns AS b, "
            f"least(begin_ns + {LATENCY}, $to_ns) - $from_ns AS e FROM {_NAMED} "
            f"WHERE waiter = 'vcpu' AND begin_ns < $to_ns AND begin_ns + {LATENCY} > $from_ns AND who IS NOT NULL"
        )
        query = (
            "SELECT vcpu, b // $tick_ns AS first, e // $tick_ns AS last, count(*), sum(b), sum(e) "
            f"FROM ({clipped}) GROUP BY vcpu, first, last"
        )
        for vcpu, first, last, count, begins, ends in self._rows(query, part):
            key = self._key(vcpu)
            # One more: what ends with the part ends where a further tick would begin.
            ticks = found.setdefault(key, np.zeros(part.ticks + 1, np.int64))
            if first == last:
                ticks[first] += ends - begins
            else:
                ticks[first] += count * (first + 1) * part.tick_ns - begins
                ticks[first + 1 : last] += count * part.tick_ns
                ticks[last] += ends - count * last * part.tick_ns
        return {key: ticks[:-1] for key, ticks in found.items()}

    def slowest(self, part: Part, vm: str | None, count: int) -> list[dict[str, Any]]:
        """The slowest faults that vCPUs waited for, async ones, too; longest first, columns by name."""
        test = "" if vm is None else " AND vm = $vm"
        return self._engine.rows(
            f"SELECT *, {LATENCY} AS latency_ns FROM ({FAULTS_SQL.replace('?', '$path')}) "
            f"WHERE begin_ns >= $first_ns AND begin_ns < $last_ns AND vcpu >= 0{test} "
            "ORDER BY latency_ns DESC, begin_ns LIMIT $n",
            {"path": self._path, "first_ns": part.bounds_ns[0], "last_ns": part.bounds_ns[1], "n": count}
            | ({} if vm is None else {"vm": vm}),
        )

    def _lengths(self, part: Part) -> Iterable[tuple[Any, ...]]:
        """who, seen, then sum and longest of the whole and of each stage."""
        lengths = (LATENCY, *STAGE_COLUMNS)
        sums = ", ".join(f"sum({length}), max({length})" for length in lengths)
        return self._rows(f"SELECT who, seen, {sums} FROM {_FAULTS} GROUP BY who, seen", part)

    def _key(self, vcpu: int) -> Key:
        return self._vms[vcpu // _VCPUS - 1], vcpu % _VCPUS - 1

    def _place(self, found: dict[Key, Series], who: int, stage: int) -> tuple[Series, int]:
        """Series of a vCPU, and the number of the one that a mode's whole (stage 0) or stage goes to."""
        key, mode = self._key(who >> 3), who & 7
        if key not in found:
            found[key] = Series.empty()
        return found[key], mode if stage == 0 else _SERIES_OF[MODES[mode], stage]

    def _rows(self, query: str, part: Part) -> Iterable[tuple[Any, ...]]:
        with self._engine.cursor() as cursor:
            return list(cursor.execute(query, self._values(query, part, part.bounds_ns)).fetchall())

    def _numpy(self, query: str, part: Part, bounds_ns: tuple[int, int] | None = None) -> dict[str, Any]:
        with self._engine.cursor() as cursor:
            return cursor.execute(query, self._values(query, part, bounds_ns or part.bounds_ns)).fetchnumpy()

    def _values(self, query: str, part: Part, bounds_ns: tuple[int, int]) -> dict[str, Any]:
        values: dict[str, Any] = {"path": self._path, "vms": self._vms, "modes": list(MODES)}
        values |= {"from_ns": part.from_ns, "to_ns": part.to_ns, "tick_ns": part.tick_ns}
        values |= {"first_ns": bounds_ns[0], "last_ns": bounds_ns[1]}
        return {name: value for name, value in values.items() if f"${name}" in query}


@dataclass(frozen=True)
class Cells:
    """Sparse histograms, ascending by tick: vcpu (n,) index in keys, tick, mode, bucket, count (n,), int32."""

    keys: list[Key]
    tick: npt.NDArray[np.int32]
    vcpu: npt.NDArray[np.int32]
    mode: npt.NDArray[np.int32]
    bucket: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]


# who = (vm * 2^16 + vcpu + 1) * 8 + mode; vm counts from 1. A name is looked up once per page of the file, not per row.
_NAMED: Final = (
    "(SELECT *, (list_position($vms::VARCHAR[], vm) * 65536 + vcpu + 1) * 8 "
    "+ list_position($modes::VARCHAR[], mode) - 1 AS who FROM read_parquet($path))"
)
_FAULTS: Final = f"(FROM {_NAMED} WHERE begin_ns >= $first_ns AND begin_ns < $last_ns AND who IS NOT NULL)"


def _stages_seen(mode: str, seen: int) -> list[int]:
    """Stages, 1 to 5, of which both ends were seen, as stages_seen() of bpf/account.h has it."""
    exits, read, fill = mode in _EXIT_MODES, seen & SEEN_READ, seen & SEEN_FILL
    counted = (seen & SEEN_ACCESS, read and not exits, read or exits, fill, fill)
    return [stage for stage, one in enumerate(counted, 1) if one]


def _counted() -> tuple[str, ...]:
    """SQL of the same, for each stage."""
    exits = f"who & 7 IN ({MODE_EXIT}, {MODE_MEMORY_FAULT})"
    read, fill = f"seen & {SEEN_READ} != 0", f"seen & {SEEN_FILL} != 0"
    return f"seen & {SEEN_ACCESS} != 0", f"{read} AND NOT {exits}", f"({read} OR {exits})", fill, fill


def _series_of() -> dict[tuple[str, int], int]:
    """(mode, stage 1 to 5) -> number of its series."""
    families = {"uffd": "uffd", "kernel": "uffd", "exit": "exit", "memory_fault": "exit", "async": "async"}
    found: dict[tuple[str, int], int] = {}
    for mode, family in families.items():
        first = len(MODES) + [name for name, _ in STAGE_SERIES].index(family)
        found |= {(mode, stage): first + i for i, stage in enumerate((1, 3, 4, 5) if family == "exit" else range(1, 6))}
    return found


_SERIES_OF: Final = _series_of()
