"""Rules: who resolves a VM's faults has vanished, or does nothing while vCPUs wait."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..peer import PeerThread
from ..vms import Vm
from ..words import counted
from .finding import SHOWN_NS, Finding, beyond
from .sight import Sight, Wait
from .words import age, names

READERS: Final = frozenset({"uffd reader", "uffd handler"})
COPIERS: Final = frozenset({"page copier"})
"""Roles of threads (exitscope_probes.threads): who reads a fault's event, and who places its page."""

_BY_WORK: Final = "fault handler"
"""What a thread is called whose name says nothing: it was seen to resolve faults."""

_GRACE_NS: Final = 300_000_000
"""A fault waits this long without a handler before it counts: threads end before the userfaultfd is closed."""

_REGISTERED_NS: Final = 5_000_000_000
"""So long may a userfaultfd outlive its handlers while nobody waits: ending a large VM's takes time."""

_LATE_NS: Final = 2_000_000_000
"""So long after a userfaultfd was closed the last faults of it may be told."""

_MAX_KNOWN: Final = 64
_MAX_LISTED: Final = 64
"""Threads that discovery names of one process (exitscope_probes.discovery): a thread missing from more may be there."""


@dataclass(slots=True)
class _Group:
    """Threads that do the same; known: those last seen, by thread id; gone_ns: when they were first missed."""

    known: dict[int, PeerThread] = field(default_factory=dict)
    gone_ns: int | None = None


@dataclass(slots=True)
class _Memory:
    groups: dict[str, _Group] = field(default_factory=dict)
    progress: int = -1
    progress_ns: int = 0
    had_uffds_ns: int = 0  # when it was last seen to have a userfaultfd
    unfilled: int = 0  # faults that are told as such
    torn: tuple[int, Finding] | None = None  # since when the userfaultfd is closed under its waiters


class Handlers:
    """Remembers each running VM's handling threads, and what they have done."""

    def __init__(self) -> None:
        self._session: int | None = None
        self._memories: dict[str, _Memory] = {}

    def look(self, sight: Sight) -> Iterator[Finding]:
        """At most one finding per VM: gone is worse than stuck."""
        if self._session != sight.aggregate.sessions:  # another collector has to find the handlers anew
            self._session = sight.aggregate.sessions
            self._memories.clear()
        running = {vm.id for vm in sight.running}
        for vm_id in self._memories.keys() - running:
            del self._memories[vm_id]
        for vm in sight.running:
            memory = self._memories.setdefault(vm.id, _Memory())
            waits = sight.waits.get(vm.id, [])
            _see(sight, vm, memory, waits)
            finding = _torn(sight, vm, memory) or _gone(sight, vm, memory, waits) or _stuck(sight, vm, memory, waits)
            if finding:
                yield finding
            if not waits and sight.time_ns - memory.had_uffds_ns > _LATE_NS:  # all is over
                memory.groups.clear()


def _see(sight: Sight, vm: Vm, memory: _Memory, waits: list[Wait]) -> None:
    """Who handles the faults now, and who does not any more."""
    if vm.peer.unreadable:
        return
    if vm.peer.uffds:
        memory.had_uffds_ns = sight.time_ns
    for what, threads in _handling(vm).items():
        group = memory.groups.setdefault(what, _Group())
        if threads:
            group.known, group.gone_ns = dict(list(threads.items())[-_MAX_KNOWN:]), None
        elif not group.known:
            continue
        elif len(vm.peer.threads) >= _MAX_LISTED or (what == _BY_WORK and _lives_on(vm, group, waits)):
            group.gone_ns = None
        elif group.gone_ns is None:
            group.gone_ns = sight.time_ns


def _lives_on(vm: Vm, group: _Group, waits: list[Wait]) -> bool:
    """Whether the processes of these threads, that have ended, go on without them: as workers come and go.

    If who reads the events there is not known, somebody does: unless an event waits to be read.
    """
    lives = {thread.pid: thread.lives for thread in vm.peer.handlers if thread.pid is not None}
    pids = {thread.pid for thread in group.known.values()}
    alive = any(pid is not None and (pid == vm.peer.pid or lives.get(pid)) for pid in pids)
    reads = any(thread.reads and thread.cpu_ns is not None for thread in vm.peer.handlers)
    return alive and (reads or not (waits and vm.pending))


def _torn(sight: Sight, vm: Vm, memory: _Memory) -> Finding | None:
    """Faults that ended because their userfaultfd was closed, and not because anybody had answered them."""
    unfilled, before = sight.aggregate.unanswered.unfilled(vm.number), memory.unfilled
    gone = {what: group for what, group in memory.groups.items() if group.gone_ns is not None}
    closed = not vm.peer.uffds and (sight.time_ns - memory.had_uffds_ns <= _LATE_NS or bool(gone))
    memory.unfilled = unfilled if closed else min(before, unfilled)
    if closed and unfilled > before:
        name = vm.name
        who = f"{_listed(gone)} vanished, and the" if gone else "The"
        faults = f"{counted(unfilled, 'fault')} that nobody had answered ended with it"
        memory.torn = (
            sight.time_ns,
            Finding(
                "handler_gone",
                "critical",
                f"{who} userfaultfd of {name} was closed: {faults}, and what had not come by then reads as zeros.",
                "The VM runs on with memory that is not its own: stop it, and restore or migrate it anew.",
                vm.id,
                name,
                hold_ns=0,
            ),
        )
    if memory.torn is None or sight.time_ns - memory.torn[0] >= SHOWN_NS:
        memory.torn = None
        return None
    return memory.torn[1]


def _gone(sight: Sight, vm: Vm, memory: _Memory, waits: list[Wait]) -> Finding | None:
    starved = bool(waits) and waits[0].age_ns > _GRACE_NS
    gone_ns = {
        what: sight.time_ns - group.gone_ns for what, group in memory.groups.items() if group.gone_ns is not None
    }
    if not starved:
        gone_ns = {what: ns for what, ns in gone_ns.items() if what not in COPIERS and ns >= _REGISTERED_NS}
    if not gone_ns or not (starved or vm.peer.uffds):
        return None
    name = vm.name
    waiting = f"{counted(len(waits), 'vCPU')} of {name} wait{'s' if len(waits) == 1 else ''} for pages"
    consequence = waiting if starved else f"the userfaultfd of {name} is still registered"
    return Finding(
        "handler_gone",
        "critical" if starved else "warning",
        f"{_listed({what: memory.groups[what] for what in gone_ns})} vanished, and {consequence}.",
        "Nobody will resolve these faults: start the handler again if the VMM can, or end the VM.",
        vm.id,
        name,
        waits[0].vcpu if starved else None,
        waits[0].age_ns if starved else max(gone_ns.values()),
    )


def _listed(groups: dict[str, _Group]) -> str:
    """Such as: The uffd reader fault-default (700)."""
    threads = {
        what: [f"{thread.name or 'thread'} ({tid})" for tid, thread in group.known.items()]
        for what, group in groups.items()
    }
    who = " and ".join(f"the {what} {names(several)}" for what, several in threads.items())
    return f"{who[0].upper()}{who[1:]}"


def _handling(vm: Vm) -> dict[str, dict[int, PeerThread]]:
    """What threads do -> those that live, by id. Only who was seen to live can be missed."""
    found: dict[str, dict[int, PeerThread]] = {"uffd reader": {}, "page copier": {}, _BY_WORK: {}}
    for thread in vm.peer.threads:
        if thread.role in READERS | COPIERS:
            found["page copier" if thread.role in COPIERS else "uffd reader"][thread.tid] = thread
    others = {vcpu.tid for vcpu in vm.peer.vcpus} | {thread.tid for thread in vm.peer.threads}
    for handler in vm.peer.handlers:
        if handler.cpu_ns is not None and handler.role is None and handler.tid not in others:
            found[_BY_WORK][handler.tid] = handler
    return found


def _stuck(sight: Sight, vm: Vm, memory: _Memory, waits: list[Wait]) -> Finding | None:
    """Nothing read, filled or finished for long, though vCPUs wait and their faults are with the handler."""
    if not waits:
        memory.progress = -1
        return None
    totals = vm.totals(sight.aggregate.rows)
    progress = int(vm.events_read + totals["named_reads"].sum() + sight.aggregate.fills.now[vm.row].sum())
    if progress != memory.progress:
        memory.progress, memory.progress_ns = progress, sight.time_ns
    idle_ns = sight.time_ns - max(memory.progress_ns, waits[0].open_since_ns)
    limit_ns = sight.limits.handler_ns
    if not vm.total or not beyond(idle_ns, limit_ns):
        return None
    name = vm.name
    waiting = f"{counted(len(waits), 'vCPU')} wait{'s' if len(waits) == 1 else ''}"
    if vm.pending:
        queued = f"{counted(vm.pending, 'fault')} of {name} {'is' if vm.pending == 1 else 'are'} queued unread"
        message = f"{queued}, nothing has been read or filled for {age(idle_ns)}, and {waiting}."
        hint = "The thread that reads the userfaultfd does not run or is blocked: see its state and stack."
    else:
        read = f"The fault of {name} has" if vm.total == 1 else f"All {counted(vm.total, 'fault')} of {name} have"
        message = f"{read} been read, no page has been filled for {age(idle_ns)}, and {waiting}."
        hint = "The handler waits for the pages themselves: see the network or storage that they come from."
    return Finding("handler_stuck", "critical", message, hint, vm.id, name, waits[0].vcpu, idle_ns, limit_ns)
