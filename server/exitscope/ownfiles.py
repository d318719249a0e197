"""Files in a directory that may belong to another user, written by root without following what that user put there."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .privileges import own_directory
from .settings import default_user


def make_directory(directory: Path) -> None:
    """Make it where it is missing; root's belongs to the user that the server becomes. Raises UserError."""
    if os.geteuid() == 0:
        own_directory(directory, default_user())
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {directory}: {error.strerror or error}; choose another place") from None


def write(path: Path, text: str) -> None:
    """The file is whole at every moment, mode 0600, and its directory's owner's. Raises UserError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                _give(file.fileno(), path.parent)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def hand_over(path: Path) -> None:
    """Give a file of root's to whom its directory belongs, who may have put something else in its place meanwhile."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            made = os.fstat(fd)
            if made.st_uid == os.geteuid() and made.st_nlink == 1 and stat.S_ISREG(made.st_mode):
                _give(fd, path.parent)
        finally:
            os.close(fd)


def _give(fd: int, directory: Path) -> None:
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)
