"""Opens a VM's monitor, if nobody else has it and if it is that VM's: a monitor serves one client at a time."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .asowner import open_path, owner_of, rights_of
from .monitors import monitors, shown
from .procfs import Proc
from .socketfile import peer
from .unixsockets import UnixSockets, absolute, bound_file

_DENIED: Final = (errno.EACCES, errno.EPERM, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Place:
    """bound: the socket's name as its server has bound it; path: where we find it; shown: to people."""

    bound: str
    path: str
    shown: str


@dataclass(frozen=True, slots=True)
class Closed:
    """Why there is no connection. follow: as in wire.Kind.MIGRATION."""

    follow: str
    reason: str
    place: Place | None = None


class MonitorSockets:
    """given: paths of monitors, to be used for the VM whose process listens on them."""

    def __init__(self, proc: Proc, given: Sequence[str] = ()) -> None:
        self._proc = proc
        self._given = given
        self._sockets = UnixSockets(proc)
        self._own: dict[int, int] = {}  # pid -> inode of a socket that it was seen to listen on

    def places(self, pid: int, vmm: str) -> tuple[list[Place], str]:
        """(monitors of a VMM's process, those given first, "") or ([], why none is known)."""
        found: list[Place] = []
        if self._given:
            for bound in sorted(set(self._sockets.listening(pid).values())):
                found += [Place(bound, path, path) for path in self._given if self._same(path, pid, bound)]
        if vmm != "QEMU":
            return found, "" if found else f"{vmm} has no monitor that is known here"
        known, reason = monitors(self._proc.arguments(pid))
        for monitor in known:
            bound = monitor.path or self._path_of(pid, monitor.fd or 0)
            if bound:
                name = shown(os.path.join(self._proc.link(pid, "cwd"), bound))
                found.append(Place(bound, absolute(self._proc, pid, bound), name))
            else:
                reason = reason or f"QEMU does not listen on its monitor's descriptor {monitor.fd}"
        return found, "" if found else reason

    def forget(self, pid: int) -> None:
        """The process is gone."""
        self._own.pop(pid, None)

    def connect(self, pid: int, place: Place) -> socket.socket | Closed:
        """A non-blocking connection to that very process. Nothing is opened while another client has the monitor."""
        closed = self.taken(pid, place)
        if closed:
            return closed
        try:
            connection = self._connection(pid, place)
            if isinstance(connection, Closed):
                return connection
            peer_pid, _, _ = peer(connection)
        except OSError as error:
            return _why(error, place)
        if peer_pid != pid:  # the path may lead elsewhere by now: nothing has been sent
            connection.close()
            return Closed("refused", f"process {peer_pid} answers on {place.shown}, not this VM's", place)
        return connection

    def taken(self, pid: int, place: Place) -> Closed | None:
        """Why a monitor cannot be asked now, seen without connecting; None if nothing is in the way."""
        rows = self._sockets.at(pid, place.bound)
        listening = {row.inode for row in rows if row.listening}
        connected = {row.inode for row in rows if not row.listening}
        if not listening:
            return Closed("absent", f"nobody listens on {place.shown}", place)
        if self._own.get(pid) not in listening or connected:
            own = self._sockets.inodes(pid)
            if not own:
                return Closed("refused", "the descriptors of the VM's process may not be looked at", place)
            if not listening & own:
                return Closed("refused", f"another process listens on {place.shown}, not this VM's", place)
            self._own[pid] = min(listening & own)
            if connected & own:
                return Closed(
                    "busy", f"another client is connected to {place.shown}, which serves one at a time", place
                )
        if 0 in connected:
            return Closed("busy", f"another client waits to be served on {place.shown}", place)
        return None

    def _connection(self, pid: int, place: Place) -> socket.socket | Closed:
        """To the socket that was looked at, and no other: the path may lead elsewhere by now, to somebody else's.

        By way of its descriptor, with the process's own rights, once it is known to be that process's.
        """
        owner = owner_of(self._proc, pid)
        fd = open_path(self._proc, place.path, owner)
        try:
            found = os.fstat(fd)
            if not stat.S_ISSOCK(found.st_mode):
                raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
            if found.st_uid not in (owner.user, self._proc.user(pid), os.geteuid()):
                return Closed("refused", f"{place.shown} is a socket of user {found.st_uid}, not of this VM's", place)
            bound = bound_file(self._own.get(pid, 0))
            if bound is not None and bound != found.st_ino & 0xFFFF_FFFF:
                return Closed("refused", f"{place.shown} is not the socket that this VM's process listens on", place)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                with rights_of(owner):
                    connection.connect(f"/proc/self/fd/{fd}")  # at once, or EAGAIN: unix(7)
            except OSError:
                connection.close()
                raise
            return connection
        finally:
            os.close(fd)

    def _same(self, path: str, pid: int, bound: str) -> bool:
        """Whether a path that the user gave is that socket of the process."""
        if not bound.startswith("/"):
            return os.path.basename(path) == os.path.basename(bound)
        with contextlib.suppress(OSError):
            return path == bound or os.path.samestat(os.stat(path), os.stat(absolute(self._proc, pid, bound)))
        return False

    def _path_of(self, pid: int, fd: int) -> str:
        return self._sockets.listening(pid).get(self._sockets.inode_of(pid, fd), "")


def _why(error: OSError, place: Place) -> Closed:
    reason = f"{place.shown}: {error.strerror or error}"
    if error.errno == errno.EAGAIN:
        return Closed("busy", f"other clients wait to be served on {place.shown}", place)
    if error.errno in _DENIED:
        return Closed("refused", f"{reason}: neither the VM's user nor the collector's may connect to it", place)
    return Closed("absent", reason, place)
