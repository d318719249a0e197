"""What guest memory is made of, and how its userfaultfds are set up: conditions that a fault's length depends on."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from .procfs import Proc

MAX_COMMAND: Final = 4096
_MAX_MAPS_BYTES: Final = 4 << 20
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")

# include/uapi/linux/userfaultfd.h: UFFD_FEATURE_*, by bit.
_UFFD_FEATURES: Final = (
    "PAGEFAULT_FLAG_WP EVENT_FORK EVENT_REMAP EVENT_REMOVE MISSING_HUGETLBFS MISSING_SHMEM EVENT_UNMAP SIGBUS "
    "THREAD_ID MINOR_HUGETLBFS MINOR_SHMEM EXACT_ADDRESS WP_HUGETLBFS_SHMEM WP_UNPOPULATED POISON WP_ASYNC MOVE"
).split()
_INITIALIZED: Final = 1 << 31  # fs/userfaultfd.c, UFFD_FEATURE_INITIALIZED: the kernel's own mark
_LINE: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)")  # proc(5), /proc/PID/maps


def command_line(arguments: Sequence[str]) -> str:
    """As a shell would take it, printable, MAX_COMMAND characters at most. It may hold secrets: see README."""
    text = shlex.join(arguments)[:MAX_COMMAND]
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def uffd_features(proc: Proc, pid: int, fd: int) -> list[str] | None:
    """Names of the features that a userfaultfd was opened with; None if its fdinfo cannot be read."""
    for line in (proc.text(pid, "fdinfo", fd) or "").splitlines():
        key, _, value = line.partition(":\t")
        numbers = value.split(":")
        if key == "API" and len(numbers) == 3:  # fs/userfaultfd.c, userfaultfd_show_fdinfo: API, features, known ones
            try:
                bits = int(numbers[1], 16) & ~_INITIALIZED
            except ValueError:
                return None
            names = (*_UFFD_FEATURES, *(f"BIT_{bit}" for bit in range(len(_UFFD_FEATURES), 64)))
            return [name for bit, name in enumerate(names) if bits >> bit & 1]
    return None


def backing(proc: Proc, pid: int, addresses: Iterable[int]) -> tuple[str, int] | None:
    """(what the mappings that hold these addresses are made of, their bytes); None if none does.

    anonymous, shmem, hugetlb N kB, file (shared) or file (private); several kinds are joined by " + ".
    """
    wanted = sorted(set(addresses))
    kinds: dict[str, None] = {}
    size_bytes = 0
    for line in (proc.text(pid, "maps", limit_bytes=_MAX_MAPS_BYTES) or "").splitlines():
        fields = _LINE.match(line)
        if not fields:
            continue
        start, end = int(fields[1], 16), int(fields[2], 16)
        if any(start <= address < end for address in wanted):
            kinds[_kind(proc, pid, fields[3], fields[4])] = None
            size_bytes += end - start
    return (" + ".join(kinds), size_bytes) if kinds else None


def _kind(proc: Proc, pid: int, permissions: str, path: str) -> str:
    if not path or path.startswith(("[anon:", "[heap")):
        return "anonymous"
    if path.startswith("/anon_hugepage"):
        return "hugetlb"
    for fd, link in (proc.fd_links(pid) or {}).items():
        if link == path:
            huge_bytes = proc.block_bytes(pid, fd)  # of hugetlbfs: the size of its pages
            if huge_bytes and huge_bytes > _PAGE_BYTES and huge_bytes & (huge_bytes - 1) == 0 and _is_memory(path):
                return f"hugetlb {huge_bytes >> 10} kB"
    if "huge" in path:
        return "hugetlb"
    if _is_memory(path):
        return "shmem"
    return "file (private)" if permissions.endswith("p") else "file (shared)"


def _is_memory(path: str) -> bool:
    return path.startswith(("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/dev/hugepages"))
