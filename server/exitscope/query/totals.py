"""What the kernel counted, exactly, records or not: over a whole recording, or second by second over a part of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.exit_reasons import name_of
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import EXIT_NAMES, FILLS, MODES, SERIES, STAGE_SERIES

from ..recordings import counters as columns
from ..recordings.file import RecordingFile
from ..recordings.meta import RecordingMeta, VcpuTotals, VmTotals
from .scan import Key

SERIES_NAMES = (*MODES, *(f"{family}.{stage}" for family, stage in STAGE_SERIES))


@dataclass
class VcpuCounts:
    """counts, sums_ns: (SERIES,) int64; kernel: (BUCKETS,) histogram of mode kernel, which has no records."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(SERIES, np.int64))
    sums_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(SERIES, np.int64))
    stall_ns: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    hardware: Counter[str] = field(default_factory=Counter)
    hardware_ns: Counter[str] = field(default_factory=Counter)
    kernel: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BUCKETS, np.int64))


@dataclass
class VmCounts:
    """Fills: resolver -> count."""

    demand: Counter[str] = field(default_factory=Counter)
    background: Counter[str] = field(default_factory=Counter)
    failed: int = 0


@dataclass
class Totals:
    """By vCPU and by VM; empty where nothing is known."""

    vcpus: dict[Key, VcpuCounts] = field(default_factory=dict)
    vms: dict[str, VmCounts] = field(default_factory=dict)


def whole(meta: RecordingMeta) -> Totals | None:
    """Over the whole recording: the totals at its end less those at its begin. None if it has none."""
    if not meta.totals.stop.vms:
        return None
    found = Totals()
    for vm_id, stop in meta.totals.stop.vms.items():
        start = meta.totals.start.vms.get(vm_id, VmTotals())
        before = {vcpu.vcpu: vcpu for vcpu in start.vcpus}
        found.vms[vm_id] = VmCounts(
            Counter(stop.fills_demand) - Counter(start.fills_demand),
            Counter(stop.fills_background) - Counter(start.fills_background),
            max(stop.fills_failed - start.fills_failed, 0),
        )
        for vcpu in stop.vcpus:
            first = before.get(vcpu.vcpu, VcpuTotals(vcpu=vcpu.vcpu))
            found.vcpus[vm_id, vcpu.vcpu] = VcpuCounts(
                np.maximum(_counts(vcpu) - _counts(first), 0),
                np.maximum(_sums(vcpu) - _sums(first), 0),
                max(vcpu.stall_ns - first.stall_ns, 0),
                Counter(vcpu.exits) - Counter(first.exits),
                _hardware(vcpu, 0) - _hardware(first, 0),
                _hardware(vcpu, 1) - _hardware(first, 1),
            )
    return found


def part(recording: RecordingFile, from_ns: int, to_ns: int) -> Totals | None:
    """Over the intervals (a second each, or more in long recordings) whose middle is in [from_ns, to_ns).

    None if the recording does not have what was counted meanwhile.
    """
    found = Totals()
    log = recording.counters()
    if log is None:
        return None
    middle_ns = log.started_ns + np.arange(len(log.edges) - 1) * log.interval_ns + log.interval_ns // 2
    first, last = np.searchsorted(middle_ns, (from_ns, to_ns))
    entries = log.entries[log.edges[first] : log.edges[last]]
    for number, owner in enumerate(log.owners):
        mine = entries[entries["owner"] == number]
        grown = np.zeros(columns.WIDTH, np.int64)
        np.add.at(grown, mine["column"], mine["delta"])
        if owner.vcpu is None:
            vm = found.vms.setdefault(owner.vm, VmCounts())
            vm.demand.update(_named(FILLS, grown[columns.DEMAND]))
            vm.background.update(_named(FILLS, grown[columns.BACKGROUND]))
            vm.failed += int(grown[columns.FAILED])
        else:
            vcpu = found.vcpus.setdefault((owner.vm, owner.vcpu), VcpuCounts())
            vcpu.counts += grown[columns.COUNTS]
            vcpu.sums_ns += grown[columns.SUMS_NS]
            vcpu.stall_ns += int(grown[columns.STALL_NS])
            vcpu.exits.update(_named(EXIT_NAMES, grown[columns.EXITS]))
            counts, sums_ns = grown[columns.HARDWARE_COUNTS], grown[columns.HARDWARE_SUMS_NS]
            for cell in np.flatnonzero(counts).tolist():
                vcpu.hardware[name_of(log.isa, cell)] += int(counts[cell])
                vcpu.hardware_ns[name_of(log.isa, cell)] += int(sums_ns[cell])
            vcpu.kernel += grown[columns.KERNEL_CELLS]
    return found


def _hardware(totals: VcpuTotals, place: int) -> Counter[str]:
    """Reason -> count (place 0) or time in ns (place 1)."""
    return Counter({name: values[place] for name, values in totals.hardware.items() if len(values) > place})


def _counts(totals: VcpuTotals) -> npt.NDArray[np.int64]:
    stages = {name: value[0] for name, value in totals.stages.items() if value}
    return np.array([(totals.faults | stages).get(name, 0) for name in SERIES_NAMES], np.int64)


def _sums(totals: VcpuTotals) -> npt.NDArray[np.int64]:
    stages = {name: value[1] for name, value in totals.stages.items() if len(value) > 1}
    return np.array([(totals.sum_ns | stages).get(name, 0) for name in SERIES_NAMES], np.int64)


def _named(names: tuple[str, ...], counts: npt.NDArray[Any]) -> dict[str, int]:
    return {names[i]: int(counts[i]) for i in np.flatnonzero(counts)}
