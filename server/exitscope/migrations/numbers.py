"""What a VM's vCPUs have counted, and what of it belongs to a migration: the kernel's exact totals, now less then."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import MODES, SERIES, STAGE_FAMILIES, STAGE_SERIES

from ..latency import EMPTY, summarize, summarize_one
from ..modes import USER_MODES
from ..placing import PLACING
from ..rows import Rows, is_vcpu
from ..scalars import BACKGROUND, COUNTS, DEMAND, HISTOGRAM_WIDTH, STALL_NS, SUMS_NS, VM_SCALARS
from ..vms import Vm
from ..window import Counters

_Int64s = npt.NDArray[np.int64]


class Counted(Protocol):
    """What is needed of what an aggregate has counted."""

    @property
    def rows(self) -> Rows: ...  # noqa: D102
    @property
    def histograms(self) -> Counters: ...  # noqa: D102
    @property
    def scalars(self) -> Counters: ...  # noqa: D102
    @property
    def fills(self) -> Counters: ...  # noqa: D102


@dataclass(slots=True)
class Standing:
    """Counters of one VM at one moment, its vCPUs together; 90 KB.

    counts, sums_ns, longest_ns: (SERIES,); histogram: (SERIES * BUCKETS,); fills: (VM_SCALARS,); stall_ns: by vCPU.
    """

    counts: _Int64s = field(default_factory=lambda: np.zeros(SERIES, np.int64))
    sums_ns: _Int64s = field(default_factory=lambda: np.zeros(SERIES, np.int64))
    longest_ns: _Int64s = field(default_factory=lambda: np.zeros(SERIES, np.int64))
    histogram: _Int64s = field(default_factory=lambda: np.zeros(HISTOGRAM_WIDTH, np.int64))
    fills: _Int64s = field(default_factory=lambda: np.zeros(VM_SCALARS, np.int64))
    stall_ns: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, counted: Counted, vm: Vm) -> "Standing":
        """As it is now."""
        vcpus = [vcpu for vcpu in vm.rows if is_vcpu(vcpu)]
        rows = np.array([vm.rows[vcpu] for vcpu in vcpus], np.int64)
        scalars = counted.scalars.now[rows]
        return cls(
            counts=scalars[:, COUNTS].sum(axis=0),
            sums_ns=scalars[:, SUMS_NS].sum(axis=0),
            longest_ns=counted.rows.totals["series"]["max_ns"][rows].max(axis=0, initial=0).astype(np.int64),
            histogram=counted.histograms.now[rows].sum(axis=0, dtype=np.int64),
            fills=counted.fills.now[vm.row].copy(),
            stall_ns=dict(zip(vcpus, scalars[:, STALL_NS].tolist(), strict=True)),
        )

    def since(self, base: "Standing") -> "Standing":
        """What was counted since then; a counter that began again from zero counts as nothing, never below."""
        return Standing(
            counts=np.maximum(self.counts - base.counts, 0),
            sums_ns=np.maximum(self.sums_ns - base.sums_ns, 0),
            longest_ns=self.longest_ns,
            histogram=np.maximum(self.histogram - base.histogram, 0),
            fills=np.maximum(self.fills - base.fills, 0),
            stall_ns={vcpu: max(ns - base.stall_ns.get(vcpu, 0), 0) for vcpu, ns in self.stall_ns.items()},
        )

    def plus(self, other: "Standing") -> "Standing":
        """Of two times together."""
        vcpus = self.stall_ns.keys() | other.stall_ns.keys()
        return Standing(
            counts=self.counts + other.counts,
            sums_ns=self.sums_ns + other.sums_ns,
            longest_ns=np.maximum(self.longest_ns, other.longest_ns),
            histogram=self.histogram + other.histogram,
            fills=self.fills + other.fills,
            stall_ns={vcpu: self.stall_ns.get(vcpu, 0) + other.stall_ns.get(vcpu, 0) for vcpu in vcpus},
        )

    @property
    def user_faults(self) -> int:
        """Faults that userspace resolved."""
        return int(self.counts[:USER_MODES].sum())

    @property
    def demand(self) -> int:
        """Pages placed while somebody waited."""
        return _placed(self.fills[DEMAND])

    @property
    def background(self) -> int:
        """Pages placed ahead of need."""
        return _placed(self.fills[BACKGROUND])

    @property
    def woken(self) -> int:
        """Faults that were answered without placing a page."""
        return int(self.fills[DEMAND][~PLACING].sum())

    def figures(self) -> dict[str, Any]:
        """faults, latency_ns, stages_ns, fills and stall of models.Migration."""
        histograms = self.histogram.reshape(SERIES, BUCKETS)
        stages: dict[str, dict[str, dict[str, int]]] = {family: {} for family in STAGE_FAMILIES}
        used = np.flatnonzero(self.counts)
        summaries = summarize(histograms[used], self.counts[used], self.sums_ns[used], self.longest_ns[used])
        found = dict(zip(used.tolist(), summaries, strict=True))
        for number, (family, stage) in enumerate(STAGE_SERIES, len(MODES)):
            stages[family][stage] = found.get(number) or dict(EMPTY)
        user = slice(0, USER_MODES)
        return {
            "faults": dict(zip(MODES, self.counts[: len(MODES)].tolist(), strict=True)),
            "latency_ns": summarize_one(
                histograms[user].sum(axis=0),
                self.user_faults,
                int(self.sums_ns[user].sum()),
                int(self.longest_ns[user].max(initial=0)),
            ),
            "stages_ns": {family: own for family, own in stages.items() if any(one["count"] for one in own.values())},
            "fills": {"demand": self.demand, "background": self.background, "woken": self.woken},
            "stall": [{"vcpu": vcpu, "stall_ns": self.stall_ns[vcpu]} for vcpu in sorted(self.stall_ns)],
        }


def _placed(fills: _Int64s) -> int:
    return int(fills[PLACING].sum())
