"""The worst moments of a migration, its slowest faults, and who served them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from exitscope_probes.threads import role_of

from ..models import NO_LATENCY
from ..query.summary import slow_fault
from ..query.ticks import MAX_TICKS, tick_width_ns
from ..recordings.meta import RecordedVm
from .brownout import Brownout
from .models import ReportFault, ReportHandler, ReportMoment
from .records import FILLED, READ, STANDS_STILL, Records

MOMENTS: Final = 5
SLOWEST: Final = 20
_SECOND: Final = 1_000_000_000
_PARTS: Final = 20
"""A moment is a second, or so small a part of a shorter migration."""


class Threads:
    """Names and roles of the threads that may have filled pages."""

    def __init__(self, vm: RecordedVm | None) -> None:
        self._pid = vm.pid if vm else 0
        self._names: Mapping[int, str] = {}
        if vm is not None:
            handlers = {handler.tid: handler.name for handler in vm.handlers}
            self._names = {vcpu.tid: vcpu.name or f"vCPU {vcpu.vcpu}" for vcpu in vm.vcpus} | handlers

    def name(self, tid: int) -> str:
        """Empty if not known."""
        return self._names.get(tid, "")

    def role(self, tid: int) -> str | None:
        """None if its name does not say."""
        return role_of(self.name(tid), tid == self._pid) if self.name(tid) else None


def moments(records: Records, brownout: Brownout, threads: Threads) -> list[ReportMoment]:
    """The stretches in which most vCPUs stood still, on average; they do not overlap."""
    length_ns = brownout.to_ns - brownout.from_ns
    width_ns = max(brownout.tick_ns, min(_SECOND, tick_width_ns(length_ns * MAX_TICKS // _PARTS)))
    step = max(width_ns // brownout.tick_ns, 1)
    starts = np.arange(0, len(brownout.peak), step)
    still_ns = np.add.reduceat(brownout.stall_ns.sum(axis=0), starts)
    lengths_ns = np.add.reduceat(brownout.lengths_ns, starts)
    mean = still_ns / lengths_ns
    peak = np.maximum.reduceat(brownout.peak, starts)
    found = []
    for place in np.lexsort((starts, -still_ns))[:MOMENTS].tolist():
        from_ns = brownout.from_ns + int(starts[place]) * brownout.tick_ns
        to_ns = from_ns + int(lengths_ns[place])
        open_then = f"WHERE {STANDS_STILL} AND begin_ns < $later_ns AND begin_ns + latency_ns > $earlier_ns"
        between = {"earlier_ns": from_ns, "later_ns": to_ns}
        rows = records.rows("*", f"{open_then} ORDER BY latency_ns DESC, begin_ns LIMIT 1", **between)
        if rows:
            (count,) = records.rows("count(*) AS n", open_then, **between)
            found.append(ReportMoment(
                from_ns=from_ns, to_ns=to_ns, mean=round(float(mean[place]), 4), peak=int(peak[place]),
                faults=count["n"], longest=fault(rows[0], threads),
            ))  # fmt: skip
    return found


def slowest(records: Records, threads: Threads) -> list[ReportFault]:
    """The slowest faults that vCPUs waited for, slowest first."""
    rows = records.rows("*", "WHERE vcpu >= 0 ORDER BY latency_ns DESC, begin_ns LIMIT $most", most=SLOWEST)
    return [fault(row, threads) for row in rows]


def fault(row: dict[str, Any], threads: Threads) -> ReportFault:
    """One record, and who served it."""
    tid = row["handler_tid"]
    return ReportFault(**slow_fault(row), handler_name=threads.name(tid), handler_role=threads.role(tid))


def handlers(records: Records, threads: Threads) -> list[ReportHandler]:
    """Who filled pages that somebody waited for, busiest first."""
    counts = records.rows("handler_tid AS tid, count(*) AS n", f"WHERE {FILLED} GROUP BY ALL ORDER BY n DESC, tid")
    serve = records.distributions("handler_tid", "serve_ns", f"{FILLED} AND {READ}")
    return [
        ReportHandler(
            tid=row["tid"], name=threads.name(row["tid"]), role=threads.role(row["tid"]), faults=row["n"],
            serve_ns=serve.get(row["tid"], NO_LATENCY),
        )
        for row in counts[:64] if row["tid"]
    ]  # fmt: skip
