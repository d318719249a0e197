"""Opening what a stranger's process names, with that process's own rights: root is led nowhere that it may not go."""

import ctypes
import errno
import os
import platform
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from .libc import libc, system_call
from .procfs import Proc

_MAX_LINKS: Final = 8
_MAX_PARTS: Final = 256
_NR_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159}
_OPEN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rights a process has on files: fsuid, fsgid and groups of its status file."""

    user: int
    group: int
    groups: tuple[int, ...]


def owner_of(proc: Proc, pid: int) -> Owner:
    """Raises ProcessLookupError if it is gone."""
    lines = dict(line.partition(":")[::2] for line in (proc.text(pid, "status") or "").splitlines())
    try:
        users, groups = lines["Uid"].split(), lines["Gid"].split()
        return Owner(int(users[3]), int(groups[3]), tuple(map(int, lines.get("Groups", "").split())))
    except (KeyError, IndexError, ValueError):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None


@contextmanager
def rights_of(owner: Owner) -> Iterator[None]:
    """This thread's rights on files are those of `owner` meanwhile, if it is root's to give them up.

    The system calls are of one thread, where libc's functions change all of them. A thread that cannot have its own
    rights back ends the process.
    """
    if os.geteuid() != 0 or owner.user == 0:
        yield
        return
    own = os.getgroups()
    _set_groups(owner.groups)
    libc("setfsgid", owner.group)
    libc("setfsuid", owner.user)
    try:
        if libc("setfsuid", -1) != owner.user:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        yield
    finally:
        libc("setfsuid", 0)
        libc("setfsgid", os.getegid())
        _set_groups(tuple(own))
        if libc("setfsuid", -1) != 0:
            os._exit(1)


def _set_groups(groups: tuple[int, ...]) -> None:
    system_call(_NR_SETGROUPS[platform.machine()], len(groups), (ctypes.c_uint32 * len(groups))(*groups))


def open_path(proc: Proc, path: str, owner: Owner) -> int:
    """An O_PATH descriptor of a path, which may begin with /proc/PID/root or cwd: links lead within that root then.

    Only links that root has made where nobody else may are followed, such as /var/run. Raises OSError.
    """
    base = re.match(rf"({re.escape(proc.root)}/[0-9]+)/(root|cwd)/", path)
    start = base[0] if base else "/" if path.startswith("/") else "."
    parts = path.removeprefix(start).split("/")
    root_fd = os.open(f"{base[1]}/root" if base else "/", os.O_PATH | os.O_CLOEXEC)
    try:
        fd = os.open(start, os.O_PATH | os.O_CLOEXEC)
        with rights_of(owner):
            return _walk(root_fd, fd, parts)
    finally:
        os.close(root_fd)


def _walk(root_fd: int, fd: int, parts: list[str]) -> int:
    """Takes fd over."""
    links = walked = 0
    try:
        while parts:
            part, *parts = parts
            walked += 1
            if walked > _MAX_PARTS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if part in ("", "."):
                continue
            if part == ".." and os.path.samestat(os.fstat(fd), os.fstat(root_fd)):
                continue
            above, fd = fd, os.open(part, _OPEN, dir_fd=fd)
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    continue
                links += 1
                if links > _MAX_LINKS or not _is_roots(above, fd):
                    raise OSError(errno.ELOOP, "its path leads through a symbolic link that is not root's")
                target = os.readlink("", dir_fd=fd)
                parts = [*target.split("/"), *parts]
                link, fd = fd, os.dup(root_fd if target.startswith("/") else above)
                os.close(link)
            finally:
                os.close(above)
        return fd
    except BaseException:
        os.close(fd)
        raise


def _is_roots(directory_fd: int, link_fd: int) -> bool:
    directory, link = os.fstat(directory_fd), os.fstat(link_fd)
    return directory.st_uid == link.st_uid == 0 and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
