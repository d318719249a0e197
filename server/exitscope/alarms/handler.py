"""Rules: who resolves a VM's faults has vanished, or does nothing while vCPUs wait."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..vms import Vm
from ..words import counted
from .finding import Finding, beyond
from .sight import Sight, Wait
from .words import age, names

READERS: Final = frozenset({"uffd reader", "uffd handler"})
COPIERS: Final = frozenset({"page copier"})
"""Roles of threads (exitscope_probes.threads): who reads a fault's event, and who places its page."""

_GRACE_NS: Final = 300_000_000
"""A fault waits this long without a handler before it counts: threads end before the userfaultfd is closed."""

_REGISTERED_NS: Final = 5_000_000_000
"""So long may a userfaultfd outlive its handlers while nobody waits: ending a large VM's takes time."""

_MAX_KNOWN: Final = 64


@dataclass(slots=True)
class _Group:
    """Threads that do the same; known: those last seen, by thread id; gone_ns: when they were first missed."""

    known: dict[int, str] = field(default_factory=dict)
    gone_ns: int | None = None


@dataclass(slots=True)
class _Memory:
    groups: dict[str, _Group] = field(default_factory=dict)
    progress: int = -1
    progress_ns: int = 0


class Handlers:
    """Remembers each running VM's handling threads, and what they have done."""

    def __init__(self) -> None:
        self._memories: dict[str, _Memory] = {}

    def look(self, sight: Sight) -> Iterator[Finding]:
        """At most one finding per VM: gone is worse than stuck."""
        running = {vm.id for vm in sight.running}
        for vm_id in self._memories.keys() - running:
            del self._memories[vm_id]
        for vm in sight.running:
            memory = self._memories.setdefault(vm.id, _Memory())
            waits = sight.waits.get(vm.id, [])
            finding = _gone(sight, vm, memory, waits) or _stuck(sight, vm, memory, waits)
            if finding:
                yield finding


def _gone(sight: Sight, vm: Vm, memory: _Memory, waits: list[Wait]) -> Finding | None:
    if not waits and not vm.peer.uffds:  # all is over, as it should be
        memory.groups.clear()
    for what, threads in _handling(vm).items():
        group = memory.groups.setdefault(what, _Group())
        if threads:
            group.known, group.gone_ns = dict(list(threads.items())[-_MAX_KNOWN:]), None
        elif group.known and group.gone_ns is None:
            group.gone_ns = sight.time_ns
    starved = bool(waits) and waits[0].age_ns > _GRACE_NS
    gone_ns = {
        what: sight.time_ns - group.gone_ns for what, group in memory.groups.items() if group.gone_ns is not None
    }
    if not starved:
        gone_ns = {what: ns for what, ns in gone_ns.items() if what != "page copier" and ns >= _REGISTERED_NS}
    if not gone_ns:
        return None
    name = vm.name
    missing = [
        (what, names([f"{comm} ({tid})" for tid, comm in memory.groups[what].known.items()])) for what in gone_ns
    ]
    who = " and ".join(f"the {what} {threads}" for what, threads in missing)
    waiting = f"{counted(len(waits), 'vCPU')} of {name} wait{'s' if len(waits) == 1 else ''} for pages"
    consequence = waiting if starved else f"the userfaultfd of {name} is still registered"
    return Finding(
        "handler_gone",
        "critical" if starved else "warning",
        f"{who[0].upper()}{who[1:]} vanished, and {consequence}.",
        "Nobody will resolve these faults: start the handler again if the VMM can, or end the VM.",
        vm.id,
        name,
        waits[0].vcpu if starved else None,
        waits[0].age_ns if starved else max(gone_ns.values()),
    )


def _handling(vm: Vm) -> dict[str, dict[int, str]]:
    """What threads do -> those that live: their ids and names. Only who was seen to live can be missed."""
    found: dict[str, dict[int, str]] = {"uffd reader": {}, "page copier": {}, "fault handler": {}}
    for thread in vm.peer.threads:
        if thread.role in READERS | COPIERS:
            found["page copier" if thread.role in COPIERS else "uffd reader"][thread.tid] = thread.name or "thread"
    others = {vcpu.tid for vcpu in vm.peer.vcpus} | {thread.tid for thread in vm.peer.threads}
    for handler in vm.peer.handlers:
        if handler.cpu_ns is not None and handler.tid not in others:
            found["fault handler"][handler.tid] = handler.name or "thread"
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
