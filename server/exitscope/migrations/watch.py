"""What was last seen of one VM, to tell what is new."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..lengths import end_ns
from ..unanswered import OPEN_NS
from ..vms import Vm, Vms
from .course import Course
from .recognise import NOTHING, Seen

_ECHO_NS: Final = 1_000_000_000  # the last faults of one that is over may be counted so long afterwards
_MAX_EARLY: Final = 64
_POLL_NS: Final = 10_000_000  # totals are sent so long after they were read, at most


@dataclass(slots=True)
class Watch:
    """seen, seen_ns: the last totals. first_ns, last_ns: first begin of a recorded fault since rested_ns, and last end.

    rested_ns, over_ns: when its last migration was over, and when that was known. before: faults counted before anybody
    looked. protects: whether its userfaultfds may write-protect. follow, reason, said, said_ns: of QEMU's last answer.
    """

    seen: Seen = NOTHING
    seen_ns: int = 0
    before: int = 0
    uffds: int = 0
    protects: bool = False
    waiting: int = 0
    first_ns: int | None = None
    last_ns: int = 0
    rested_ns: int = 0
    over_ns: int = 0
    moved: bool = False
    follow: str = "absent"
    reason: str | None = None
    said: str | None = None
    said_ns: int = 0
    course: Course | None = None
    last: Course | None = None

    def take(self, seen: Seen, time_ns: int) -> None:
        """These totals are the last now."""
        self.seen, self.seen_ns = seen, time_ns

    def recorded(self, begin_ns: npt.NDArray[np.int64], last_ns: int) -> None:
        """Faults that began then (n,), and had all ended at last_ns."""
        self.last_ns = max(self.last_ns, last_ns)
        new_ns = begin_ns[begin_ns >= self.rested_ns]
        if len(new_ns) and (self.first_ns is None or new_ns.min() < self.first_ns):
            self.first_ns = int(new_ns.min())
            if self.course is not None:
                self.course.missed_earlier(self.first_ns)

    def waits(self, seen: Seen, time_ns: int) -> bool:
        """Whether somebody waits for a page there."""
        held = self.uffds > 0 and any(time_ns - begin_ns > OPEN_NS for _, begin_ns in seen.open_ns)
        return held or self.waiting > 0

    def sign_ns(self, seen: Seen, time_ns: int) -> int:
        """Since when pages are placed or missed, of which these totals are the first to tell."""
        since_ns = [time_ns, *(begin_ns for _, begin_ns in seen.open_ns)]
        if self.first_ns is not None:
            since_ns.append(self.first_ns)
        if seen.background > self.seen.background and self.seen_ns:
            since_ns.append(self.seen_ns)  # some time since the last look
        return max(min(since_ns), self.rested_ns)

    def moved_ns(self, seen: Seen, time_ns: int) -> int:
        """When the last page was placed or missed, of which these totals tell: by the records, where they say it."""
        told = seen.background == self.seen.background and self.seen_ns - _POLL_NS <= self.last_ns <= time_ns
        return self.last_ns if told else time_ns

    def echoes(self, time_ns: int) -> bool:
        """Whether faults seen now are the last ones of the migration that is over, counted late."""
        if self.last is None:
            return False
        return self.last.final or (self.uffds == 0 and time_ns - self.over_ns < _ECHO_NS)

    def rest(self, at_ns: int, time_ns: int) -> None:
        """Its migration was over at this moment, and is known to be now."""
        self.over_ns = time_ns
        self.last, self.course = self.course, None
        self.rested_ns, self.first_ns = at_ns, None
        self.waiting = 0  # discovery spoke of before


class Watches:
    """One of each VM."""

    def __init__(self) -> None:
        self._of: dict[str, Watch] = {}
        self._early_ns: dict[int, int] = {}  # VM number -> first begin of a fault, before the VM had a name

    def __iter__(self) -> Iterator[Watch]:
        return iter(self._of.values())

    def of(self, vm: Vm) -> Watch:
        """That of a VM that discovery has named."""
        watch = self._of.get(vm.id)
        if watch is None:
            watch = self._of[vm.id] = Watch(first_ns=self._early_ns.pop(vm.number, None))
        return watch

    def new_collector(self) -> None:
        """Counters begin from zero, and numbers mean nothing any more."""
        self._early_ns.clear()
        for watch in self:
            watch.seen, watch.uffds, watch.waiting = NOTHING, 0, 0

    def keep(self, vms: Iterable[Vm]) -> None:
        """Only these VMs are there any more."""
        for vm_id in self._of.keys() - {vm.id for vm in vms}:
            del self._of[vm_id]

    def faults(self, records: npt.NDArray[Any], vms: Vms) -> None:
        """Records FAULT_DTYPE (n,), n > 0."""
        begin_ns, ended_ns = records["begin_ns"].astype(np.int64), end_ns(records)
        for number in np.unique(records["vm"]).tolist():
            vm, mine = vms.named(number), records["vm"] == number
            if vm is not None:
                self.of(vm).recorded(begin_ns[mine], int(ended_ns[mine].max()))
            elif len(self._early_ns) < _MAX_EARLY:
                self._early_ns.setdefault(number, int(begin_ns[mine].min()))
