"""The slowest faults of any window, out of the records, kept per second and then per 15 s."""

from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import FAULT_DTYPE, WAITER_OTHER

from .lengths import end_ns, latency_ns
from .window import NS_PER_S

KEPT: Final = 10
"""Slowest faults shown per VM and window."""

_FINE_NS: Final = NS_PER_S
_FINE_BUCKETS: Final = 62
_COARSE_NS: Final = 15 * NS_PER_S
_COARSE_BUCKETS: Final = 62
MAX_PER_BUCKET: Final = 64 * KEPT
"""Records kept per bucket, 10 for each of 64 VMs: 10 MB in all."""


def _slowest_per_vm(records: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """At most KEPT records of each VM, the slowest ones."""
    if len(records) == 0:
        return records
    latency = latency_ns(records)
    order = np.lexsort((latency, records["vm"]))
    vms = records["vm"][order]
    group_end = np.searchsorted(vms, vms, side="right")
    kept = order[group_end - np.arange(len(order)) <= KEPT]
    if len(kept) > MAX_PER_BUCKET:
        kept = kept[np.argsort(latency[kept])[-MAX_PER_BUCKET:]]
    slowest: npt.NDArray[Any] = records[kept]
    return slowest


class Slowest:
    """Records come in batches; each bucket keeps the slowest of its time only."""

    def __init__(self) -> None:
        self._fine: deque[tuple[int, npt.NDArray[Any]]] = deque(maxlen=_FINE_BUCKETS)
        self._coarse: deque[tuple[int, npt.NDArray[Any]]] = deque(maxlen=_COARSE_BUCKETS)

    def add(self, records: npt.NDArray[Any], time_ns: int) -> None:
        """Records FAULT_DTYPE (n,) that came until time_ns; those of waiter class `other` are left out."""
        other = records["waiter"] == WAITER_OTHER
        slowest = _slowest_per_vm(records[~other] if other.any() else records)
        if len(slowest):
            for buckets, length_ns in ((self._fine, _FINE_NS), (self._coarse, _COARSE_NS)):
                _merge(buckets, time_ns // length_ns, slowest)

    def clear(self) -> None:
        """Another collector: VM numbers mean nothing any more."""
        self._fine.clear()
        self._coarse.clear()

    def over(self, length_ns: int, time_ns: int, vm_numbers: list[int]) -> npt.NDArray[Any]:
        """The slowest that ended in the window before time_ns, slowest first, FAULT_DTYPE (at most KEPT,)."""
        fine = length_ns <= 60 * NS_PER_S
        buckets, bucket_ns = (self._fine, _FINE_NS) if fine else (self._coarse, _COARSE_NS)
        first = (time_ns - length_ns) // bucket_ns
        parts = [records for number, records in buckets if number >= first]
        if not parts:
            return np.empty(0, FAULT_DTYPE)
        records = np.concatenate(parts)
        records = records[np.isin(records["vm"], vm_numbers) & (end_ns(records) >= time_ns - length_ns)]
        slowest: npt.NDArray[Any] = records[np.argsort(latency_ns(records))[::-1][:KEPT]]
        return slowest


def _merge(buckets: deque[tuple[int, npt.NDArray[Any]]], number: int, records: npt.NDArray[Any]) -> None:
    if buckets and buckets[-1][0] >= number:
        last, kept = buckets.pop()
        buckets.append((last, _slowest_per_vm(np.concatenate((kept, records)))))
    else:
        buckets.append((number, records.copy()))
