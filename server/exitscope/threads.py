"""The threads that serve a VM: what each is for, the CPU time that it takes, and the faults that it resolves."""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.threads import role_of

from .peer import PeerThread
from .vms import Vm, Vms
from .window import NS_PER_S, Counters

MAX_THREADS: Final = 2048
"""Threads followed at once, of all VMs; discovery names at most some 70 of each."""

MAX_SHOWN: Final = 256
"""Threads in one frame: those that served most."""

HANDLER: Final = "handler"
"""Role of a thread that resolved faults and whose name does not say what it is for."""

_CPU_NS, _OBSERVED_NS, _SERVED = range(3)
_VCPU_ROLE: Final = "vCPU"
_SAMPLE_NS: Final = NS_PER_S // 2
"""CPU time is looked at once a second: what comes sooner may be an old value told again."""

_FRESH_NS: Final = 5 * NS_PER_S
"""So long a last share stands for a window in which there was no sample."""

_MAX_EARLY: Final = 1024
_Key = tuple[str, int]


@dataclass(slots=True)
class _Thread:
    """row: of the counters; busy: share between the last two samples."""

    row: int
    seen_ns: int
    name: str = ""
    role: str = ""
    cpu_ns: int | None = None
    sampled_ns: int = 0
    busy: float | None = None


class Threads:
    """See the module. counters: (MAX_THREADS, CPU time, time between its samples, faults served) int64."""

    def __init__(self) -> None:
        self.counters = Counters(MAX_THREADS, 3, np.int64)
        self._threads: OrderedDict[_Key, _Thread] = OrderedDict()  # the one not seen for the longest time first
        self._free = list(range(MAX_THREADS - 1, -1, -1))
        self._early: Counter[int] = Counter()  # VM number and thread id -> faults served before the VM was named

    def see(self, vms: Vms, time_ns: int) -> None:
        """Take over what discovery says of the VMs' threads."""
        rows, increments = [], []
        for vm in vms:
            if vm.gone_ns is not None:
                continue
            for peer in _threads_of(vm).values():
                thread = self._thread((vm.id, peer.tid), time_ns)
                if thread is None:
                    continue
                thread.name, thread.role = peer.name or "", _role_of(peer)
                if grown := _sample(thread, peer.cpu_ns, time_ns):
                    rows.append(thread.row)
                    increments.append(grown)
        if rows:
            cells = np.array(rows)[:, None] * self.counters.width + (_CPU_NS, _OBSERVED_NS)
            self.counters.add(cells.reshape(-1), np.array(increments).reshape(-1))
        if self._early:
            self._count(Counter(), vms, time_ns)
        known = {vm.id for vm in vms}
        for key in [key for key in self._threads if key[0] not in known]:
            self._release(key)

    def serve(self, records: npt.NDArray[Any], vms: Vms, time_ns: int) -> None:
        """Count who resolved these records FAULT_DTYPE (n,); vCPUs that resolve their own faults are left out."""
        served = (records["handler_tid"] != 0) & (records["handler_tid"] != records["tid"])
        keys = records["vm"].astype(np.uint64) << np.uint64(32) | records["handler_tid"]
        unique, counts = np.unique(keys[served], return_counts=True)
        self._count(Counter(dict(zip(unique.tolist(), counts.tolist(), strict=True))), vms, time_ns)

    def _count(self, served: Counter[int], vms: Vms, time_ns: int) -> None:
        served, self._early = served + self._early, Counter()
        rows, increments = [], []
        for key, count in served.items():
            vm = vms.named(key >> 32)
            if vm is None and len(self._early) < _MAX_EARLY:
                self._early[key] = count
            thread = self._thread((vm.id, key & 0xFFFF_FFFF), time_ns) if vm else None
            if thread is not None:
                rows.append(thread.row * self.counters.width + _SERVED)
                increments.append(count)
        self.counters.add(np.array(rows, np.int64), np.array(increments, np.int64))

    def forget(self) -> None:
        """Another collector: VM numbers mean nothing any more."""
        self._early.clear()

    def shown(self, vms: list[Vm], length_ns: int) -> list[dict[str, Any]]:
        """Of a frame: the threads of these VMs that have a role or served in the window, no vCPUs; by VM and tid."""
        counted = self.counters.since(length_ns, slice(None))
        vcpus = {(vm.id, vcpu.tid) for vm in vms for vcpu in vm.peer.vcpus}
        have_role = {(vm.id, peer.tid) for vm in vms for peer in vm.peer.threads if peer.role}
        order = {vm.id: number for number, vm in enumerate(vms)}
        found: list[dict[str, Any]] = []
        for key, thread in self._threads.items():
            vm_id, tid = key
            if vm_id not in order or key in vcpus or thread.role.startswith(_VCPU_ROLE):
                continue
            cpu_ns, observed_ns, served = counted[thread.row].tolist()
            if key not in have_role and not served:
                continue
            busy = _share(cpu_ns, observed_ns) if observed_ns > 0 else self._last_busy(thread)
            found.append({"tid": tid, "vm": vm_id, **_called(thread, tid), "busy": busy, "served": served})
        most = sorted(found, key=lambda entry: -entry["served"])[:MAX_SHOWN]
        return sorted(most, key=lambda entry: (order[entry["vm"]], entry["tid"]))

    def named(self, vm: Vm | None, tid: int) -> dict[str, str] | None:
        """Name and role of a thread, vCPUs included; None if it is not known."""
        if vm is None or not tid:
            return None
        for vcpu in vm.peer.vcpus:
            if vcpu.tid == tid:
                return {"name": vcpu.name or f"vCPU {vcpu.vcpu}", "role": f"{_VCPU_ROLE} {vcpu.vcpu}"}
        thread = self._threads.get((vm.id, tid))
        return _called(thread, tid) if thread and (thread.name or thread.role) else None

    def _thread(self, key: _Key, time_ns: int) -> _Thread | None:
        """The thread, a new one in the place of the one not seen for the longest time; None if all are in use."""
        thread = self._threads.get(key)
        if thread is None:
            if not self._free:
                oldest = next(iter(self._threads))
                if self._threads[oldest].seen_ns > time_ns - _FRESH_NS:
                    return None
                self._release(oldest)
            thread = self._threads[key] = _Thread(self._free.pop(), time_ns)
        thread.seen_ns = time_ns
        self._threads.move_to_end(key)
        return thread

    def _release(self, key: _Key) -> None:
        row = self._threads.pop(key).row
        self.counters.reset_row(row)
        self._free.append(row)

    def _last_busy(self, thread: _Thread) -> float | None:
        return thread.busy if self.counters.time_ns - thread.sampled_ns <= _FRESH_NS else None


def _threads_of(vm: Vm) -> dict[int, PeerThread]:
    """Thread id -> what discovery says of it: the role is in `threads`, those of another process in `handlers`."""
    return {peer.tid: peer for peer in (*vm.peer.handlers, *vm.peer.threads)}


def listed(vm: Vm) -> list[dict[str, Any]]:
    """The VM's threads as discovery names them: those with a role that are no vCPUs, and its handlers; by id."""
    vcpus = {vcpu.tid for vcpu in vm.peer.vcpus}
    return [
        {"tid": tid, "name": peer.name or f"thread {tid}", "role": _role_of(peer) or HANDLER}
        for tid, peer in sorted(_threads_of(vm).items())
        if tid not in vcpus and not _role_of(peer).startswith(_VCPU_ROLE)
    ]


def _role_of(peer: PeerThread) -> str:
    """What discovery says, or the name; handlers come with their names only."""
    return peer.role or role_of(peer.name or "", main=False) or ""


def _sample(thread: _Thread, cpu_ns: int | None, time_ns: int) -> tuple[int, int] | None:
    """(CPU time, time) since the last sample, ns; None if there is no difference to take."""
    before, passed_ns = thread.cpu_ns, time_ns - thread.sampled_ns
    if cpu_ns is None:
        thread.cpu_ns = thread.busy = None
        return None
    if before is not None and passed_ns < _SAMPLE_NS:
        return None
    thread.cpu_ns, thread.sampled_ns = cpu_ns, time_ns
    if before is None or cpu_ns < before:  # a thread that was not known, or another one with its id
        return None
    thread.busy = _share(cpu_ns - before, passed_ns)
    return cpu_ns - before, passed_ns


def _share(cpu_ns: int, observed_ns: int) -> float:
    return round(min(max(cpu_ns / observed_ns, 0.0), 1.0), 4)


def _called(thread: _Thread, tid: int) -> dict[str, str]:
    return {"name": thread.name or f"thread {tid}", "role": thread.role or HANDLER}
