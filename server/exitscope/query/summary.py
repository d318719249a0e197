"""A recording, or a part of it, in the shapes of the live API; and columns of time for its charts."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import UPPER_NS, bucket_of
from exitscope_probes.records import MODES, SERIES, STAGE_FAMILIES, STAGE_SERIES

from ..hardware import State, state_of
from ..latency import EMPTY, summarize, summarize_one
from ..lengths import stages_of
from ..migrations.standstill import away_from_ns
from ..modes import USER_MODES
from ..recordings.columns import OTHER_THREADS
from ..recordings.damaged import read_from
from ..recordings.file import RecordingFile
from ..recordings.meta import RecordedVm, RecordingMeta
from . import totals as kernel
from .engine import Engine
from .filled import fills
from .indexed import questions
from .scan import Cells, Key, Part, Scan, Series
from .ticks import tick_columns

SLOWEST: Final = 20
_STAGES: Final = tuple(dict.fromkeys(stage for _, stage in STAGE_SERIES))


def summary(
    engine: Engine,
    recording: RecordingFile,
    vm: str | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
) -> dict[str, Any]:
    """Everything that happened to one VM, or to all, in [from_ns, to_ns); as models.RecordingSummary.

    Counts, sums, stall and exits of a whole recording are the kernel's, and so are percentiles if it has kept
    them; those of a part come from the records, with exits and fills from what the kernel counted per second. Raises
    UserError if the file is damaged.
    """
    with read_from(recording.path):
        return _summary(engine, recording, vm, from_ns, to_ns)


def _summary(
    engine: Engine, recording: RecordingFile, vm: str | None, from_ns: int | None, to_ns: int | None
) -> dict[str, Any]:
    meta = recording.meta
    begin_ns, end_ns = _clamped(meta.started_ns, max(meta.ended_ns, meta.started_ns + 1), from_ns, to_ns)
    whole = begin_ns == meta.started_ns and end_ns >= meta.ended_ns
    exact = kernel.whole(meta) if whole else None
    # A recording has faults that began before it did, and may have one that began the moment it ended.
    scan, part = questions(engine, recording, begin_ns, end_ns, (begin_ns == meta.started_ns, end_ns >= meta.ended_ns))
    known = exact or kernel.part(recording, begin_ns, end_ns)
    counted = known or kernel.Totals()
    vms = [one for one in meta.vms if vm in (None, one.id)]

    def by_records() -> tuple[Any, ...]:
        return scan.stall(part), scan.most_at_once(part, vm), scan.gpa(part, vm), scan.slowest(part, vm, SLOWEST)

    with ThreadPoolExecutor(1) as beside:
        # With a digest, DuckDB reads little meanwhile; without, two queries at once would need too much of its memory.
        others = beside.submit(by_records) if scan.indexed else None
        cells = scan.cells(part, sum(len(one.vcpus) + 1 for one in meta.vms))
        series = _series(recording, scan, part, cells, counted, exact is not None)
    stall, most, gpa, slowest = others.result() if others else by_records()
    vcpus = _vcpus(vms, series)
    made = _Summary(part, series, counted, exact is not None)
    rows = made.vcpus(vcpus, stall)
    keys = [(one.id, number) for one, number in vcpus]
    filled = fills(recording, part, vm, cells.faults(part.ticks, vm))
    here = _here(meta, part, keys)
    ticks = tick_columns(cells, part, keys, stall, _longest(series, keys), most, here, filled, gpa)
    return {
        "id": meta.id,
        "name": meta.name,
        "started_ns": meta.started_ns,
        "ended_ns": meta.ended_ns,
        "started_wall_ms": meta.started_wall_ms,
        "from_ns": begin_ns,
        "to_ns": end_ns,
        "window_ns": end_ns - begin_ns,
        "source": "records" if exact is None else "kernel totals",
        "vm": vm,
        "vms": [_vm(one, rows) for one in vms],
        "modes": made.modes(keys),
        "other": made.latency([(one.id, OTHER_THREADS) for one in vms], list(range(USER_MODES))),
        "stages": made.stages(keys),
        "vcpus": rows,
        "exits": made.exits(keys) if known else None,
        "hardware": made.hardware(keys) if known else None,
        "hardware_state": hardware_state(meta, counted),
        "fills": made.fills([one.id for one in vms]) if known else None,
        "slowest": [slow_fault(fault) for fault in slowest],
        "loss": meta.loss,
        "complete": meta.complete,
        "note": meta.note,
        "tick_ns": part.tick_ns,
        "ticks": ticks,
        "stall_over_time": [
            {"from_ns": from_ns, "stall": tick["stall"]}
            for from_ns, tick in zip(part.edges_ns.tolist(), ticks, strict=False)
        ],
    }


def _clamped(started_ns: int, ended_ns: int, from_ns: int | None, to_ns: int | None) -> tuple[int, int]:
    """The part asked for, within the recording, never empty."""
    begin = started_ns if from_ns is None else min(max(from_ns, started_ns), ended_ns - 1)
    end = ended_ns if to_ns is None else max(min(to_ns, ended_ns), begin + 1)
    return begin, end


def _here(meta: RecordingMeta, part: Part, keys: list[Key]) -> npt.NDArray[np.bool_]:
    """Which vCPUs are not those of a VM that had migrated away by the end of a tick, (keys, ticks); all if all had."""
    away = {one.vm: moment for one in meta.migrations if (moment := away_from_ns(one)) is not None}
    since_ns = np.array([away.get(vm_id, np.iinfo(np.int64).max) for vm_id, _ in keys], np.int64)
    there = since_ns[:, None] >= part.edges_ns[None, 1:]
    here: npt.NDArray[np.bool_] = there | ~there.any(axis=0)
    return here


def _series(
    recording: RecordingFile, scan: Scan, part: Part, cells: Cells, counted: kernel.Totals, exact: bool
) -> dict[Key, Series]:
    """Histograms of every vCPU, the kernel's own if they are of the same time."""
    histograms = recording.histograms() if exact else {}
    if not histograms:
        found = scan.series(part, cells)
        for key, totals in counted.vcpus.items():  # faults that the kernel solves have no records
            mine = found.setdefault(key, Series.empty())
            mine.histograms[MODES.index("kernel")] += totals.kernel
            mine.sums_ns[MODES.index("kernel")] += totals.sums_ns[MODES.index("kernel")]
        return found
    longest = scan.longest(part)
    none = np.zeros(SERIES, np.int64)
    return {key: Series(own, none, longest.get(key, none)) for key, own in histograms.items()}


def _vcpus(vms: list[RecordedVm], series: dict[Key, Series]) -> list[tuple[RecordedVm, int]]:
    """Every vCPU that the recording names or has faults of, VM by VM."""
    found = []
    for vm in vms:
        named = {vcpu.vcpu for vcpu in vm.vcpus} | {number for vm_id, number in series if vm_id == vm.id}
        found += [(vm, number) for number in sorted(named - {OTHER_THREADS})]
    return found


_NONE: Final = Series.empty()


class _Summary:
    """Figures of some vCPUs, out of histograms and totals."""

    def __init__(self, part: Part, series: dict[Key, Series], counted: kernel.Totals, exact: bool) -> None:
        self._part = part
        self._series = series
        self._counted = counted
        self._exact = exact

    def latency(self, keys: list[Key], numbers: list[int]) -> dict[str, int]:
        """Distribution over some vCPUs and series together."""
        one = [self._gather(key, numbers) for key in keys]
        if not one:
            return dict(EMPTY)
        cells, counts, sums_ns, longest_ns = zip(*one, strict=True)
        histogram = np.sum(cells, axis=0)
        return summarize_one(histogram, sum(counts), sum(sums_ns), _believed(max(longest_ns), histogram))

    def latencies(self, keys: list[Key], numbers: list[int]) -> list[dict[str, int]]:
        """The same of each vCPU."""
        if not keys:
            return []
        cells, counts, sums_ns, longest_ns = zip(*(self._gather(key, numbers) for key in keys), strict=True)
        longest = [_believed(*one) for one in zip(longest_ns, cells, strict=True)]
        return summarize(np.stack(cells), np.array(counts), np.array(sums_ns), np.array(longest))

    def count(self, key: Key, number: int) -> int:
        """Faults of one vCPU and series."""
        return self._gather(key, [number])[1]

    def _gather(self, key: Key, numbers: list[int]) -> tuple[npt.NDArray[np.int64], int, int, int]:
        """Histogram (BUCKETS,), count, sum and longest in ns: count and sum from the kernel if they are exact."""
        series = self._series.get(key, _NONE)
        totals = self._counted.vcpus.get(key) if self._exact else None
        cells = series.histograms[numbers].sum(axis=0)
        count = int(cells.sum() if totals is None else totals.counts[numbers].sum())
        sums_ns = series.sums_ns if totals is None else totals.sums_ns
        return cells, count, int(sums_ns[numbers].sum()), int(series.longest_ns[numbers].max())

    def rate_per_s(self, count: int) -> float:
        return round(count * 1e9 / (self._part.to_ns - self._part.from_ns), 2)

    def modes(self, keys: list[Key]) -> dict[str, dict[str, int | float]]:
        """As in a live frame: modes without a fault are left out."""
        found = {mode: self.latency(keys, [number]) for number, mode in enumerate(MODES)}
        return {
            mode: {"rate_per_s": self.rate_per_s(one["count"]), **one} for mode, one in found.items() if one["count"]
        }

    def stages(self, keys: list[Key]) -> dict[str, dict[str, dict[str, int]]]:
        """Family -> stage -> latency; families without a fault are left out."""
        found: dict[str, dict[str, dict[str, int]]] = {family: {} for family in STAGE_FAMILIES}
        for number, (family, stage) in enumerate(STAGE_SERIES, len(MODES)):
            found[family][stage] = self.latency(keys, [number])
        return {family: one for family, one in found.items() if any(stage["count"] for stage in one.values())}

    def vcpus(
        self, vcpus: list[tuple[RecordedVm, int]], stall: dict[Key, npt.NDArray[np.int64]]
    ) -> list[dict[str, Any]]:
        """The rows of /vcpus."""
        keys = [(vm.id, number) for vm, number in vcpus]
        latencies = self.latencies(keys, list(range(USER_MODES)))
        numbers = {
            stage: [n for n, (_, name) in enumerate(STAGE_SERIES, len(MODES)) if name == stage] for stage in _STAGES
        }
        stages = {stage: self.latencies(keys, several) for stage, several in numbers.items()}
        rows = []
        for i, (vm, number) in enumerate(vcpus):
            named = next((vcpu for vcpu in vm.vcpus if vcpu.vcpu == number), None)
            rows.append({
                "vm": vm.id,
                "vm_name": vm.name or vm.id,
                "vcpu": number,
                "tid": named.tid if named else 0,
                "name": (named and named.name) or f"vCPU {number}",
                "faults": {mode: self.count(keys[i], code) for code, mode in enumerate(MODES)},
                "rate_per_s": self.rate_per_s(latencies[i]["count"]),
                "latency_ns": latencies[i],
                "stages_ns": {stage: several[i] for stage, several in stages.items()},
                "stall": self._stall(keys[i], stall),
                "open_since_ns": 0,
                "exits": self.exits([keys[i]]),
                "hardware_exits": {reason: one["count"] for reason, one in self.hardware([keys[i]]).items()},
            })  # fmt: skip
        return rows

    def _stall(self, key: Key, stall: dict[Key, npt.NDArray[np.int64]]) -> float:
        """Share of the part, 0 to 1."""
        totals = self._counted.vcpus.get(key) if self._exact else None
        stall_ns = totals.stall_ns if totals else int(stall[key].sum()) if key in stall else 0
        return round(min(stall_ns / (self._part.to_ns - self._part.from_ns), 1.0), 4)

    def exits(self, keys: list[Key]) -> dict[str, int]:
        """Exit reason -> count."""
        found: Counter[str] = Counter()
        for key in keys:
            if key in self._counted.vcpus:
                found.update(self._counted.vcpus[key].exits)
        return dict(found)

    def hardware(self, keys: list[Key]) -> dict[str, dict[str, int | None]]:
        """As in a live frame, but the longest of a reason is not recorded."""
        vcpus = [self._counted.vcpus[key] for key in keys if key in self._counted.vcpus]
        counts = sum((vcpu.hardware for vcpu in vcpus), Counter[str]())
        sums_ns = sum((vcpu.hardware_ns for vcpu in vcpus), Counter[str]())
        return {reason: {"count": n, "sum_ns": sums_ns[reason], "max_ns": None} for reason, n in counts.items()}

    def fills(self, vms: list[str]) -> dict[str, Any]:
        """As in a live frame."""
        found = [self._counted.vms[vm] for vm in vms if vm in self._counted.vms]
        return {
            "demand": dict(sum((one.demand for one in found), Counter())),
            "background": dict(sum((one.background for one in found), Counter())),
            "failed": sum(one.failed for one in found),
        }


def hardware_state(meta: RecordingMeta, counted: kernel.Totals) -> State:
    """Whether the host showed hardware exits, as far as the recording knows."""
    return state_of(meta.hooks, int(any(vcpu.hardware for vcpu in counted.vcpus.values())))


def _believed(longest_ns: int, histogram: npt.NDArray[np.int64]) -> int:
    """The longest among the records, or 0 (not known) if the kernel counted a longer one whose record was lost."""
    top = int(np.flatnonzero(histogram)[-1]) if histogram.any() else 0
    return longest_ns if bucket_of(np.array([longest_ns], np.uint64))[0] >= top else 0


def _longest(series: dict[Key, Series], keys: list[Key]) -> npt.NDArray[np.int64]:
    """Longest fault of each mode, (modes,) ns; a bucket's end if it has no record."""
    found = np.zeros(len(MODES), np.int64)
    for key in keys:
        if key in series:
            found = np.maximum(found, series[key].longest_ns[: len(MODES)])
    return np.where(found > 0, found, UPPER_NS[-1].astype(np.int64))


def _vm(vm: RecordedVm, rows: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [row for row in rows if row["vm"] == vm.id]
    return {
        "id": vm.id,
        "pid": vm.pid,
        "name": vm.name or vm.id,
        "vmm": vm.vmm,
        "uuid": vm.uuid,
        "domain": vm.domain,
        "state": "running",
        "vcpus": len(mine),
        "faults": {mode: sum(row["faults"][mode] for row in mine) for mode in MODES},
    }


def slow_fault(fault: dict[str, Any]) -> dict[str, Any]:
    """One of the slowest, as a live frame has it, and what else is known of it; as models.SlowFault."""
    kept = ("vm", "vcpu", "mode", "latency_ns", "resolver", "handler_tid", "tid", "access", "presence", "memslot")
    return {
        "time_ns": fault["begin_ns"],
        **{name: fault[name] for name in kept},
        "stages_ns": {name: fault[column] for name, column in stages_of(fault["mode"])},
        **{name: None if fault[name] is None else f"{fault[name]:#x}" for name in ("gpa", "hva")},
    }
