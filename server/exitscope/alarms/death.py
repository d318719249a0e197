"""Rule: a VM that ended while its vCPUs waited for pages, or amid a migration or page-in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from exitscope_probes.records import VCPU_OTHER

from ..migrations.course import Course
from ..vms import Vm
from ..words import counted
from .finding import SHOWN_NS, Finding
from .sight import Sight
from .words import age

_LONG_NS: Final = 1_000_000_000
_SETTLE_NS: Final = 5_000_000_000
"""So long after its vCPUs is a VM's process found gone, and then its migration failed, at the latest."""

_CALLED: Final = {"postcopy": "postcopy migration", "precopy": "precopy migration", "page-in": "page-in"}


@dataclass(slots=True)
class _Life:
    """What was known of a VM while all its vCPUs lived."""

    age_ns: int = 0  # of its oldest fault at the last look
    vcpu: int | None = None
    migration: Course | None = None  # that went on then


@dataclass(frozen=True, slots=True)
class _End:
    """A VM whose vCPUs have ended. unresolved: its faults that never ended, about; 0: none."""

    life: _Life
    at_ns: int
    unresolved: int


class Deaths:
    """Remembers each running VM, to know how it ended."""

    def __init__(self) -> None:
        self._session: int | None = None
        self._lives: dict[str, _Life] = {}
        self._ends: dict[str, _End] = {}
        self._died: dict[str, tuple[int, Finding]] = {}

    def look(self, sight: Sight) -> Iterator[Finding]:
        """One finding per VM that died within SHOWN_NS."""
        if self._session != sight.aggregate.sessions:  # other numbers, other counts
            self._session = sight.aggregate.sessions
            self._lives.clear()
        listed = {vm.id: vm for vm in sight.aggregate.vms}
        for vm in listed.values():
            if vm.gone_ns is None and not _all_exited(sight, vm):
                self._remember(sight, vm)
            elif life := self._lives.pop(vm.id, None):
                self._ends[vm.id] = _End(life, sight.time_ns, sight.aggregate.unanswered.never_ended(vm.number))
        for vm_id in self._lives.keys() - listed.keys():
            del self._lives[vm_id]
        for vm_id, end in list(self._ends.items()):
            finding = _judge(sight, listed[vm_id], end) if vm_id in listed else None
            if finding:
                self._died[vm_id] = sight.time_ns, finding
            if finding or sight.time_ns - end.at_ns > _SETTLE_NS:
                del self._ends[vm_id]
        self._died = {vm: died for vm, died in self._died.items() if sight.time_ns - died[0] < SHOWN_NS}
        yield from (finding for _, finding in self._died.values())

    def _remember(self, sight: Sight, vm: Vm) -> None:
        if sight.aggregate.rows.totals["exited"][_rows(vm)].any():
            return  # it is ending: what was known before is what matters
        life = self._lives.setdefault(vm.id, _Life())
        waits = sight.waits.get(vm.id, [])
        life.age_ns = waits[0].age_ns if waits else 0
        life.vcpu = waits[0].vcpu if waits else None
        course = sight.migration(vm)
        life.migration = course if course and course.state == "active" else None


def _all_exited(sight: Sight, vm: Vm) -> bool:
    rows = _rows(vm)
    return bool(rows) and bool((sight.aggregate.rows.totals["exited"][rows] != 0).all())


def _rows(vm: Vm) -> list[int]:
    return [row for vcpu, row in vm.rows.items() if vcpu != VCPU_OTHER]


def _judge(sight: Sight, vm: Vm, end: _End) -> Finding | None:
    """None if it ended in order, or if that is not known yet."""
    life = end.life
    torn = life.migration if life.migration and life.migration.state == "failed" else None
    if not end.unresolved and not torn:
        return None
    name = vm.name
    unresolved = f" with {counted(end.unresolved, 'fault')} unresolved" if end.unresolved else ""
    oldest = f", the oldest for {age(life.age_ns)}" if end.unresolved and life.age_ns > _LONG_NS else ""
    amid = f" in the middle of its {_CALLED[life.migration.kind]}" if life.migration else ""
    log = "see the VMM's log" if life.migration else "see the VMM's log, and that of its fault handler"
    lost = " Pages that had not been moved are lost with it." if life.migration else ""
    return Finding(
        "vm_died",
        "critical",
        f"{name} ended{amid}{unresolved}{oldest}.",
        f"Its process was killed or has failed: {log}.{lost}",
        vm.id,
        name,
        life.vcpu,
        life.age_ns or None,
        hold_ns=0,
    )
