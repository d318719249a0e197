"""How long the vCPUs of a migrating VM stood still: the one definition of it, for live figures, summaries and reports.

It is about the destination's vCPUs, where the VM runs without all of its memory, from the begin of the postcopy phase
as QEMU names it (or of the paging that the kernel shows) to its end: all their stall in it by all their time in it, as
the kernel counted it. A source has none of its own.
"""

from collections.abc import Sequence
from typing import Final

from .models import Migration, Role, Standstill
from .status import POSTCOPY

PAGING: Final = POSTCOPY | {"paging"}
"""Phases in which pages are missing."""


def span_ns(phases: Sequence[tuple[str, int]], since_ns: int, end_ns: int) -> tuple[int, int]:
    """From when to when pages were missing. phases: name, begin; since_ns, end_ns: where none of them says it."""
    paging = [number for number, (name, _) in enumerate(phases) if name in PAGING]
    if not paging:
        return since_ns, max(end_ns, since_ns)
    from_ns, after = phases[paging[0]][1], paging[-1] + 1
    return from_ns, max(phases[after][1] if after < len(phases) else end_ns, from_ns)


def away_from_ns(one: Migration) -> int | None:
    """Since when a source's VM runs elsewhere, and its vCPUs are nobody's time; None if it is not known to.

    The same that tracker.Tracker.away() says while it goes on.
    """
    if one.role != "source":
        return None
    paging = next((phase.from_ns for phase in one.phases if phase.name in POSTCOPY), None)
    return paging if paging is not None or one.state != "completed" else one.to_ns


def standstill(one: Migration, now_ns: int) -> Standstill | None:
    """That of a migration; None of a source, and where no page was missing. now_ns: its end if it goes on."""
    if one.missing_from_ns is None:
        return None
    phases = [(phase.name, phase.from_ns) for phase in one.phases]
    span = span_ns(phases, one.missing_from_ns, one.to_ns or now_ns)
    vcpus = max(one.brownout.vcpus, len(one.stall))
    return counted(one.role, span, sum(row.stall_ns for row in one.stall), vcpus)


def counted(role: Role, span: tuple[int, int], stall_ns: int, vcpus: int) -> Standstill | None:
    """Of vCPUs that stood still for so long in this span, all together."""
    if role == "source" or not vcpus:
        return None
    length_ns = span[1] - span[0]
    share = round(min(stall_ns / max(vcpus * length_ns, 1), 1), 6)
    return Standstill(from_ns=span[0], length_ns=length_ns, vcpus=vcpus, stall_ns=stall_ns, share=share)
