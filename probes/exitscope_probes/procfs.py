"""Reading /proc, where all may vanish between two looks: what is absent is None or empty, no exception."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_FDS: Final = 4096
MAX_TASKS: Final = 4096
_MAX_TEXT_BYTES: Final = 64 << 10
_NS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # nothing that a process that is gone would say
_ENDED: Final = ("Z", "X", "x")  # states of proc(5): a zombie is listed, and does nothing any more

KVM_VM: Final = "anon_inode:kvm-vm"
KVM_VCPU: Final = "anon_inode:kvm-vcpu"  # followed by ":N" and, on some kernels, by more
USERFAULTFD: Final = "anon_inode:[userfaultfd]"


class Proc:
    """One procfs; `root` is another directory only in tests."""

    def __init__(self, root: Path | str = "/proc") -> None:
        self.root = str(root)

    def text(self, *path: object, limit_bytes: int = _MAX_TEXT_BYTES) -> str | None:
        """The first limit_bytes (64 KiB) of a file, NUL bytes kept; None if it cannot be read.

        Raises OSError where it is us who lack descriptors or memory.
        """
        try:
            with open("/".join((self.root, *map(str, path))), "rb") as file:
                return file.read(limit_bytes).decode(errors="replace")
        except OSError as error:
            if error.errno in _OURS:
                raise
            return None

    def pids(self) -> list[int]:
        """All processes."""
        return [int(name) for name in self._names(self.root, 1 << 22) if name.isdigit()]

    def tasks(self, pid: int) -> list[int]:
        """The threads of a process, at most MAX_TASKS."""
        return [int(name) for name in self._names(f"{self.root}/{pid}/task", MAX_TASKS) if name.isdigit()]

    def fd_links(self, pid: int) -> dict[int, str] | None:
        """{fd: what it is} of a process, at most MAX_FDS; None if we may not see them."""
        directory = f"{self.root}/{pid}/fd"
        # Without effective_ids capabilities do not count for a user who is not root.
        if not os.access(directory, os.R_OK | os.X_OK, effective_ids=True):
            return None
        links = {}
        for name in self._names(directory, MAX_FDS):
            try:
                links[int(name)] = os.readlink(f"{directory}/{name}")
            except PermissionError:
                return None
            except (OSError, ValueError):
                continue
        return links

    def link(self, *path: object) -> str:
        """What a symbolic link says, "" if it cannot be read."""
        try:
            return os.readlink("/".join((self.root, *map(str, path))))
        except OSError:
            return ""

    def start_ticks(self, pid: int) -> int | None:
        """When the process started, in clock ticks since boot; None if it is gone or a zombie."""
        fields = (self.text(pid, "stat") or "").rpartition(")")[2].split()
        # fields[0] is the state, the third field of proc(5); starttime is the 22nd.
        if len(fields) < 20 or fields[0] in _ENDED:
            return None
        return int(fields[19])

    def thread_name(self, pid: int, tid: int) -> str:
        """The comm of a thread, "" if it is gone."""
        return (self.text(pid, "task", tid, "comm") or "").rstrip("\n")

    def user(self, pid: int) -> int:
        """The real user id of a process, which it cannot change by itself; -1 if it is gone."""
        return self._status(pid, "Uid:")

    def cpu_ns(self, tid: int) -> int | None:
        """CPU time that a thread, of any process, has had; None if it is gone or a zombie.

        schedstat's first number is exact, and of a thread that runs right now up to its CPU's last tick
        (kernel/sched/core.c, update_curr); on kernels without CONFIG_SCHED_INFO there are only whole clock ticks.
        """
        fields = (self.text(tid, "task", tid, "stat") or "").rpartition(")")[2].split()
        if len(fields) < 13 or fields[0] in _ENDED:
            return None
        spent = (self.text(tid, "task", tid, "schedstat") or "").split()
        if spent and spent[0].isdigit() and spent != ["0"] * 3:
            return int(spent[0])
        return sum(map(int, fields[11:13])) * _NS_PER_TICK  # utime and stime, the 14th and 15th fields of proc(5)

    def process_of(self, tid: int) -> int | None:
        """The process that a thread belongs to."""
        pid = self._status(tid, "Tgid:")
        return pid if pid >= 0 else None

    def _status(self, pid: int, name: str) -> int:
        """The first number of a line of proc(5)'s status, -1 if there is none."""
        for line in (self.text(pid, "status") or "").splitlines():
            if line.startswith(name):
                return int(line.split()[1])
        return -1

    def parent(self, pid: int) -> int | None:
        """The process that a process is a child of; 0 for the first one, None if it is gone."""
        fields = (self.text(pid, "stat") or "").rpartition(")")[2].split()
        return int(fields[1]) if len(fields) > 1 else None  # the fourth field of proc(5)

    def cgroup(self, pid: int) -> str | None:
        """Its control group of version 2, from the root of the hierarchy; None if it is gone or has none."""
        for line in (self.text(pid, "cgroup") or "").splitlines():
            if line.startswith("0::"):
                return line.removeprefix("0::")
        return None

    def executable(self, pid: int) -> str:
        """The name of the executable file, "" if it is gone."""
        try:
            return os.path.basename(os.readlink(f"{self.root}/{pid}/exe")).removesuffix(" (deleted)")
        except OSError:
            return ""

    def arguments(self, pid: int) -> list[str]:
        """The command line."""
        return (self.text(pid, "cmdline") or "").rstrip("\0").split("\0")

    def uffd_queue(self, pid: int, fd: int) -> tuple[int, int] | None:
        """(pending, total) waiters of a userfaultfd: fs/userfaultfd.c, userfaultfd_show_fdinfo."""
        values = {}
        for line in (self.text(pid, "fdinfo", fd) or "").splitlines():
            key, _, value = line.partition(":")
            values[key] = value.strip()
        try:
            return int(values["pending"]), int(values["total"])
        except (KeyError, ValueError):
            return None

    def block_bytes(self, pid: int, fd: int) -> int | None:
        """The block size of the file system that an open file lies in; None if it cannot be asked."""
        try:
            return os.statvfs(f"{self.root}/{pid}/fd/{fd}").f_bsize
        except OSError:
            return None

    @staticmethod
    def _names(directory: str, limit: int) -> Iterator[str]:
        try:
            with os.scandir(directory) as entries:
                for count, entry in enumerate(entries):
                    if count >= limit:
                        return
                    yield entry.name
        except OSError:
            return


def vcpu_number(link: str) -> int | None:
    """N of "anon_inode:kvm-vcpu:N", None for any other link."""
    prefix, _, number = link.partition(KVM_VCPU + ":")
    return int(number) if not prefix and number.isdigit() else None


def is_kvm(link: str) -> bool:
    """Whether an fd keeps a VM alive."""
    return link == KVM_VM or link.startswith(KVM_VCPU)
