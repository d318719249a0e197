"""Who listens on a unix socket, and who is connected to it, without connecting: /proc/PID/net/unix."""

import os
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .procfs import Proc

MAX_TABLE_BYTES: Final = 8 << 20
_DIAG_S: Final = 0.2  # the kernel answers at once
_KEEP_S: Final = 0.005  # several VMs that are looked at in one go share the table
# include/uapi/linux/: netlink.h, sock_diag.h, unix_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_UDIAG_SHOW_VFS, _UNIX_DIAG_VFS = 2, 1
_LISTENING: Final = 1 << 10  # TCP_LISTEN, include/net/tcp_states.h
_NO_COOKIE: Final = 0xFFFFFFFF
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_ANSWER: Final = struct.Struct("=BBBBIII")  # struct unix_diag_msg
_ACCEPTING: Final = 0x10000  # __SO_ACCEPTCON, include/linux/net.h
_PREFIX, _SUFFIX = "socket:[", "]"  # of the link of a socket's descriptor, net/socket.c


@dataclass(frozen=True, slots=True)
class Row:
    """A socket with a name. inode: 0 for the server's end of a connection that has not been accepted yet."""

    path: str
    inode: int
    listening: bool


class UnixSockets:
    """The unix sockets that a process may have to do with.

    A socket is listed in the network namespace that made it, the server's end of a connection in the client's: so in
    ours and in that of the process asked about. What is connected from a third one is not seen.
    """

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self._tables: dict[str, tuple[float, str]] = {}  # of a network namespace: read when, text

    def at(self, pid: int, path: str) -> list[Row]:
        """All sockets that bear this path as their name, as written when it was bound."""
        rows = {}
        for table in self._texts(pid):
            for line in _lines_ending(table, f" {path}\n"):
                if row := _row(line):
                    rows[line] = row
        return [row for row in rows.values() if row.path == path]

    def listening(self, pid: int) -> dict[int, str]:
        """Inode and path of the sockets with a name that the process listens on."""
        own = self.inodes(pid)
        rows = [_row(line) for table in self._texts(pid) for line in table.splitlines()]
        return {row.inode: row.path for row in rows if row and row.listening and row.inode in own}

    def inodes(self, pid: int) -> set[int]:
        """Of the sockets that are open in the process; at most procfs.MAX_FDS descriptors are looked at."""
        return set(map(_inode, (self._proc.fd_links(pid) or {}).values())) - {0}

    def inode_of(self, pid: int, fd: int) -> int:
        """Of the socket behind a process's descriptor, 0 if it is none."""
        return _inode(self._proc.link(pid, "fd", fd))

    def _texts(self, pid: int) -> Iterable[str]:
        now_s = time.monotonic()
        for process in ("self", pid):
            namespace = self._proc.link(process, "ns", "net") or str(process)
            read_s, text = self._tables.get(namespace, (0.0, ""))
            if not read_s or now_s - read_s > _KEEP_S:
                text = self._proc.text(process, "net", "unix", limit_bytes=MAX_TABLE_BYTES) or ""
                self._tables = {name: kept for name, kept in self._tables.items() if now_s - kept[0] <= _KEEP_S} | {
                    namespace: (now_s, text)
                }
            yield text


def _lines_ending(text: str, ending: str) -> Iterable[str]:
    """Searched for, not split up: a host has thousands of these sockets."""
    at = text.find(ending)
    while at >= 0:
        yield text[text.rfind("\n", 0, at) + 1 : at + len(ending) - 1]
        at = text.find(ending, at + 1)


def _row(line: str) -> Row | None:
    """Of `Num: RefCount Protocol Flags Type St Inode Path`, net/unix/af_unix.c, unix_seq_show."""
    fields = line.split(None, 6)
    if len(fields) < 7:
        return None
    inode, space, path = fields[6].partition(" ")
    try:
        return Row(path, int(inode), bool(int(fields[3], 16) & _ACCEPTING)) if space else None
    except ValueError:
        return None


def _inode(link: str) -> int:
    number = link.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return int(number) if link.startswith(_PREFIX) and number.isdigit() else 0


def absolute(proc: Proc, pid: int, path: str) -> str:
    """Where a path that a process has bound is for us: in its root directory and its working directory."""
    return (
        os.path.join(proc.root, str(pid), "root", path[1:])
        if path.startswith("/")
        else os.path.join(proc.root, str(pid), "cwd", path)
    )


def bound_file(inode: int) -> int | None:
    """Inode number, its lower 32 bits, of the file that a listening socket is bound to; None if the kernel can't say.

    inode: the socket's own. Only sockets of our network namespace are found, and only with CONFIG_UNIX_DIAG.
    """
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTENING, inode, _UDIAG_SHOW_VFS, _NO_COOKIE, _NO_COOKIE)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(_DIAG_S)
            netlink.send(header + request)
            answer = netlink.recv(4096)
    except OSError:
        return None
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None  # an error: there is no such socket here
    at = _HEADER.size + _ANSWER.size
    while at + 12 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == _UNIX_DIAG_VFS:
            return int(struct.unpack_from("=I", answer, at + 4)[0])
        at += max((length + 3) & ~3, 4)
    return None
