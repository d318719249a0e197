"""Which of the QEMUs that run now could be followed through a migration: looked at, not connected to."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from .monitorsocket import MonitorSockets
from .procfs import Proc
from .reads import Reads, Unreadable
from .vmm import identify

_MAX_NAMED: Final = 3


def survey(proc: Proc) -> list[tuple[str, str | None]]:
    """(name of the VM and its pid, None or why its monitor cannot be asked) of each QEMU of this host."""
    sockets = MonitorSockets(proc)
    reads = Reads()
    found = []
    for pid in sorted(proc.pids()):
        executable = proc.executable(pid)
        vmm, name = identify(executable, (), executable)
        if vmm != "QEMU":
            continue
        try:
            name, obstacle = reads.read(pid, proc.user(pid), partial(_look, proc, sockets, pid))
        except Unreadable as why:
            obstacle = str(why)
        found.append((f"{name} (pid {pid})", obstacle))
    return found


def _look(proc: Proc, sockets: MonitorSockets, pid: int) -> tuple[str, str | None]:
    executable = proc.executable(pid)
    _, name = identify(executable, proc.arguments(pid), executable)
    return name, _obstacle(sockets, pid)


def told(found: Sequence[tuple[str, str | None]]) -> str:
    """What `survey` has found, in a line."""
    if not found:
        return "no QEMU runs now"
    free = [name for name, reason in found if not reason]
    text = f"can be followed by QMP: {', '.join(free[:_MAX_NAMED]) or 'none'}{_more(len(free))}"
    taken = [f"{name}: {reason}" for name, reason in found if reason]
    return f"{text}; cannot: {'; '.join(taken[:_MAX_NAMED])}{_more(len(taken))}" if taken else text


def _more(count: int) -> str:
    return f" and {count - _MAX_NAMED} more" if count > _MAX_NAMED else ""


def _obstacle(sockets: MonitorSockets, pid: int) -> str | None:
    places, reason = sockets.places(pid, "QEMU")
    for place in places:
        closed = sockets.taken(pid, place)
        if closed is None and os.access(place.path, os.W_OK, effective_ids=True):
            return None
        reason = reason or (closed.reason if closed else f"{place.shown} may not be written to by this user")
    return reason
