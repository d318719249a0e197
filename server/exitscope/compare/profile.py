"""What a comparison keeps of a recording: histograms over slots of time, of the same size whatever its length.

At most MAX_SLOTS x BUCKETS counts and a histogram per vCPU stay in memory, so that 100 million records cost one
pass over the file in batches, and every statistic afterwards the same few milliseconds.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS, bucket_of

STAGES: Final = ("raise", "notify", "serve", "fill", "finish")
"""Stages of a record in their order; finish is `wake` of a fault that slept, `reenter` of one that exited."""

MAX_SLOTS: Final = 4096
MIN_SLOT_NS: Final = 10_000_000
MIN_SLOTS: Final = 64
"""A run that is shorter than MIN_SLOTS * MIN_SLOT_NS has shorter slots."""

PAUSE_NS: Final = 100_000_000
"""So long without any fault is a pause, which the rates leave out."""

MAX_VCPUS: Final = 4096
_HIGHEST_VCPU: Final = (1 << 14) - 1
"""vcpu_id is below KVM_MAX_VCPU_IDS, four times KVM_MAX_VCPUS (arch/x86/include/asm/kvm_host.h)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """n faults of vCPUs. begin_ns: (n,); stages_ns: (n, 5) int64; vcpu: (n,) int64; modes, resolvers: name -> count."""

    begin_ns: npt.NDArray[np.int64]
    stages_ns: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int64]
    modes: Counter[str] = field(default_factory=Counter)
    resolvers: Counter[str] = field(default_factory=Counter)


class Profile:
    """Filled by add(), read by statistics.py.

    slots: (S, BUCKETS) faults that began in each slot, by whole latency. stage_sums_ns: (BUCKETS, 5) sum of each
    stage over the faults of each latency. slot_stage_sums_ns: (S, 5). vcpus: (V, BUCKETS) by whole latency, of
    vcpu_ids in order of appearance.
    """

    def __init__(self, begin_ns: int, end_ns: int) -> None:
        """Faults begin from begin_ns to end_ns, CLOCK_MONOTONIC; what lies outside goes to the first or last slot."""
        self.begin_ns = begin_ns
        self.length_ns = max(end_ns - begin_ns, 1)
        wanted_ns = min(MIN_SLOT_NS, self.length_ns // MIN_SLOTS)
        self.slot_ns = max(wanted_ns, -(-self.length_ns // MAX_SLOTS), 1)
        count = self.length_ns // self.slot_ns + 1
        self.slots = np.zeros((count, BUCKETS), np.int64)
        self.slot_stage_sums_ns = np.zeros((count, len(STAGES)), np.int64)
        self.stage_sums_ns = np.zeros((BUCKETS, len(STAGES)), np.int64)
        self.vcpu_ids: dict[int, int] = {}
        self.vcpus = np.zeros((0, BUCKETS), np.int64)
        self.max_ns = 0
        self.modes: Counter[str] = Counter()
        self.resolvers: Counter[str] = Counter()
        self._changes = np.zeros(count + 1, np.int64)  # faults under way: begun in a slot, less those ended before it

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        if not len(batch.begin_ns):
            return
        whole = batch.stages_ns.sum(axis=1)
        bucket = bucket_of(whole.astype(np.uint64))
        first = self._slot(batch.begin_ns)
        last = self._slot(batch.begin_ns + whole)
        count = len(self.slots)
        low, high = int(first.min()), int(first.max()) + 1  # a batch covers few of the slots
        cells = np.bincount((first - low) * BUCKETS + bucket, minlength=(high - low) * BUCKETS)
        self.slots[low:high] += cells.reshape(high - low, BUCKETS)
        self._changes += np.bincount(first, minlength=count + 1) - np.bincount(last + 1, minlength=count + 1)
        for stage in range(len(STAGES)):
            lengths = batch.stages_ns[:, stage]
            self.slot_stage_sums_ns[:, stage] += _sums(first, lengths, count)
            self.stage_sums_ns[:, stage] += _sums(bucket, lengths, BUCKETS)
        rows = self._rows(batch.vcpu)
        self.vcpus += np.bincount(rows * BUCKETS + bucket, minlength=self.vcpus.size).reshape(self.vcpus.shape)
        self.max_ns = max(self.max_ns, int(whole.max()))
        self.modes += batch.modes
        self.resolvers += batch.resolvers

    @property
    def faults(self) -> int:
        """Faults counted."""
        return int(self.slots.sum())

    def active(self) -> npt.NDArray[np.bool_]:
        """(S,): whether faults began in the slot or were under way, or it lies in too short a gap to be a pause."""
        busy: npt.NDArray[np.bool_] = (np.cumsum(self._changes[:-1]) > 0) | self.slots.any(axis=1)
        where = np.flatnonzero(busy)
        gaps = np.diff(where) - 1
        for i in np.flatnonzero((gaps > 0) & (gaps * self.slot_ns < PAUSE_NS)):
            busy[where[i] : where[i + 1]] = True
        return busy

    def slot_lengths_ns(self) -> npt.NDArray[np.int64]:
        """(S,): the last one may be shorter than the others."""
        lengths = np.full(len(self.slots), self.slot_ns, np.int64)
        lengths[-1] = max(self.length_ns - self.slot_ns * (len(lengths) - 1), 1)
        return lengths

    def _slot(self, moments_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        slot: npt.NDArray[np.int64] = (moments_ns - self.begin_ns) // self.slot_ns
        return np.clip(slot, 0, len(self.slots) - 1)

    def _rows(self, vcpu: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row of each fault's vCPU; new ones get one. Numbers beyond any that KVM gives share the last."""
        numbers = np.minimum(vcpu, _HIGHEST_VCPU)
        for number in np.flatnonzero(np.bincount(numbers)).tolist():
            if number not in self.vcpu_ids and len(self.vcpu_ids) < MAX_VCPUS:
                self.vcpu_ids[number] = len(self.vcpu_ids)
        missing = len(self.vcpu_ids) - len(self.vcpus)
        self.vcpus = np.concatenate([self.vcpus, np.zeros((missing, BUCKETS), np.int64)])
        row_of = np.full(_HIGHEST_VCPU + 1, len(self.vcpu_ids) - 1, np.int64)
        row_of[list(self.vcpu_ids)] = list(self.vcpu_ids.values())
        found: npt.NDArray[np.int64] = row_of[numbers]
        return found


def _sums(index: npt.NDArray[np.int64], values: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    # float64 is exact for sums below 2^53 ns (104 days) per cell and batch.
    sums: npt.NDArray[np.int64] = np.bincount(index, values.astype(np.float64), length).astype(np.int64)
    return sums


def profile_of(begin_ns: int, end_ns: int, batches: Iterable[Batch]) -> Profile:
    """The profile of all batches of a recording."""
    profile = Profile(begin_ns, end_ns)
    for batch in batches:
        profile.add(batch)
    return profile
