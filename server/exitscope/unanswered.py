"""Waits for a page that ended without an answer: their vCPU ended with them, or nobody filled anything.

Both show between two looks at the kernel's totals. A vCPU that ended with a fault open, and whose count of faults did
not grow, never got its page. A fault that was open for long is over though no page was placed and nobody was woken: its
userfaultfd was closed or taken off the memory, and the guest has read whatever was there, zeros as a rule. Records say
the same of short ones: a userfaultfd fault without a fill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import MODE_ASYNC, MODE_UFFD, SEEN_FILL

from .lengths import end_ns
from .migrations.recognise import NOTHING, Seen
from .vms import Vm

OPEN_NS: Final = 50_000_000
"""A fault that is open for so long waits for userspace."""

_WAITED_NS: Final = 3_000_000_000
"""Discovery looks once a second whether somebody waits in a userfaultfd."""


@dataclass(slots=True)
class _Unfilled:
    """Waits that nobody answered, and after when they ended. A later fill says that pages do come."""

    count: int = 0
    since_ns: int = 0

    def add(self, count: int, since_ns: int) -> None:
        self.count += count
        self.since_ns = max(self.since_ns, since_ns)

    def filled(self, after_ns: int) -> None:
        """Something was filled, surely after this moment."""
        if after_ns >= self.since_ns:
            self.count = 0


@dataclass(slots=True)
class _Life:
    """What was last seen of one VM. lost: faults of all VMs that never ended, before it was last seen to live."""

    seen: Seen = NOTHING
    seen_ns: int = 0
    alive_ns: int = 0
    lost: int = 0
    stuck: int = 0  # its vCPUs that ended in a fault
    unmatched: int = 0  # faults in the ledger that must be its own
    ended_ns: int = 0  # when one of them was last seen to have ended
    filled_ns: int = 0  # when the last recorded fault ended that somebody had filled
    waited_ns: int = 0  # when somebody was last seen in the queue of its userfaultfds
    by_totals: _Unfilled = field(default_factory=_Unfilled)
    by_records: _Unfilled = field(default_factory=_Unfilled)


class Unanswered:
    """By the VMs' numbers. Told of every TOTALS, every VMS and all records."""

    def __init__(self) -> None:
        self._lives: dict[int, _Life] = {}
        self._lost = 0
        self._sees_fills = self._sees_ends = True

    def new_collector(self, sees_fills: bool, sees_ends: bool) -> None:
        """Numbers and counts mean nothing any more. sees_fills, sees_ends: whether the hooks for that are attached."""
        self._lives.clear()
        self._lost = 0
        self._sees_fills, self._sees_ends = sees_fills, sees_ends

    def vms(self, vms: Iterable[Vm], time_ns: int) -> None:
        """Discovery has spoken of these; all others are forgotten."""
        listed = {vm.number: vm for vm in vms}
        for number in self._lives.keys() - listed.keys():
            if self._lives[number].alive_ns < time_ns - _WAITED_NS:  # it may not have a name yet
                del self._lives[number]
        for number, vm in listed.items():
            if vm.total and number in self._lives:
                self._lives[number].waited_ns = time_ns

    def totals(self, seen: Mapping[int, Seen], time_ns: int, lost: int) -> None:
        """These are the totals now. lost: faults that began and never ended, of all VMs."""
        died = []
        for number, now in seen.items():
            life = self._lives.setdefault(number, _Life())
            if life.seen is not NOTHING:
                self._compare(life, now, time_ns)
            if now.living:
                life.alive_ns, life.lost = time_ns, self._lost
            elif life.seen.living:
                died.append(life)
            life.seen, life.seen_ns = now, time_ns
        for life in died:
            if all(other is life or other.ended_ns < life.alive_ns for other in self._lives.values()):
                life.unmatched = lost - life.lost
        self._lost = lost

    def records(self, records: npt.NDArray[Any]) -> None:
        """Finished faults, FAULT_DTYPE (n,)."""
        waited = (records["mode"] == MODE_UFFD) | (records["mode"] == MODE_ASYNC)
        filled = (records["seen"] & SEEN_FILL) != 0
        ended_ns = end_ns(records)
        for number in np.unique(records["vm"][waited]).tolist():
            life = self._lives.setdefault(number, _Life())
            mine = waited & (records["vm"] == number)
            without = mine & ~filled
            if without.any():
                life.by_records.add(int(without.sum()), int(ended_ns[without].max()))
            if (mine & filled).any():
                life.filled_ns = max(life.filled_ns, int(ended_ns[mine & filled].max()))
                life.by_totals.filled(life.filled_ns)
                life.by_records.filled(life.filled_ns)

    def never_ended(self, number: int, gone: bool = True) -> int:
        """Faults of this VM whose vCPU ended first. gone: whether the VM has ended.

        The ledger counts those that were too short to be seen open, of all VMs together: they are this VM's if no other
        one's vCPUs ended in that time. Where the ends of threads are not seen, faults that are open stand for them.
        """
        life = self._lives.get(number)
        if life is None:
            return 0
        if gone and not self._sees_ends:
            return sum(life.seen_ns - begin_ns > OPEN_NS for _, begin_ns in life.seen.open_ns)
        return max(life.stuck, life.unmatched)

    def unfilled(self, number: int) -> int:
        """Faults of this VM that have ended since its last fill though nobody answered them."""
        life = self._lives.get(number)
        return max(life.by_totals.count, life.by_records.count) if life and self._sees_fills else 0

    def _compare(self, life: _Life, now: Seen, time_ns: int) -> None:
        before, then, still = life.seen, dict(life.seen.open_ns), dict(now.open_ns)
        ended = set(before.living).difference(now.living)
        if ended:
            life.ended_ns = time_ns
            counted, counted_then = dict(now.finished), dict(before.finished)
            life.stuck += sum(
                vcpu in ended and life.seen_ns - begin_ns > OPEN_NS and counted.get(vcpu) == counted_then.get(vcpu)
                for vcpu, begin_ns in then.items()
            )
        if now.filled > before.filled:
            life.by_totals.count = 0
            life.by_records.filled(life.seen_ns)
            return
        over = [
            vcpu
            for vcpu, begin_ns in then.items()
            if vcpu in now.living and still.get(vcpu) != begin_ns and life.seen_ns - begin_ns > OPEN_NS
        ]
        in_uffd = now.slept + now.async_ > before.slept + before.async_ or time_ns - life.waited_ns < _WAITED_NS
        if over and in_uffd and life.filled_ns < life.seen_ns:  # else they may have been answered just before
            life.by_totals.add(len(over), life.seen_ns)
