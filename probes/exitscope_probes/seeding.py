"""vCPU threads that were already inside KVM_RUN when the probes attached: no hook sees them enter."""

import platform
from dataclasses import dataclass
from typing import Final, Protocol

from .only import ALL, Only
from .procfs import Proc, vcpu_number

KVM_RUN: Final = 0xAE80  # include/uapi/linux/kvm.h
_PF_USER_WORKER: Final = 0x4000  # include/linux/sched.h
_NR_IOCTL: Final = {"x86_64": 16, "aarch64": 29}


class Seeder(Protocol):
    """What this needs of loader.Probes."""

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        """Tell the probes that the thread is inside KVM_RUN on this fd."""


@dataclass(slots=True)
class _Process:
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
        self._processes: dict[int, _Process] = {}
        for pid in self._proc.pids():
            links = (self._proc.fd_links(pid) or {}) if only.includes(pid, self._proc) else {}
            fds = {fd for fd, link in links.items() if vcpu_number(link) is not None}
            if fds:
                threads = set(self._proc.tasks(pid))
                self._processes[pid] = _Process(self._proc.start_ticks(pid), fds, threads)

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
            for tid in list(process.threads):
                words = (self._proc.text(pid, "task", tid, "syscall") or "gone").split()
                if words[0] == "running":
                    continue
                # In a system call, or asleep outside one ("-1"): any later KVM_RUN is seen by the hooks.
                process.threads.discard(tid)
                in_ioctl = words[0] == self._ioctl and len(words) > 3
                if in_ioctl and int(words[2], 16) == KVM_RUN and not self._is_user_worker(pid, tid):
                    fd = int(words[1], 16)
                    if fd in process.vcpu_fds:
                        self._probes.seed_thread(tid, fd)
                        process.vcpu_fds.discard(fd)
                        found += 1
            if not process.vcpu_fds or not process.threads:
                del self._processes[pid]
        return found

    def _is_user_worker(self, pid: int, tid: int) -> bool:
        """KVM's own thread in the VMM (kvm-nx-lpage-recovery, Linux 6.14): it shows the KVM_RUN that started it."""
        fields = (self._proc.text(pid, "task", tid, "stat") or "").rpartition(")")[2].split()
        return len(fields) > 6 and bool(int(fields[6]) & _PF_USER_WORKER)  # flags, the ninth field of proc(5)
