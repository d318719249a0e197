"""Who each VM is: from the numbers in the kernel's rows to processes, names, threads and userfaultfds."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from .memory import backing, command_line, uffd_features
from .procfs import MAX_FDS, MAX_TASKS, USERFAULTFD, Proc, is_kvm
from .reads import Reads, Unreadable
from .records import ADDRESS_UNKNOWN, VCPU_OTHER
from .threads import SERVING, role_of
from .totals import Totals
from .vmids import VmIds
from .vmm import identify, libvirt_domain, uuid_of

MAX_UFFDS: Final = 64
MAX_HANDLERS: Final = 8
MAX_THREADS: Final = 64
MAX_ADDRESSES: Final = 8
_LOOK_NS: Final = 900_000_000  # a process is looked at this often, and when its vCPUs change
_FD_SCAN_NS: Final = 2_000_000_000  # its fds and threads are listed this often, its known uffds read every time
_EXITED_NS: Final = 1_000_000_000  # all vCPU threads must have been gone this long: a VMM may start new ones


@dataclass(frozen=True, slots=True)
class Rows:
    """What the kernel's rows say of who is there. vms: (number, pid); vcpus: (slot, VM, pid, vCPU, tid, exited);
    ended: numbers of the VMs whose last descriptor is closed."""

    vms: list[tuple[int, int]]
    vcpus: list[tuple[int, int, int, int, int, int]]
    ended: Collection[int] = ()

    @classmethod
    def of(cls, totals: Totals) -> "Rows":
        """Out of the totals."""
        columns = (totals.vcpus[name].tolist() for name in ("vm", "tgid", "vcpu", "tid", "exited"))
        vms = zip(totals.vms["vm"].tolist(), totals.vms["tgid"].tolist(), strict=True)
        return cls(list(vms), list(zip(totals.slots.tolist(), *columns, strict=True)), totals.ended)


_Vcpu = tuple[int, int, int, bool]  # vCPU number, slot, tid, exited


@dataclass(frozen=True, slots=True)
class _Identity:
    name: str
    vmm: str
    command: str = ""
    uuid: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class _Scan:
    """What is open in a VM's process, and which threads it has."""

    without_fds: bool = False
    uffds: tuple[tuple[int, int], ...] = ()  # (pid, fd)
    threads: dict[int, tuple[str, str]] = field(default_factory=dict)  # thread id -> name, role; no vCPUs
    features: dict[tuple[int, int], list[str] | None] = field(default_factory=dict)  # by (pid, fd)
    backing: tuple[str, int] | None = None
    addresses: int = 0  # how many of the addresses `backing` is from


@dataclass(frozen=True, slots=True)
class _Look:
    """What is newly known of a VM's process. handlers: thread id -> pid, name, name of the process; lives: by pid."""

    identity: _Identity
    scan: _Scan
    names: dict[int, str]
    handlers: dict[int, tuple[int, str, str]]
    queues: list[dict[str, int]]
    cpu_ns: dict[int, int | None]
    lives: dict[int, bool]


@dataclass(slots=True)
class _Vm:
    number: int
    pid: int
    start_ticks: int | None
    user: int
    id: str
    comm: str
    identity: _Identity | None = None
    scan: _Scan = field(default_factory=_Scan)
    thread_names: dict[int, str] = field(default_factory=dict)
    handlers: dict[int, tuple[int, str, str] | None] = field(default_factory=dict)  # the one that served last is last
    readers: dict[int, tuple[int, str, str] | None] = field(default_factory=dict)  # of its events; they live
    queues: list[dict[str, int]] = field(default_factory=list)
    cpu_ns: dict[int, int | None] = field(default_factory=dict)
    lives: dict[int, bool] = field(default_factory=dict)  # whether a handler's process is still there, by pid
    addresses: list[int] = field(default_factory=list)  # hvas of a few faults: they lie in guest memory
    looked_ns: int | None = None
    scanned_ns: int | None = None
    exited_ns: int | None = None
    unreadable: str | None = None


class Discovery:
    """Keeps what it has found out about each VM until `forget`. ids: VM number -> id, as an earlier one gave them;
    given: those, and such as are in use no more."""

    def __init__(
        self,
        proc: Proc | None = None,
        reads: Reads | None = None,
        ids: dict[int, str] | None = None,
        given: VmIds | None = None,
    ) -> None:
        self._proc = proc or Proc()
        self._reads = reads or Reads()
        self._ids = ids or {}
        self._given = given or VmIds()
        self._vms: dict[int, _Vm] = {}
        self._ended: Collection[int] = ()

    def note_handlers(self, served: Iterable[tuple[int, int]]) -> None:
        """Remember which threads resolved faults, from a few records: (VM number, thread id), the newest last."""
        for number, tid in served:
            vm = self._vms.get(number)
            if not vm or not tid:
                continue
            if tid not in vm.handlers:
                vm.looked_ns = vm.scanned_ns = None
            vm.handlers[tid] = vm.handlers.pop(tid, None)
            if len(vm.handlers) > MAX_HANDLERS:
                del vm.handlers[next(iter(vm.handlers))]

    def note_readers(self, reading: Iterable[tuple[int, int]]) -> None:
        """Remember which threads read the VMs' events: (VM number, thread id), as long as they live."""
        for number, tid in reading:
            vm = self._vms.get(number)
            if vm and tid not in vm.readers and len(vm.readers) < MAX_HANDLERS:
                vm.readers[tid] = None
                vm.looked_ns = vm.scanned_ns = None

    def note_addresses(self, asked: Iterable[tuple[int, int]]) -> None:
        """Remember where guest memory lies, from a few records: (VM number, hva)."""
        for number, hva in asked:
            vm = self._vms.get(number)
            if vm and hva != ADDRESS_UNKNOWN and len(vm.addresses) < MAX_ADDRESSES:
                vm.addresses.append(hva)
                if len(vm.addresses) == 1:  # at once: it may live for a moment only
                    vm.looked_ns = vm.scanned_ns = None
                    self._look_at(vm, [], 0)

    def meet(self, rows: Rows) -> tuple[dict[int, int], dict[int, list[_Vcpu]]]:
        """Know every VM of the rows, without a look at its process yet. Returns what _gathered does."""
        pid_of, vcpus_of = _gathered(rows)
        first_tid = {number: min((tid for _, _, tid, _ in vcpus), default=0) for number, vcpus in vcpus_of.items()}
        # By thread id, not by number: a restarted collector numbers the VMs of one process alike.
        for number in sorted(pid_of.keys() - self._vms.keys(), key=lambda n: (first_tid.get(n, 0), n)):
            self._vms[number] = self._meet(number, pid_of[number])
        return pid_of, vcpus_of

    def describe(self, rows: Rows, now_ns: int) -> list[dict[str, Any]]:
        """Every VM of the rows, as wire.Kind.VMS wants it; state "gone" once it has ended."""
        self._ended = rows.ended
        pid_of, vcpus_of = self.meet(rows)
        return [self._entry(self._vms[n], sorted(vcpus_of.get(n, [])), now_ns) for n in sorted(pid_of)]

    def forget(self, number: int) -> None:
        """The VM is gone and its slots are free."""
        self._vms.pop(number, None)
        self._ids.pop(number, None)

    def _meet(self, number: int, pid: int) -> _Vm:
        """Only what no process can make slow."""
        start_ticks = self._proc.start_ticks(pid)
        known = self._ids.get(number) or self._given.give(pid, start_ticks)
        comm = (self._proc.text(pid, "comm") or "").rstrip("\n")
        return _Vm(number, pid, start_ticks, self._proc.user(pid), known, comm)

    def _entry(self, vm: _Vm, vcpus: list[_Vcpu], now_ns: int) -> dict[str, Any]:
        gone = self._is_gone(vm, vcpus, now_ns)
        vmm, name = identify("", (), vm.comm)
        who = vm.identity or _Identity(name, vmm)
        return {
            "vm": vm.number,
            "id": vm.id,
            "pid": vm.pid,
            "user": vm.user,
            "name": who.name,
            "vmm": who.vmm,
            "state": "gone" if gone else "running",
            "unreadable": None if gone else vm.unreadable,
            "vcpus": [
                {"vcpu": vcpu, "slot": slot, "tid": tid, "name": vm.thread_names.get(tid, "")}
                for vcpu, slot, tid, _ in vcpus
            ],
            "uffds": [] if gone else vm.queues,
            "uuid": who.uuid,
            "domain": who.domain,
            "threads": [
                {"tid": tid, "name": name, "role": role, "cpu_ns": vm.cpu_ns.get(tid)}
                for tid, (name, role) in sorted(vm.scan.threads.items())
            ],
            "command": who.command,
            "handlers": [
                {"tid": tid, "name": name, "cpu_ns": vm.cpu_ns.get(tid), "pid": pid, "process": process}
                | {"lives": vm.lives.get(pid) if pid else None}
                | ({"reads": True} if tid in vm.readers else {})
                | ({"role": "uffd reader"} if tid not in vm.handlers else {})
                for tid, found in {**vm.readers, **vm.handlers}.items()
                for pid, name, process in [found or (None, "", None)]
            ],
            "uffd_features": _joined(list(vm.scan.features.values())),
            "backing": vm.scan.backing[0] if vm.scan.backing else None,
            "memory_bytes": vm.scan.backing[1] if vm.scan.backing else None,
        }

    def _is_gone(self, vm: _Vm, vcpus: list[_Vcpu], now_ns: int) -> bool:
        start_ticks = self._proc.start_ticks(vm.pid)
        if vm.number in self._ended or start_ticks is None or start_ticks != vm.start_ticks:
            return True
        new = any(not vm.thread_names.get(tid) for _, _, tid, exited in vcpus if not exited)
        if vm.looked_ns is None or new or now_ns - vm.looked_ns >= _LOOK_NS:
            self._look_at(vm, vcpus, now_ns)
        if vcpus and all(exited for *_, exited in vcpus):
            vm.exited_ns = now_ns if vm.exited_ns is None else vm.exited_ns
        else:
            vm.exited_ns = None
        return vm.scan.without_fds or (vm.exited_ns is not None and now_ns - vm.exited_ns >= _EXITED_NS)

    def _look_at(self, vm: _Vm, vcpus: list[_Vcpu], now_ns: int) -> None:
        """Learn what is new of a process, as long as it lets itself be looked at."""
        vm.looked_ns = now_ns
        scan_due = vm.scanned_ns is None or now_ns - vm.scanned_ns >= _FD_SCAN_NS
        tids = [tid for _, _, tid, _ in vcpus]
        try:
            look = self._reads.read(vm.pid, vm.user, lambda: self._look(vm, tids, scan_due))
        except Unreadable as why:
            vm.unreadable = str(why)
            return
        vm.unreadable = None
        vm.identity, vm.scan, vm.queues, vm.cpu_ns = look.identity, look.scan, look.queues, look.cpu_ns
        vm.lives = look.lives
        vm.thread_names = look.names or vm.thread_names
        vm.handlers |= {tid: found for tid, found in look.handlers.items() if tid in vm.handlers}
        vm.readers = {tid: look.handlers.get(tid, found) for tid, found in vm.readers.items() if _lives(look, tid)}
        if scan_due:
            vm.scanned_ns = now_ns

    def _look(self, vm: _Vm, tids: list[int], scan_due: bool) -> _Look:
        """Reads only, in a thread of its own: it may take for ever."""
        proc, pid = self._proc, vm.pid
        known = {**vm.readers, **vm.handlers}
        handlers = {tid: found or self._handler(tid) for tid, found in known.items()}
        scan = self._scan(vm, {*tids, *vm.thread_names}, handlers) if scan_due else vm.scan
        queues = []
        for process, fd in scan.uffds:
            if queue := proc.uffd_queue(process, fd):
                queues.append({"fd": fd, "pending": queue[0], "total": queue[1]})
        return _Look(
            vm.identity or self._identity(vm),
            scan,
            {tid: vm.thread_names.get(tid) or proc.thread_name(pid, tid) for tid in tids},
            {tid: found for tid, found in handlers.items() if found},
            queues,
            {tid: proc.cpu_ns(tid) for tid in {*scan.threads, *handlers}},  # one may be both
            {found[0]: proc.start_ticks(found[0]) is not None for found in handlers.values() if found},
        )

    def _identity(self, vm: _Vm) -> _Identity:
        arguments = self._proc.arguments(vm.pid)
        vmm, name = identify(self._proc.executable(vm.pid), arguments, vm.comm)
        return _Identity(name, vmm, command_line(arguments), uuid_of(arguments), libvirt_domain(arguments))

    def _handler(self, tid: int) -> tuple[int, str, str] | None:
        pid = self._proc.process_of(tid)
        if pid is None:
            return None
        return pid, self._proc.thread_name(pid, tid), (self._proc.text(pid, "comm") or "").rstrip("\n")

    def _scan(self, vm: _Vm, vcpus: set[int], handlers: dict[int, tuple[int, str, str] | None]) -> _Scan:
        """Look through the fds and threads of the VM's process; its uffds may be in the handler's process alone."""
        links = self._proc.fd_links(vm.pid)
        listed = links is not None and len(links) < MAX_FDS
        uffds = _uffds(vm.pid, links)
        if not uffds:
            for pid in self._handler_processes(vm, handlers):
                uffds += _uffds(pid, self._proc.fd_links(pid))
        del uffds[MAX_UFFDS:]
        known, addresses = vm.scan, list(vm.addresses)
        memory = known.backing
        if len(addresses) > known.addresses:
            memory = backing(self._proc, vm.pid, addresses) or memory
        return _Scan(
            listed and not any(map(is_kvm, (links or {}).values())),
            tuple(uffds),
            self._roles(vm, vcpus),
            {key: known.features.get(key) or uffd_features(self._proc, *key) for key in uffds},
            memory,
            len(addresses),
        )

    def _roles(self, vm: _Vm, vcpus: set[int]) -> dict[int, tuple[str, str]]:
        """Of the process's threads whose name says what they are for; one that is new may not bear its name yet.

        At most MAX_THREADS, those first that serve faults; one of them that lives is not left out later.
        """
        roles: dict[int, tuple[str, str]] = {}
        tasks = self._proc.tasks(vm.pid)
        if len(tasks) >= MAX_TASKS:  # the list is cut off
            tasks += [tid for tid in vm.scan.threads.keys() - tasks if self._proc.thread_name(vm.pid, tid)]
        for tid in tasks:
            if tid in vcpus:
                continue
            known = vm.scan.threads.get(tid)
            name = known[0] if known else self._proc.thread_name(vm.pid, tid)
            role = role_of(name, tid == vm.pid)
            if role:
                roles[tid] = name, role
        first = sorted(roles, key=lambda tid: (roles[tid][1] not in SERVING, tid not in vm.scan.threads))
        return {tid: roles[tid] for tid in first[:MAX_THREADS]}

    def _handler_processes(self, vm: _Vm, handlers: dict[int, tuple[int, str, str] | None]) -> Iterable[int]:
        """Processes other than the VM's that handle faults of this VM and of no other."""
        pids = {found[0] for found in handlers.values() if found} - {vm.pid}
        others = [{**other.handlers, **other.readers} for other in list(self._vms.values()) if other is not vm]
        return sorted(pids - {self._proc.process_of(tid) for tids in others for tid in tids})


def _gathered(rows: Rows) -> tuple[dict[int, int], dict[int, list[_Vcpu]]]:
    """VM number -> its process, and -> its vCPUs."""
    pid_of, vcpus_of = dict(rows.vms), dict[int, list[_Vcpu]]()
    for slot, vm, pid, vcpu, tid, exited in rows.vcpus:
        pid_of.setdefault(vm, pid)
        if vcpu != VCPU_OTHER:
            vcpus_of.setdefault(vm, []).append((vcpu, slot, tid, bool(exited)))
    return pid_of, vcpus_of


def _lives(look: _Look, tid: int) -> bool:
    """Whether a thread did when it was looked at; one that is new since is not known yet."""
    return look.cpu_ns.get(tid, 0) is not None


def _joined(features: list[list[str] | None]) -> list[str] | None:
    """Of several userfaultfds; None if one could not be read."""
    known = [names for names in features if names is not None]
    return sorted({name for names in known for name in names}) if len(known) == len(features) else None


def _uffds(pid: int, links: dict[int, str] | None) -> list[tuple[int, int]]:
    return [(pid, fd) for fd, link in (links or {}).items() if link == USERFAULTFD]
