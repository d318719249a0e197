"""Who each VM is: from the numbers in the kernel's rows to processes, names, threads and userfaultfds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .memory import backing, command_line, uffd_features
from .procfs import MAX_FDS, USERFAULTFD, Proc, is_kvm
from .records import ADDRESS_UNKNOWN, VCPU_OTHER
from .threads import role_of
from .totals import Totals
from .vmm import identify, libvirt_domain, uuid_of

MAX_UFFDS: Final = 64
MAX_HANDLERS: Final = 8
MAX_THREADS: Final = 64
_MAX_ADDRESSES: Final = 8
_FD_SCAN_NS: Final = 2_000_000_000  # a process's fds are listed this often, its known uffds read every time
_EXITED_NS: Final = 1_000_000_000  # all vCPU threads must have been gone this long: a VMM may start new ones


@dataclass(slots=True)
class _Vm:
    number: int
    pid: int
    start_ticks: int | None
    id: str
    name: str
    vmm: str
    thread_names: dict[int, str] = field(default_factory=dict)
    handlers: dict[int, None] = field(default_factory=dict)  # thread ids, in order of appearance
    uffds: list[tuple[int, int]] = field(default_factory=list)  # (pid, fd)
    scanned_ns: int | None = None
    exited_ns: int | None = None
    without_fds: bool = False
    command: str = ""
    uuid: str | None = None
    domain: str | None = None
    threads: dict[int, tuple[str, str]] = field(default_factory=dict)  # thread id -> name, role; no vCPUs
    features: dict[tuple[int, int], list[str] | None] = field(default_factory=dict)  # by (pid, fd)
    addresses: list[int] = field(default_factory=list)  # hvas of a few faults: they lie in guest memory
    backing: tuple[str, int] | None = None
    addresses_seen: int = 0  # how many of the addresses `backing` is from


class Discovery:
    """Keeps what it has found out about each VM until `forget`."""

    def __init__(self, proc: Proc | None = None) -> None:
        self._proc = proc or Proc()
        self._vms: dict[int, _Vm] = {}

    def note_handlers(self, vms: npt.NDArray[np.uint32], tids: npt.NDArray[np.uint32]) -> None:
        """Remember which threads resolved faults of which VM, from a few records: shape (n,) each."""
        for number, tid in set(zip(vms.tolist(), tids.tolist(), strict=True)):
            vm = self._vms.get(number)
            if vm and tid and tid not in vm.handlers and len(vm.handlers) < MAX_HANDLERS:
                vm.handlers[tid] = None
                vm.scanned_ns = None

    def note_addresses(self, vms: npt.NDArray[np.uint32], hvas: npt.NDArray[np.uint64]) -> None:
        """Remember where guest memory lies, from a few records: shape (n,) each."""
        for number, hva in zip(vms[-_MAX_ADDRESSES:].tolist(), hvas[-_MAX_ADDRESSES:].tolist(), strict=True):
            vm = self._vms.get(number)
            if vm and hva != ADDRESS_UNKNOWN and len(vm.addresses) < _MAX_ADDRESSES:
                vm.addresses.append(hva)
                if vm.addresses_seen == 0:  # at once: it may live for a moment only
                    self._look_at_memory(vm)

    def describe(self, totals: Totals, now_ns: int) -> list[dict[str, Any]]:
        """Every VM of the rows, as wire.Kind.VMS wants it; state "gone" once it has ended."""
        rows_of: dict[int, list[tuple[int, int, int, bool]]] = {}
        pid_of = dict(zip(totals.vms["vm"].tolist(), totals.vms["tgid"].tolist(), strict=True))
        columns = (totals.vcpus[name].tolist() for name in ("vm", "tgid", "vcpu", "tid", "exited"))
        for slot, vm, pid, vcpu, tid, exited in zip(totals.slots.tolist(), *columns, strict=True):
            pid_of.setdefault(vm, pid)
            if vcpu != VCPU_OTHER:
                rows_of.setdefault(vm, []).append((vcpu, slot, tid, bool(exited)))
        first_tid = {number: min((row[2] for row in rows), default=0) for number, rows in rows_of.items()}
        # By thread id, not by number: a restarted collector numbers the VMs of one process alike.
        for number in sorted(pid_of.keys() - self._vms.keys(), key=lambda n: (first_tid.get(n, 0), n)):
            self._vms[number] = self._meet(number, pid_of[number])
        return [self._entry(self._vms[n], sorted(rows_of.get(n, [])), now_ns) for n in sorted(pid_of)]

    def forget(self, number: int) -> None:
        """The VM is gone and its slots are free."""
        self._vms.pop(number, None)

    def _meet(self, number: int, pid: int) -> _Vm:
        start_ticks = self._proc.start_ticks(pid)
        base = f"{pid}-{start_ticks or 0}"
        taken = {vm.id for vm in self._vms.values()}
        names = (base, *(f"{base}-{n}" for n in range(2, len(taken) + 2)))
        comm = (self._proc.text(pid, "comm") or "").rstrip("\n")
        arguments = self._proc.arguments(pid)
        vmm, name = identify(self._proc.executable(pid), arguments, comm)
        vm = _Vm(number, pid, start_ticks, next(n for n in names if n not in taken), name, vmm)
        vm.command = command_line(arguments)
        vm.uuid, vm.domain = uuid_of(arguments), libvirt_domain(arguments)
        return vm

    def _entry(self, vm: _Vm, rows: list[tuple[int, int, int, bool]], now_ns: int) -> dict[str, Any]:
        gone = self._is_gone(vm, rows, now_ns)
        cpu_ns = {tid: self._proc.cpu_ns(tid) for tid in {*vm.threads, *vm.handlers}}  # one may be both
        return {
            "vm": vm.number,
            "id": vm.id,
            "pid": vm.pid,
            "name": vm.name,
            "vmm": vm.vmm,
            "state": "gone" if gone else "running",
            "vcpus": [
                {"vcpu": vcpu, "slot": slot, "tid": tid, "name": self._thread_name(vm, tid)}
                for vcpu, slot, tid, _ in rows
            ],
            "uffds": [] if gone else self._queues(vm),
            "uuid": vm.uuid,
            "domain": vm.domain,
            "threads": [
                {"tid": tid, "name": name, "role": role, "cpu_ns": cpu_ns[tid]}
                for tid, (name, role) in sorted(vm.threads.items())
            ],
            "command": vm.command,
            "handlers": [
                {"tid": tid, "name": self._thread_name(vm, tid), "cpu_ns": cpu_ns[tid]} for tid in vm.handlers
            ],
            "uffd_features": _joined(list(vm.features.values())),
            "backing": vm.backing[0] if vm.backing else None,
            "memory_bytes": vm.backing[1] if vm.backing else None,
        }

    def _is_gone(self, vm: _Vm, rows: list[tuple[int, int, int, bool]], now_ns: int) -> bool:
        start_ticks = self._proc.start_ticks(vm.pid)
        if start_ticks is None or start_ticks != vm.start_ticks:
            return True
        if vm.scanned_ns is None or now_ns - vm.scanned_ns >= _FD_SCAN_NS:
            vm.scanned_ns = now_ns
            self._scan(vm, {tid for _, _, tid, _ in rows})
        if rows and all(exited for *_, exited in rows):
            vm.exited_ns = now_ns if vm.exited_ns is None else vm.exited_ns
        else:
            vm.exited_ns = None
        return vm.without_fds or (vm.exited_ns is not None and now_ns - vm.exited_ns >= _EXITED_NS)

    def _scan(self, vm: _Vm, vcpus: set[int]) -> None:
        """Look through the fds and threads of the VM's process; its uffds may be in the handler's process alone."""
        links = self._proc.fd_links(vm.pid)
        listed = links is not None and len(links) < MAX_FDS
        vm.without_fds = listed and not any(map(is_kvm, (links or {}).values()))
        vm.uffds = _uffds(vm.pid, links)
        if not vm.uffds:
            for pid in self._handler_processes(vm):
                vm.uffds += _uffds(pid, self._proc.fd_links(pid))
        del vm.uffds[MAX_UFFDS:]
        vm.threads = self._roles(vm, vcpus)
        for pid, fd in vm.uffds:
            if (pid, fd) not in vm.features:
                vm.features[pid, fd] = uffd_features(self._proc, pid, fd)
        if len(vm.addresses) > vm.addresses_seen:
            self._look_at_memory(vm)

    def _roles(self, vm: _Vm, vcpus: set[int]) -> dict[int, tuple[str, str]]:
        """Of the process's threads whose name says what they are for; one that is new may not bear its name yet."""
        roles: dict[int, tuple[str, str]] = {}
        for tid in self._proc.tasks(vm.pid):
            if tid in vcpus or len(roles) >= MAX_THREADS:
                continue
            name = vm.threads[tid][0] if tid in vm.threads else self._proc.thread_name(vm.pid, tid)
            role = role_of(name, tid == vm.pid)
            if role:
                roles[tid] = name, role
        return roles

    def _look_at_memory(self, vm: _Vm) -> None:
        vm.addresses_seen = len(vm.addresses)
        vm.backing = backing(self._proc, vm.pid, vm.addresses) or vm.backing

    def _handler_processes(self, vm: _Vm) -> Iterable[int]:
        """Processes other than the VM's that handle faults of this VM and of no other."""
        pids = {self._proc.process_of(tid) for tid in vm.handlers} - {vm.pid, None}
        others = {
            self._proc.process_of(tid) for other in self._vms.values() if other is not vm for tid in other.handlers
        }
        return sorted(pid for pid in pids - others if pid is not None)

    def _thread_name(self, vm: _Vm, tid: int) -> str:
        name = vm.thread_names.get(tid)
        if not name:
            name = self._proc.thread_name(vm.pid, tid)
            vm.thread_names[tid] = name
        return name

    def _queues(self, vm: _Vm) -> list[dict[str, int]]:
        queues = []
        for pid, fd in vm.uffds:
            queue = self._proc.uffd_queue(pid, fd)
            if queue:
                queues.append({"fd": fd, "pending": queue[0], "total": queue[1]})
        return queues


def _joined(features: list[list[str] | None]) -> list[str] | None:
    """Of several userfaultfds; None if one could not be read."""
    known = [names for names in features if names is not None]
    return sorted({name for names in known for name in names}) if len(known) == len(features) else None


def _uffds(pid: int, links: dict[int, str] | None) -> list[tuple[int, int]]:
    return [(pid, fd) for fd, link in (links or {}).items() if link == USERFAULTFD]
