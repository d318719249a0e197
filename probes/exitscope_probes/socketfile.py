"""The collector's listening socket: made safely, so that two collectors never share a path."""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
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
        directory = Path(path).parent
        try:
            if not directory.is_dir():
                directory.mkdir(parents=True)
                os.chmod(directory, 0o750)  # whatever the umask: the group is to reach the socket
                _give(directory, gid)
            # Locked while looking and binding, or two collectors could both find the other's file stale.
            directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(directory_fd, fcntl.LOCK_EX)
                _remove_stale(path)
                self.socket = _bind(path, gid)
            finally:
                os.close(directory_fd)
            self._inode = os.lstat(path).st_ino
        except OSError as error:
            raise SocketError(f"cannot listen on {path}: {error.strerror or error}", _remedy(error)) from None
        self._path = path

    def close(self) -> None:
        """Stop listening and remove the file, unless somebody else's is there by now."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)


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


def _give(path: str | Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
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


def _bind(path: str, gid: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o117)  # nobody may connect between bind and chmod
        try:
            listening.bind(path)
        finally:
            os.umask(mask)
        _give(path, gid)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} exists and is not a socket", "remove it, or choose another --socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            raise SocketError(f"another collector listens on {path} and does not answer", "stop it first") from None
        pid, _, _ = peer(client)
    raise SocketError(
        f"another collector is running (pid {pid}) on {path}", "stop it first, or choose another --socket"
    )
