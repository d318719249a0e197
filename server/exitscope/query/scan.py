"""What the faults of a part of a recording come down to: the histograms and columns of time that live tracing keeps."""

from collections.abc import Iterable, Iterator
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

from ..lengths import STAGE_COLUMNS
from ..modes import EXIT_MODES
from ..recordings.columns import FAULTS_SQL, TABLE_SQL, literal
from ..recordings.file import RecordingFile
from .engine import Engine
from .faults import LATENCY

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
    """Faults that began in [from_ns, to_ns), in ticks of tick_ns; the first may have begun cut_ns before from_ns.

    earlier, later: also those that began before or after, as far as there are any; they go to the outermost ticks.
    """

    from_ns: int
    to_ns: int
    tick_ns: int
    earlier: bool = False
    later: bool = False
    cut_ns: int = 0

    @property
    def bounds_ns(self) -> tuple[int, int]:
        """Begins of the faults that belong to it: the first one, and the one that is too late."""
        return 0 if self.earlier else self.from_ns, _NEVER_NS if self.later else self.to_ns

    @property
    def origin_ns(self) -> int:
        """Where the first tick would begin if it were not cut."""
        return self.from_ns - self.cut_ns

    @property
    def ticks(self) -> int:
        """Number of ticks; the first and the last one may be cut."""
        return max(-(-(self.to_ns - self.origin_ns) // self.tick_ns), 1)

    @property
    def edges_ns(self) -> npt.NDArray[np.int64]:
        """Where the ticks begin, and where the last one ends, (ticks + 1,)."""
        edges: npt.NDArray[np.int64] = self.origin_ns + np.arange(self.ticks + 1, dtype=np.int64) * self.tick_ns
        return np.clip(edges, self.from_ns, self.to_ns)

    def within(self, from_ns: int, to_ns: int) -> "Part":
        """A part of it; its ticks have the same numbers."""
        outermost = self.earlier and from_ns == self.from_ns, self.later and to_ns == self.to_ns
        return Part(from_ns, to_ns, self.tick_ns, *outermost, from_ns - self.origin_ns)


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
        self._recording = recording
        self._path = literal(recording.path)
        self._vms = [vm.id for vm in recording.meta.vms]

    def series(self, part: Part, cells: "Cells") -> dict[Key, Series]:
        """Every series of every vCPU that has a fault. cells: those of the part, they have the whole latencies."""
        found = {key: Series.empty() for key in cells.keys}
        for i, key in enumerate(cells.keys):
            mine = cells.vcpu == i
            flat = cells.mode[mine].astype(np.int64) * BUCKETS + cells.bucket[mine]
            counts = np.bincount(flat, cells.count[mine], SERIES * BUCKETS).astype(np.int64)
            found[key].histograms[:] += counts.reshape(SERIES, BUCKETS)
        for who, stages, bucket, count in self._stages(part):
            vcpus, codes = np.unique(who >> 3, return_inverse=True)
            flat = (codes * SERIES + _SERIES_TABLE[who & 7, stages]) * BUCKETS + bucket
            counts = np.bincount(flat, count, len(vcpus) * SERIES * BUCKETS).astype(np.int64)
            for vcpu, mine in zip(vcpus.tolist(), counts.reshape(-1, SERIES, BUCKETS), strict=True):
                found.setdefault(self._key(vcpu), Series.empty()).histograms[:] += mine
        for waiter, stage, total, longest in self._lengths(part):
            series = found.setdefault(self._key(waiter >> 3), Series.empty())
            number = _SERIES_TABLE[waiter & 7, stage]
            series.sums_ns[number] += total
            series.longest_ns[number] = max(series.longest_ns[number], longest)
        return found

    def longest(self, part: Part) -> dict[Key, npt.NDArray[np.int64]]:
        """Longest of each series of every vCPU that has a fault, (SERIES,) ns."""
        found: dict[Key, npt.NDArray[np.int64]] = {}
        for who, stage, _, longest in self._lengths(part):
            mine = found.setdefault(self._key(who >> 3), np.zeros(SERIES, np.int64))
            number = _SERIES_TABLE[who & 7, stage]
            mine[number] = max(mine[number], longest)
        return found

    def cells(self, part: Part, rows: int) -> "Cells":
        """Whole latencies per tick, vCPU and mode. rows: about so many vCPUs, to keep the memory in bounds."""
        step = max(_MAX_GROUPS // (max(rows, 1) * _BUCKETS_USED), 1)
        parts = [self._numpy(
            f"SELECT greatest(least((begin_ns - $origin_ns) // $tick_ns, {part.ticks - 1}), 0) AS tick, "
            f"who >> 3 AS vcpu, who & 7 AS mode, {bucket_sql(LATENCY)} AS bucket, count(*) AS n "
            f"FROM {_FAULTS} GROUP BY ALL ORDER BY ALL",
            part,
            (part.origin_ns + first * part.tick_ns if first else part.bounds_ns[0],
             part.origin_ns + (first + step) * part.tick_ns if first + step < part.ticks else part.bounds_ns[1]),
        ) for first in range(0, part.ticks, step)]  # fmt: skip
        columns = {name: np.concatenate([one[name] for one in parts]).astype(np.int32) for name in parts[0]}
        keys, codes = np.unique(columns["vcpu"], return_inverse=True)
        return Cells([self._key(int(key)) for key in keys], columns["tick"], codes.reshape(-1).astype(np.int32),
                     columns["mode"], columns["bucket"], columns["n"])  # fmt: skip

    def stalls(self, part: Part, since_ns: int = 0) -> dict[Key, npt.NDArray[np.int64]]:
        """Time that each vCPU stood still in each tick, (ticks,) ns; faults that began before the part count, too.

        since_ns: none that began earlier lasts into the part. Async faults are not in it: their records do not say how
        long the vCPU stood still.
        """
        found: dict[Key, npt.NDArray[np.int64]] = {}
        clipped = (
            f"SELECT who >> 3 AS vcpu, greatest(begin_ns, $from_ns) - $origin_ns AS b, "
            f"least(begin_ns + {LATENCY}, $to_ns) - $origin_ns AS e FROM {_NAMED} "
            f"WHERE waiter = 'vcpu' AND begin_ns >= {since_ns} AND begin_ns < $to_ns "
            f"AND begin_ns + {LATENCY} > $from_ns AND who IS NOT NULL"
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
            f"SELECT *, {LATENCY} AS latency_ns FROM ({FAULTS_SQL}) "
            f"WHERE begin_ns >= $first_ns AND begin_ns < $last_ns AND vcpu >= 0{test} "
            "ORDER BY latency_ns DESC, begin_ns LIMIT $n",
            {"path": self._path, "first_ns": part.bounds_ns[0], "last_ns": part.bounds_ns[1], "n": count}
            | ({} if vm is None else {"vm": vm}),
        )

    def _stages(self, part: Part) -> Iterator[tuple[npt.NDArray[np.int64], ...]]:
        """who, stage 1 to 5, bucket and count of the stages that were seen, (n,) each."""
        stages = enumerate(zip(STAGE_COLUMNS, _counted(), strict=True), 1)
        keys = ", ".join(f"CASE WHEN {seen} THEN who * 1024 + {bucket_sql(length)} END AS k{i}"
                         for i, (length, seen) in stages)  # fmt: skip
        names = [f"k{i}" for i in range(1, len(STAGE_COLUMNS) + 1)]
        found = self._numpy(
            f"SELECT coalesce({', '.join(names)}) AS key, grouping({', '.join(names)}) AS others, count(*) AS n "
            f"FROM (SELECT {keys} FROM {_FAULTS}) GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in names)}) "
            "HAVING key IS NOT NULL",
            part,
        )
        key, others, count = (found[name].astype(np.int64) for name in ("key", "others", "n"))
        # A bit for each key that is not grouped by, the first one's is the highest.
        grouped = ~others & (1 << len(names)) - 1
        yield key >> 10, len(names) - np.frexp(grouped)[1].astype(np.int64) + 1, key & 1023, count

    def _lengths(self, part: Part) -> Iterator[tuple[int, int, int, int]]:
        """who, stage (0: the whole), sum and longest in ns."""
        lengths = (LATENCY, *STAGE_COLUMNS)
        sums = ", ".join(f"sum({length}), max({length})" for length in lengths)
        for who, seen, *values in self._rows(f"SELECT who, seen, {sums} FROM {_FAULTS} GROUP BY who, seen", part):
            for stage in (0, *_stages_seen(MODES[who & 7], seen)):
                yield who, stage, int(values[2 * stage]), int(values[2 * stage + 1])

    def _key(self, vcpu: int) -> Key:
        return self._vms[vcpu // _VCPUS - 1], vcpu % _VCPUS - 1

    def _rows(self, query: str, part: Part) -> Iterable[tuple[Any, ...]]:
        with self._engine.cursor() as cursor:
            return list(cursor.execute(query, self._values(query, part, part.bounds_ns)).fetchall())

    def _numpy(self, query: str, part: Part, bounds_ns: tuple[int, int] | None = None) -> dict[str, Any]:
        with self._engine.cursor() as cursor:
            return cursor.execute(query, self._values(query, part, bounds_ns or part.bounds_ns)).fetchnumpy()

    def _values(self, query: str, part: Part, bounds_ns: tuple[int, int]) -> dict[str, Any]:
        values: dict[str, Any] = {"path": self._path, "vms": self._vms, "modes": list(MODES)}
        values |= {"from_ns": part.from_ns, "to_ns": part.to_ns, "tick_ns": part.tick_ns, "origin_ns": part.origin_ns}
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

    def faults(self, ticks: int, vm: str | None) -> npt.NDArray[np.int64]:
        """How many there are in each tick, (ticks,), of one VM or of all."""
        mine = np.array([vm in (None, key[0]) for key in self.keys] or [False])[self.vcpu]
        return np.bincount(self.tick[mine], self.count[mine], ticks).astype(np.int64)


# who = (vm * 2^16 + vcpu + 1) * 8 + mode; vm counts from 1. A name is looked up once per page of the file, not per row.
_NAMED: Final = (
    "(SELECT *, (list_position($vms::VARCHAR[], vm) * 65536 + vcpu + 1) * 8 "
    f"+ list_position($modes::VARCHAR[], mode) - 1 AS who FROM {TABLE_SQL})"
)
_FAULTS: Final = f"(FROM {_NAMED} WHERE begin_ns >= $first_ns AND begin_ns < $last_ns AND who IS NOT NULL)"


def _stages_seen(mode: str, seen: int) -> list[int]:
    """Stages, 1 to 5, of which both ends were seen, as stages_seen() of bpf/account.h has it."""
    exits, read, fill = mode in EXIT_MODES, seen & SEEN_READ, seen & SEEN_FILL
    counted = (seen & SEEN_ACCESS, read and not exits, read or exits, fill, fill)
    return [stage for stage, one in enumerate(counted, 1) if one]


def _counted() -> tuple[str, ...]:
    """SQL of the same, for each stage."""
    exits = f"who & 7 IN ({MODE_EXIT}, {MODE_MEMORY_FAULT})"
    read, fill = f"seen & {SEEN_READ} != 0", f"seen & {SEEN_FILL} != 0"
    return f"seen & {SEEN_ACCESS} != 0", f"{read} AND NOT {exits}", f"({read} OR {exits})", fill, fill


def _series_table() -> npt.NDArray[np.int64]:
    """(mode, stage) -> number of the series; stage 0 is the whole."""
    families = {"uffd": "uffd", "kernel": "uffd", "exit": "exit", "memory_fault": "exit", "async": "async"}
    table = np.zeros((8, len(STAGE_COLUMNS) + 1), np.int64)
    for mode, family in families.items():
        first = len(MODES) + [name for name, _ in STAGE_SERIES].index(family)
        table[MODES.index(mode), 0] = MODES.index(mode)
        for i, stage in enumerate((1, 3, 4, 5) if family == "exit" else range(1, 6)):
            table[MODES.index(mode), stage] = first + i
    return table


_SERIES_TABLE: Final = _series_table()
