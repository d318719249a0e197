"""Alarms that are active, and those that ended in the last ten minutes."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .finding import Finding
from .models import Alarm, Kind

KEPT_NS: Final = 600_000_000_000
MAX_ENDED: Final = 256

Key = tuple[Kind, str | None]
"""An alarm's kind and the id of its VM: there is never more than one of them active."""


@dataclass(slots=True)
class _Entry:
    alarm: Alarm
    seen_ns: int
    hold_ns: int


class Ledger:
    """Bounded: one active alarm per kind and VM, MAX_ENDED ended ones. raised: how often, by kind and VM."""

    def __init__(self) -> None:
        self._active: dict[Key, _Entry] = {}
        self._ended: deque[Alarm] = deque(maxlen=MAX_ENDED)
        self.raised: Counter[Key] = Counter()

    @property
    def active(self) -> set[Key]:
        """What is active now."""
        return set(self._active)

    def update(self, findings: Iterable[Finding], kinds: frozenset[Kind], running: set[str], time_ns: int) -> None:
        """Take over what the rules of `kinds` have found now. The alarms of VMs that do not run end at once."""
        found = {(finding.kind, finding.vm): finding for finding in findings}
        for key, finding in found.items():
            entry = self._active.get(key)
            since_ns = entry.alarm.since_ns if entry else time_ns
            self.raised[key] += entry is None
            self._active[key] = _Entry(_alarm(finding, since_ns), time_ns, finding.hold_ns)
        for key, entry in list(self._active.items()):
            if key[0] not in kinds or key in found:
                continue
            ended = key[1] is not None and key[1] not in running
            if ended or time_ns - entry.seen_ns >= entry.hold_ns:
                del self._active[key]
                self._ended.appendleft(entry.alarm.model_copy(update={"active": False, "ended_ns": time_ns}))
        while self._ended and time_ns - (self._ended[-1].ended_ns or 0) > KEPT_NS:
            self._ended.pop()

    def forget(self, vms: set[str]) -> None:
        """Keep counts of these VMs only, and of what is about none."""
        for key in [key for key in self.raised if key[1] is not None and key[1] not in vms]:
            del self.raised[key]

    def listed(self) -> list[Alarm]:
        """Active ones first, critical before others, the longest first; then the ended ones, newest first."""
        active = sorted(
            (entry.alarm for entry in self._active.values()),
            key=lambda alarm: (alarm.severity != "critical", alarm.since_ns, alarm.id),
        )
        return [*active, *self._ended]


def _alarm(finding: Finding, since_ns: int) -> Alarm:
    return Alarm(
        id=f"{finding.kind}:{finding.vm or 'host'}:{since_ns}",
        kind=finding.kind,
        vm=finding.vm,
        vm_name=finding.vm_name,
        vcpu=finding.vcpu,
        severity=finding.severity,
        message=finding.message,
        hint=finding.hint,
        since_ns=since_ns,
        value_ns=finding.value_ns,
        limit_ns=finding.limit_ns,
        active=True,
        ended_ns=None,
    )
