"""Where a command's output goes: a file appears under its name when it is whole, everything else is written into."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from .errors import OutputError

_MAX_LINKS: Final = 40  # include/linux/namei.h: MAXSYMLINKS


@dataclass(frozen=True, slots=True)
class Place:
    """What a name leads to. path: behind all links; special: a device, FIFO or open file, which is written into."""

    path: Path
    special: bool


def place_of(name: str | os.PathLike[str]) -> Place:
    """Follow the links of a name that need not exist yet. Raises OutputError where nothing can be written.

    Root follows root's links, and those of whom sudo serves. Others follow a link in a directory that all may write
    (/tmp) if it is their own or the directory's owner's: the rule of fs.protected_symlinks, which replacing escapes.
    """
    path = Path(name)
    try:
        for _ in range(_MAX_LINKS):
            if path.parent.resolve().is_relative_to("/proc"):  # /dev/stdout, /dev/fd/3: what is open already
                return Place(path, special=True)
            if not path.is_symlink():
                break
            _refuse_foreign_link(path)
            path = path.parent / path.readlink()
        else:
            raise OutputError(f"cannot write {name}: too many links")
        found = path.stat() if path.exists() else None
    except OSError as error:
        raise _cannot(name, error) from None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OutputError(f"cannot write {name}: it is a directory")
    return Place(path, special=found is not None and not stat.S_ISREG(found.st_mode))


@contextmanager
def writing(name: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to. What was there is replaced when it is whole, or stays as it was. Raises OutputError."""
    place = place_of(name)
    try:
        with _into(place.path) if place.special else _replacing(place.path) as file:
            yield file
    except OSError as error:
        raise _cannot(name, error) from None


def write(name: str | os.PathLike[str], text: str) -> None:
    """Raises OutputError if it cannot be written."""
    with writing(name) as file:
        file.write(text.encode())


@contextmanager
def _into(path: Path) -> Iterator[BinaryIO]:
    own = path.parent.resolve() == Path(f"/proc/{os.getpid()}/fd")  # opened anew it would begin anew
    fd = os.dup(int(path.name)) if own else os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        yield file


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            if path.exists():
                before = path.stat()
                os.fchmod(fd, stat.S_IMODE(before.st_mode))
                if os.geteuid() == 0:
                    os.fchown(fd, before.st_uid, before.st_gid)
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _refuse_foreign_link(path: Path) -> None:
    link, directory, user = path.lstat(), path.parent.stat(), os.geteuid()
    shared = directory.st_mode & stat.S_ISVTX and directory.st_mode & stat.S_IWOTH
    if user == 0:
        served = os.environ.get("SUDO_UID", "")
        trusted = link.st_uid in (0, int(served) if served.isdecimal() else 0)
    else:
        trusted = not shared or link.st_uid in (user, directory.st_uid)
    if not trusted:
        raise OutputError(f"cannot write {path}: it is a link of another user: name the file that it leads to")


def _cannot(name: str | os.PathLike[str], error: OSError) -> OutputError:
    return OutputError(f"cannot write {os.fspath(name)}: {error.strerror or error}")
