"""The newest column of the time series, from what was counted since the last."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import MODES

from .gpa import GpaCounts
from .latency import percentile_columns
from .modes import USER_MODES
from .placing import PLACING
from .rows import Rows, is_vcpu
from .scalars import BACKGROUND, COUNTS, DEMAND, STALL_NS
from .series import Series, VmColumn
from .stalled import ALL_VMS, Stalled
from .vms import Vm, Vms
from .window import Counters

_AT_ONCE: Final = 512


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
    # One that ended meanwhile, too: it may have lived for less than a tick.
    there = [vm for vm in counted.vms if vm.gone_ns is None or vm.gone_ns > since_ns]
    most = counted.stalled.tick(since_ns, time_ns)
    series.begin(time_ns, [0, *(vm.row for vm in counted.vms)], len(counted.rows.alive))
    column = _Column(series, counted, since_ns, time_ns, there)
    column.vms(most, np.array([vm.id not in away for vm in there], bool))
    column.vcpus()
    series.write_gpa(counted.gpa.tick(counted.vms))
    return most


class _Column:
    """there: VMs; of all of them together, their vCPUs that have counted: rows (n,) and places of their VMs (n,)."""

    def __init__(self, series: Series, counted: Counted, since_ns: int, time_ns: int, there: list[Vm]) -> None:
        self._series = series
        self._totals = counted.rows.totals
        self._histograms = counted.histograms.open_tick()[0]
        self._there = there
        places, rows = [], []
        for place, vm in enumerate(there):
            mine = [row for vcpu, row in vm.rows.items() if is_vcpu(vcpu)]
            rows += mine
            places += [place] * len(mine)
        self._rows, self._places = np.array(rows, np.int64), np.array(places, np.int64)
        self._counts = counted.scalars.open_tick()[0][self._rows, COUNTS][:, : len(MODES)]
        stood_ns = counted.scalars.open_tick()[0][self._rows, STALL_NS]
        self._length_ns = max(time_ns - since_ns, 1)
        self._stood = np.clip(stood_ns / self._length_ns, 0, 1)
        self._fills = np.maximum(counted.fills.open_tick()[0][[vm.row for vm in there]], 0)
        open_since_ns = counted.rows.open_since_ns[self._rows]
        self._open_ns = np.where(open_since_ns > 0, np.maximum(time_ns - open_since_ns, 0), 0).astype(np.float64)

    def vms(self, stalled_most: dict[int, int], among_all: npt.NDArray[np.bool_]) -> None:
        """Each VM, and all together. among_all: (VMs,) which of them count there; all if none does.

        What one did that has ended meanwhile counts, but none of its vCPUs can stand.
        """
        gone = np.array([vm.gone_ns is not None for vm in self._there], bool)
        stood = self._per_vm(self._stood)
        vcpus = np.array([len(vm.vcpus()) for vm in self._there], np.int64)
        demand = self._fills[:, DEMAND][:, PLACING].sum(axis=1)
        background = self._fills[:, BACKGROUND][:, PLACING].sum(axis=1)
        pending = np.array([vm.pending for vm in self._there], np.int64)
        total = np.array([vm.total for vm in self._there], np.int64)

        def put(vm_row: int, which: npt.NDArray[Any], most: int) -> None:
            left = which[~gone[which]] if not gone[which].all() else which
            stalled, standing = float(stood[left].sum()), int(vcpus[left].sum())
            # Whole vCPUs stand still: on average 2.1 of them means that there was a moment with three.
            most = min(max(most, ceil(round(stalled, 3))), standing)
            sums = (int(values[which].sum()) for values in (demand, background, pending, total))
            self._series.write_vm(vm_row, VmColumn(stalled, most, standing, *sums))

        for place, vm in enumerate(self._there):
            put(vm.row, np.array([place]), stalled_most.get(vm.number, 0))
        every = np.flatnonzero(among_all if among_all.any() else ~among_all)
        put(0, every, stalled_most.get(ALL_VMS, 0))
        for mode in range(len(MODES)):
            self._mode(mode, np.isin(self._places, every))

    def vcpus(self) -> None:
        """Each vCPU's p99 over all modes that userspace resolves, or the age of its open fault if longer; its stall."""
        self._series.write_stall(self._rows, self._stood)
        slowest_ns = self._open_ns
        finished = np.flatnonzero(self._counts[:, :USER_MODES].any(axis=1))
        for some in _pieces(finished):
            busy = self._rows[some]
            user = self._histograms[busy, : USER_MODES * BUCKETS].reshape(len(busy), USER_MODES, BUCKETS).sum(axis=1)
            longest_ns = self._totals["series"]["max_ns"][busy, :USER_MODES].max(axis=1)
            _, _, p99, _ = percentile_columns(user, longest_ns)
            slowest_ns[some] = np.maximum(slowest_ns[some], p99)
        told = slowest_ns > 0
        self._series.write_heat(self._rows[told], slowest_ns[told])

    def _mode(self, mode: int, among_all: npt.NDArray[np.bool_]) -> None:
        """Rate and latencies of one mode, of each VM and of all together. among_all: (n,) which vCPUs count there."""
        counts = self._per_vm(self._counts[:, mode])
        busy = np.flatnonzero(counts[self._places] > 0)
        together, together_ns = np.zeros(BUCKETS, np.int64), 0
        for some in _pieces(busy, self._places[busy]):
            buckets = self._histograms[self._rows[some], mode * BUCKETS : (mode + 1) * BUCKETS]
            longest_ns = self._totals["series"]["max_ns"][self._rows[some], mode]
            places, firsts = np.unique(self._places[some], return_index=True)
            columns = percentile_columns(
                np.add.reduceat(buckets, firsts, axis=0, dtype=np.int64), np.maximum.reduceat(longest_ns, firsts)
            )
            for place, *values in zip(places.tolist(), *(column.tolist() for column in columns), strict=True):
                self._write_mode(self._there[place].row, mode, int(counts[place]), values)
            ours = among_all[some]
            together += buckets[ours].sum(axis=0, dtype=np.int64)
            together_ns = max(together_ns, int(longest_ns[ours].max(initial=0)))
        if (count := int(self._counts[among_all, mode].sum())) > 0:
            columns = percentile_columns(together[None], np.array([together_ns], np.uint64))
            self._write_mode(0, mode, count, [int(column[0]) for column in columns])

    def _write_mode(self, vm_row: int, mode: int, count: int, values: list[int]) -> None:
        self._series.write_mode(vm_row, mode, (count * 1e9 / self._length_ns, *map(float, values)))

    def _per_vm(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum of values (n,) of each VM's vCPUs, (VMs,)."""
        sums = np.zeros(len(self._there), values.dtype)
        np.add.at(sums, self._places, values)
        return sums


_Indexes = npt.NDArray[np.int64]


def _pieces(indexes: _Indexes, owners: _Indexes | None = None) -> Iterator[_Indexes]:
    """Some hundred of these (n,) at a time, as their histograms take room; neighbours of one owner (n,) together."""
    begin = 0
    while begin < len(indexes):
        end = min(begin + _AT_ONCE, len(indexes))
        while owners is not None and end < len(indexes) and owners[end] == owners[end - 1]:
            end += 1
        yield indexes[begin:end]
        begin = end
