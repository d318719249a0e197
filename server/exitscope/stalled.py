"""How many vCPUs stood still at once, at most, in one tick.

Two witnesses, and the one that saw more is right: every look at the kernel's totals (a few per second) shows which
vCPUs are in a fault at that moment, async ones that halted their vCPU among them; records show from when to when each
finished fault lasted. A record that was lost, or that comes after the tick, can only make the number too small.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import WAITER_VCPU

from .lengths import end_ns

ALL_VMS: Final = 0
"""Stands for all VMs together; a VM's number is never 0."""

MAX_SPANS: Final = 1 << 20
"""Finished faults kept per tick, 20 bytes each; more than ten times what a collector delivers in a second."""

_MAX_LENGTH_NS: Final = 1 << 44
_Int64s = npt.NDArray[np.int64]


class Stalled:
    """See the module. One tick at a time: `tick` ends it."""

    def __init__(self) -> None:
        self._spans: list[tuple[npt.NDArray[np.uint32], _Int64s, _Int64s]] = []
        self._kept = 0
        self._seen: dict[int, int] = {}
        self._open: tuple[npt.NDArray[np.uint32], _Int64s] = np.empty(0, np.uint32), np.empty(0, np.int64)

    def add(self, records: npt.NDArray[Any]) -> None:
        """Finished faults FAULT_DTYPE (n,). Async ones are left out: records do not say when the vCPU was halted."""
        waited = np.flatnonzero(records["waiter"] == WAITER_VCPU)[: MAX_SPANS - self._kept]
        begin_ns = records["begin_ns"][waited].astype(np.int64)
        self._spans.append((records["vm"][waited], begin_ns, end_ns(records)[waited]))
        self._kept += len(waited)

    def look(self, vms: npt.NDArray[np.uint32], since_ns: _Int64s) -> None:
        """VM numbers (n,) of the vCPUs that stand in a fault at this moment, and since when."""
        self._open = vms, since_ns
        numbers, counts = np.unique(vms, return_counts=True)
        for number, count in ((ALL_VMS, len(vms)), *zip(numbers.tolist(), counts.tolist(), strict=True)):
            self._seen[number] = max(self._seen.get(number, 0), count)

    def tick(self, from_ns: int, to_ns: int) -> dict[int, int]:
        """VM number (ALL_VMS: all together) -> most vCPUs at once in [from_ns, to_ns); none if it is not named."""
        vms, since_ns = self._open
        begins = np.concatenate([since_ns, *(begin_ns for _, begin_ns, _ in self._spans)])
        ends = np.concatenate([np.full(len(since_ns), to_ns), *(end_ns for _, _, end_ns in self._spans)])
        numbers = np.concatenate([vms, *(number for number, _, _ in self._spans)])
        if len(vms):
            begins[: len(vms)][np.isin(since_ns, begins[len(vms) :])] = to_ns  # it is over: there is a record of it
        begins, ends = np.maximum(begins, from_ns) - from_ns, np.minimum(ends, to_ns) - from_ns
        lasted = begins < ends
        found = dict(self._seen)
        for number, most in most_at_once(numbers[lasted], begins[lasted], ends[lasted]).items():
            found[number] = max(found.get(number, 0), most)
        self.clear()
        return found

    def clear(self) -> None:
        """Begin a tick."""
        self._spans, self._kept, self._seen = [], 0, {}


def most_at_once(owners: npt.NDArray[np.integer[Any]], begins: _Int64s, ends: _Int64s) -> dict[int, int]:
    """Owner (not 0) -> the most of its spans [begin, end) that hold one moment; ALL_VMS: of all spans.

    All (n,); begin < end, in ns from 0, below 2^44.
    """
    if not len(owners):
        return {}
    names, codes = np.unique(owners, return_inverse=True)
    begins, ends = np.minimum(begins, _MAX_LENGTH_NS), np.minimum(ends, _MAX_LENGTH_NS)
    found = {ALL_VMS: int(_running(begins, ends).max())}
    if len(names) == 1:
        return found | {int(names[0]): found[ALL_VMS]}
    place = codes.astype(np.int64) << 46
    counts = _running(place | begins, place | ends)  # an owner's spans are over before the next one's begin
    firsts = np.append(0, np.cumsum(np.bincount(codes))[:-1]) * 2
    most = np.maximum.reduceat(counts, firsts)
    return found | dict(zip(names.tolist(), most.tolist(), strict=True))


def _running(begins: _Int64s, ends: _Int64s) -> _Int64s:
    """How many are running after each begin and end, in the order of time, (2 n,); an end is before a like begin."""
    moments = np.concatenate((begins << 1 | 1, ends << 1))
    moments.sort()
    moments &= 1
    running: _Int64s = np.cumsum((moments << 1) - 1)
    return running
