"""The evidence, in sentences."""

from typing import Final

from ..peer import PeerMigration
from ..words import counted, duration
from .recognise import Seen

PAUSED: Final = "It paused "
LOST: Final = "QEMU does not answer any more"
RESTARTED: Final = "The collector was started again meanwhile: what happened while none ran is not counted."


def signs(before: Seen, now: Seen, uffds: int) -> str:
    """What the kernel shows of its begin."""
    demand = (now.placed - now.background) - (before.placed - before.background)
    seen = (
        (now.faults - before.faults, "fault", "that userspace resolved"),
        (demand, "fill", "on demand"),
        (now.background - before.background, "fill", "in the background"),
        (now.woken - before.woken, "fault", "answered by WAKE alone: the page was placed otherwise, as by a write"),
        (len(now.open_ns), "vCPU", "waiting for a page"),
    )
    listed = ", ".join(f"{counted(number, what)} {how}" for number, what, how in seen if number > 0)
    told = listed or "somebody waiting in userfaultfd"
    registered = f" with {counted(uffds, 'userfaultfd')} open" if uffds else ""
    return f"First seen in the kernel's totals{registered}: {told}."


def earlier(faults: int) -> str:
    """What had been counted before."""
    return f"{counted(faults, 'fault')} had been counted before this began to look: not in these figures."


def said(answer: PeerMigration, missed: bool) -> str:
    """What QEMU said first."""
    postcopy = ", with postcopy-ram on" if "postcopy-ram" in (answer.capabilities or ()) else ""
    when = " It began and ended between two answers." if missed else ""
    return f"QEMU said “{answer.status}” over QMP{postcopy}.{when}"


def over(status: str | None) -> str:
    """What it said last."""
    return f"QEMU said “{status}”."


def lost(reason: str | None) -> str:
    """From here on without QEMU."""
    why = f" ({reason.rstrip('.')})" if reason else ""
    return f"{LOST}{why}: the rest is what the kernel shows."


def silent(reason: str) -> str:
    """Why QEMU is not asked."""
    return f"QEMU is not asked: {reason.rstrip('.')}."


def idle(length_ns: int, uffds: int) -> str:
    """Ended since nothing happens."""
    still = f"; {counted(uffds, 'userfaultfd is', 'userfaultfds are')} still open" if uffds else ""
    return f"Nothing was filled and nobody waited for {duration(length_ns)} after the last fill{still}."


def closed(uffds: int) -> str:
    """Ended since the userfaultfd is closed."""
    return f"Its {'userfaultfd was' if uffds == 1 else f'{uffds} userfaultfds were'} closed after the last fill."


def unfilled(faults: int) -> str:
    """Nobody placed these pages."""
    was = "was" if faults == 1 else "were"
    return (
        f"{counted(faults, 'fault')} {was} never answered and ended without a page being filled in: the guest has read "
        "what was there, zeros as a rule."
    )


def unfinished(faults: int) -> str:
    """Their vCPUs ended first."""
    return f"{counted(faults, 'fault')} never ended: the vCPU did."


def other_side(state: str) -> str:
    """What is known of the destination of a source that went away."""
    known = {"completed": "has all of it", "failed": "has failed", "active": "was still waiting for pages"}
    return f"The destination on this host {known.get(state, 'has ended, too')}."


def paused(times: int, length_ns: int) -> str:
    """It went on."""
    return f"{PAUSED}{counted(times, 'time')}, for {duration(length_ns)} in all."


def gone(after_ns: int, unfinished: int, uffds: int, status: str | None) -> str:
    """Ended with the VM. after_ns: since the last sign."""
    parts = [f"The VM went away {duration(max(after_ns, 0))} after the last sign of it"]
    if unfinished:
        parts.append(f"{counted(unfinished, 'fault')} never ended")
    if uffds:
        parts.append(counted(uffds, "userfaultfd was", "userfaultfds were") + " still registered")
    if status:
        parts.append(f"QEMU had last said “{status}”")
    return "; ".join(parts) + "."
