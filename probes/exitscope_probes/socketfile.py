"""The collector's listening socket: made safely, so that two collectors never share a path."""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .errors import SocketError, refused

DEFAULT_PATH: Final = "/run/exitscope/collector.sock"
_MAX_PATH_BYTES: Final = 107  # sun_path, unix(7)
_BACKLOG: Final = 16


class Listener:
    """A non-blocking listening unix socket with mode 0660, owned by `group` if given.

    The parent directory is made with mode 0750 if missing. The file of a dead collector is replaced. Raises
    SocketError when a collector listens there, when the path is something else than a socket, and when it
    cannot be made.
    """

    def __init__(self, path: str, group: str | None = None) -> None:
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            raise SocketError(f"socket path {path} is longer than {_MAX_PATH_BYTES} bytes", "choose a shorter --socket")
        gid = _gid(group)
        directory, name = Path(path).parent, Path(path).name
        try:
            made = not directory.is_dir()
            if made:
                directory.mkdir(0o750, parents=True)
            # By its descriptor from now on: somebody who may rename folders cannot lead us elsewhere.
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if made else 0))
            try:
                if made:
                    with _giving(directory, gid):
                        os.fchown(self._directory, -1, gid)
                    os.fchmod(self._directory, 0o750)  # whatever the umask
                # Locked while looking and binding, or two collectors could both find the other's file stale.
                fcntl.flock(self._directory, fcntl.LOCK_EX)
                _remove_stale(path, self._directory)
                self.socket = _bind(path, self._directory, gid)
                fcntl.flock(self._directory, fcntl.LOCK_UN)
            except BaseException:
                os.close(self._directory)
                raise
            self._inode = os.lstat(name, dir_fd=self._directory).st_ino
        except OSError as error:
            raise SocketError(f"cannot listen on {path}: {error.strerror or error}", _remedy(error)) from None
        self._name = name

    def close(self) -> None:
        """Stop listening and remove the file, unless somebody else's is there by now."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        with contextlib.suppress(OSError):
            if os.lstat(self._name, dir_fd=self._directory).st_ino == self._inode:
                os.unlink(self._name, dir_fd=self._directory)
        os.close(self._directory)


def peer(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other end: SO_PEERCRED, unix(7)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", data)
    return pid, uid, gid


def _gid(group: str | None) -> int:
    if group is None:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SocketError(f"no group {group}", f"create it (groupadd --system {group}) or leave out --group") from None


@contextlib.contextmanager
def _giving(path: str | Path, gid: int) -> Iterator[None]:
    """Raises SocketError, about the group, when what is done within cannot give the path to it."""
    try:
        yield
    except OSError as error:
        raise SocketError(
            f"cannot give {path} to group {gid}: {error.strerror or error}",
            "choose a --group that it may give files to (in a user namespace one that is mapped, such as root)",
        ) from None


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "run as root, or choose another --socket"
    if error.errno in (errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP):
        return "choose another --socket"
    return refused(error).hint


def _bind(path: str, directory: int, gid: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o117)  # nobody may connect between bind and chown
        try:
            listening.bind(path)
        finally:
            os.umask(mask)
        if gid >= 0:
            with _giving(path, gid):
                os.chown(Path(path).name, -1, gid, dir_fd=directory, follow_symlinks=False)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: str, directory: int) -> None:
    name = Path(path).name
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise SocketError(f"{path} exists and is not a socket", "remove it, or choose another --socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(f"/proc/self/fd/{fd}")
            except ConnectionRefusedError:
                os.unlink(name, dir_fd=directory)
                return
            except (TimeoutError, BlockingIOError):
                raise SocketError(f"another collector listens on {path} and does not answer", "stop it first") from None
            pid, _, _ = peer(client)
    finally:
        os.close(fd)
    raise SocketError(
        f"another collector is running (pid {pid}) on {path}", "stop it first, or choose another --socket"
    )
