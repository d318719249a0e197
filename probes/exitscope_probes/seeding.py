"""vCPU threads that were already inside KVM_RUN when the probes attached: no hook sees them enter."""

import platform
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from .only import ALL, Only
from .procfs import Proc, vcpu_number
from .reads import Reads, Unreadable

KVM_RUN: Final = 0xAE80  # include/uapi/linux/kvm.h
_PF_USER_WORKER: Final = 0x4000  # include/linux/sched.h
_FAST_S, _FAST_SEARCHES, _SLOW_S = 0.1, 20, 1.0
_NR_IOCTL: Final = {"x86_64": 16, "aarch64": 29}


class Seeder(Protocol):
    """Who is told: loader.Probes, in the end."""

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        """Tell the probes that the thread is inside KVM_RUN on this fd."""


@dataclass(slots=True)
class _Process:
    user: int
    start_ticks: int | None
    vcpu_fds: set[int]  # not yet known to run anywhere
    threads: set[int]  # may be inside KVM_RUN, on a processor just now


class Seeding:
    """Finds them in /proc; a thread on a processor hides its system call, so `search` is to be repeated.

    only: whose VMs are looked for.
    """

    def __init__(self, probes: Seeder, proc: Proc | None = None, only: Only = ALL) -> None:
        self._probes = probes
        self._proc = proc or Proc()
        self._ioctl = str(_NR_IOCTL.get(platform.machine(), -1))
        self._reads = Reads(budget=False)
        self._processes: dict[int, _Process] = {}
        for pid in self._proc.pids():
            if not only.includes(pid, self._proc):
                continue
            with suppress(Unreadable):
                user = self._proc.user(pid)
                if process := self._reads.read(pid, user, partial(self._list, pid, user)):
                    self._processes[pid] = process

    def _list(self, pid: int, user: int) -> _Process | None:
        links = self._proc.fd_links(pid) or {}
        fds = {fd for fd, link in links.items() if vcpu_number(link) is not None}
        return _Process(user, self._proc.start_ticks(pid), fds, set(self._proc.tasks(pid))) if fds else None

    @property
    def done(self) -> bool:
        """Nothing is left to look for."""
        return not self._processes

    def search(self) -> int:
        """One look at every open thread; returns how many were found."""
        found = 0
        for pid, process in list(self._processes.items()):
            if self._proc.start_ticks(pid) != process.start_ticks:
                del self._processes[pid]
                continue
            try:
                looked = self._reads.read(pid, process.user, partial(self._look, pid, list(process.threads)))
            except Unreadable:
                continue
            for tid, fd in looked.items():
                # In a system call, or asleep outside one: any later KVM_RUN is seen by the hooks.
                process.threads.discard(tid)
                if fd in process.vcpu_fds:
                    self._probes.seed_thread(tid, fd)
                    process.vcpu_fds.discard(fd)
                    found += 1
            if not process.vcpu_fds or not process.threads:
                del self._processes[pid]
        return found

    def _look(self, pid: int, threads: list[int]) -> dict[int, int]:
        """Descriptor of the KVM_RUN that each thread is in, -1: it is in none; not those that are on a processor."""
        found = {}
        for tid in threads:
            words = (self._proc.text(pid, "task", tid, "syscall") or "gone").split()
            if words[0] == "running":
                continue
            in_ioctl = words[0] == self._ioctl and len(words) > 3  # "-1": asleep outside a system call
            run = in_ioctl and int(words[2], 16) == KVM_RUN and not self._is_user_worker(pid, tid)
            found[tid] = int(words[1], 16) if run else -1
        return found

    def _is_user_worker(self, pid: int, tid: int) -> bool:
        """KVM's own thread in the VMM (kvm-nx-lpage-recovery, Linux 6.14): it shows the KVM_RUN that started it."""
        fields = (self._proc.text(pid, "task", tid, "stat") or "").rpartition(")")[2].split()
        return len(fields) > 6 and bool(int(fields[6]) & _PF_USER_WORKER)  # flags, the ninth field of proc(5)


class SeedingThread:
    """A search in a thread of its own, until nothing is left to look for."""

    def __init__(self, only: Only = ALL) -> None:
        self._only = only
        self._found: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Nothing will be found any more."""
        return not self._thread.is_alive() and self._found.empty()

    def found(self) -> list[tuple[int, int]]:
        """(thread id, vCPU's descriptor) of those found since the last call."""
        return [self._found.get() for _ in range(self._found.qsize())]

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        """See Seeder."""
        self._found.put((tid, vcpu_fd))

    def _run(self) -> None:
        seeding = Seeding(self, only=self._only)
        searches = 0
        while not seeding.done:
            seeding.search()
            searches += 1
            time.sleep(_FAST_S if searches < _FAST_SEARCHES else _SLOW_S)
