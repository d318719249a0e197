"""Giving up root: the server needs nothing but its sockets."""

import contextlib
import ctypes
import os
import pwd
from pathlib import Path
from typing import Final

from exitscope_probes.libc import die_with_parent

from .errors import UserError

_PR_SET_NO_NEW_PRIVS: Final = 38  # include/uapi/linux/prctl.h


def drop_to(name: str, socket_path: str | None, has_parent: bool) -> None:
    """Become this user for good, with its own groups and the collector socket's (never root's).

    No-op unless root. Raises UserError if there is no such user. has_parent: a new user id disarms
    die_with_parent: arm it again.
    """
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise UserError(f"no user {name}: create it or choose another --user") from None
    if user.pw_uid == 0:
        return
    groups = set(os.getgrouplist(name, user.pw_gid))
    if socket_path is not None:
        with contextlib.suppress(OSError):  # no collector yet: it says itself who may connect
            groups.add(os.stat(socket_path).st_gid)
    groups.discard(0)
    try:
        os.setgroups(sorted(groups))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise UserError(
            f"cannot become user {name}: {error.strerror or error}: root of a user namespace has only those that are "
            "mapped there; `--user root` stays what it is"
        ) from None
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if has_parent:
        die_with_parent()


def own_directory(directory: Path, name: str) -> None:
    """Make a directory that is missing, mode 0700, for this user; what is there already stays as it is.

    Quiet where that is not possible: whoever writes there will say so.
    """
    with contextlib.suppress(OSError, KeyError):
        user = pwd.getpwnam(name)
        for parent in reversed(directory.parents):
            if not parent.exists():
                parent.mkdir()
                parent.chmod(0o755)  # whatever the umask: the user is to reach what is in it
        directory.mkdir(mode=0o700)
        os.chown(directory, user.pw_uid, user.pw_gid, follow_symlinks=False)


def group_of(user_name: str) -> str | None:
    """Name of a user's primary group, None if either is not there."""
    import grp

    try:
        return grp.getgrgid(pwd.getpwnam(user_name).pw_gid).gr_name
    except KeyError:
        return None
