"""The newest column of the time series, from what was counted since the last."""

from collections.abc import Container
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import MODES

from .gpa import GpaCounts
from .latency import percentile_columns
from .modes import USER_MODES
from .placing import PLACING
from .rows import Rows, is_vcpu
from .scalars import BACKGROUND, DEMAND, STALL_NS
from .series import Series, VmColumn
from .stalled import ALL_VMS, Stalled
from .vms import Vm, Vms
from .window import Counters


@dataclass(frozen=True, slots=True)
class Counted:
    """What an aggregate has counted, the tick that ends now still open."""

    rows: Rows
    vms: Vms
    histograms: Counters
    scalars: Counters
    fills: Counters
    stalled: Stalled
    gpa: GpaCounts


def write(series: Series, counted: Counted, time_ns: int, away: Container[str] = ()) -> dict[int, int]:
    """The column of the tick that ends at time_ns. Returns Stalled.tick() of it.

    away: ids of VMs that have migrated away, whose vCPUs do not count among all.
    """
    _, since_ns = counted.histograms.open_tick()
    column = _Column(series, counted, since_ns, time_ns)
    # One that ended meanwhile, too: it may have lived for less than a tick.
    there = [vm for vm in counted.vms if vm.gone_ns is None or vm.gone_ns > since_ns]
    series.begin(time_ns, [0, *(vm.row for vm in counted.vms)])
    most = counted.stalled.tick(since_ns, time_ns)
    for vm in there:
        column.vm(vm.row, [vm], most.get(vm.number, 0))
    column.vm(0, [vm for vm in there if vm.id not in away] or there, most.get(ALL_VMS, 0))
    column.vcpus(there)
    series.write_gpa(counted.gpa.tick(counted.vms))
    return most


class _Column:
    def __init__(self, series: Series, counted: Counted, since_ns: int, time_ns: int) -> None:
        self._series = series
        self._vms = counted.vms
        self._totals = counted.rows.totals
        self._histograms = counted.histograms.open_tick()[0]
        self._scalars = counted.scalars.open_tick()[0]
        self._fills = counted.fills.open_tick()[0]
        self._open_since_ns = counted.rows.open_since_ns
        self._time_ns = time_ns
        self._length_ns = max(time_ns - since_ns, 1)

    def vm(self, vm_row: int, vms: list[Vm], stalled_most: int) -> None:
        """One VM, or all together: what one did that has ended meanwhile counts, but none of its vCPUs can stand."""
        rows = _rows(vms)
        counts = self._scalars[rows, : len(MODES)].sum(axis=0)
        for mode in np.flatnonzero(counts > 0):
            buckets = self._histograms[rows, mode * BUCKETS : (mode + 1) * BUCKETS].sum(axis=0, dtype=np.int64)
            longest = self._longest(rows, slice(mode, mode + 1)).max(keepdims=True)
            values = (float(value[0]) for value in percentile_columns(buckets[None], longest))
            self._series.write_mode(vm_row, int(mode), (counts[mode] * 1e9 / self._length_ns, *values))
        left = [vm for vm in vms if vm.gone_ns is None] or vms
        stalled = float(self._shares(_rows(left)).sum())
        vcpus = sum(len(vm.vcpus()) for vm in left)
        # Whole vCPUs stand still: on average 2.1 of them means that there was a moment with three.
        most = min(max(stalled_most, ceil(round(stalled, 3))), vcpus)
        filled = np.maximum(self._fills[[vm.row for vm in vms]].sum(axis=0), 0)
        self._series.write_vm(
            vm_row,
            VmColumn(
                stalled,
                most,
                vcpus,
                int(filled[DEMAND][PLACING].sum()),
                int(filled[BACKGROUND][PLACING].sum()),
                sum(vm.pending for vm in vms),
                sum(vm.total for vm in vms),
            ),
        )

    def vcpus(self, vms: list[Vm]) -> None:
        """Each vCPU's p99 over all modes that userspace resolves, or the age of its open fault if longer; its stall."""
        rows = _rows(vms)
        self._series.write_stall(rows, self._shares(rows))
        open_since_ns = self._open_since_ns[rows]
        slowest_ns = np.where(open_since_ns > 0, np.maximum(self._time_ns - open_since_ns, 0), 0).astype(np.float64)
        finished = self._scalars[rows, :USER_MODES].any(axis=1)
        if finished.any():
            busy = rows[finished]
            user = self._histograms[busy, : USER_MODES * BUCKETS].reshape(len(busy), USER_MODES, BUCKETS).sum(axis=1)
            _, _, p99, _ = percentile_columns(user, self._longest(busy, slice(0, USER_MODES)))
            slowest_ns[finished] = np.maximum(slowest_ns[finished], p99)
        told = slowest_ns > 0
        self._series.write_heat(rows[told], slowest_ns[told])

    def _shares(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Share of the tick that each row's vCPU stood still, (n,)."""
        shares: npt.NDArray[np.float64] = np.clip(self._scalars[rows, STALL_NS] / self._length_ns, 0, 1)
        return shares

    def _longest(self, rows: npt.NDArray[np.int64], series: slice) -> npt.NDArray[Any]:
        longest: npt.NDArray[Any] = self._totals["series"]["max_ns"][rows, series].max(axis=1)
        return longest


def _rows(vms: list[Vm]) -> npt.NDArray[np.int64]:
    """The rows of the VMs' vCPUs that have counted."""
    return np.array([row for vm in vms for vcpu, row in vm.rows.items() if is_vcpu(vcpu)], np.int64)
