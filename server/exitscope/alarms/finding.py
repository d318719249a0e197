"""What a rule has found wrong at one moment, and the limits that rules go by."""

from dataclasses import dataclass
from typing import Final

from .models import Kind, Severity

NEVER: Final = 0
"""A limit that nothing is beyond."""

SHOWN_NS: Final = 30_000_000_000
"""The alarm of what is over at once stays this long, so that a scrape every 15 s sees it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Lengths of time in ns, and a share in percent; NEVER: no such alarm.

    stall: of a vCPU in one fault; fault: unresolved; handler: without progress; vm_stall: of the time of all of a VM's
    vCPUs.
    """

    stall_ns: int = 1_000_000_000
    fault_ns: int = 5_000_000_000
    handler_ns: int = 1_000_000_000
    vm_stall_percent: int = 75


@dataclass(frozen=True, slots=True)
class Finding:
    """See models.Alarm for the fields. vm: its id, None if it is about all.

    hold_ns: how long the alarm goes on without being found again, so that what comes and goes is one alarm.
    """

    kind: Kind
    severity: Severity
    message: str
    hint: str
    vm: str | None = None
    vm_name: str | None = None
    vcpu: int | None = None
    value_ns: int | None = None
    limit_ns: int | None = None
    hold_ns: int = 3_000_000_000


def beyond(age_ns: int, limit_ns: int) -> bool:
    """Whether an age is beyond a limit."""
    return limit_ns != NEVER and age_ns > limit_ns
