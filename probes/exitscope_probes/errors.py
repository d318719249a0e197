"""What can go wrong for a person who runs the probes: one tree, caught once, in main."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from .untrusted import cleaned

_Result = TypeVar("_Result")
_UNWRITABLE: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_HINTS: Final = {
    errno.EMFILE: "let this process open more files (`ulimit -n 1024`, LimitNOFILE= of a systemd unit)",
    errno.ENFILE: "the whole system has too many files open",
    errno.ENOMEM: "there is too little memory (or a memory limit of this service or container)",
    errno.EPERM: "are you root?",
    errno.EACCES: "are you root?",
}


class ProbeError(Exception):
    """One clear line, and in `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class RingError(ProbeError):
    """The ring holds something that is not a record of the expected type and size."""


class SocketError(ProbeError):
    """The collector's socket cannot be made."""


class OutputError(ProbeError):
    """What somebody named for an output cannot be written."""


class RecordingError(ProbeError):
    """The file of a recording cannot be written."""


def refused(error: OSError, doing: str = "") -> ProbeError:
    """What the system has refused, and what to do about it. doing: what was tried, where the error names no file."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    what = ", ".join(names) or doing
    return ProbeError(f"{what}: {error.strerror or error}" if what else error.strerror or str(error), _hint(error))


def _hint(error: OSError) -> str:
    return _HINTS.get(error.errno or 0, "")


def printed(run: Callable[[], _Result]) -> _Result:
    """What `run` returns, once all that it has printed is written; ends the process with one line where it cannot be.

    Somebody who has read enough of it (a closed pipe) is no error.
    """
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        close_stdout()
        sys.exit(0)
    except OSError as error:
        close_stdout()
        sys.exit(fail(refused(error, "cannot write to stdout" if error.errno in _UNWRITABLE else "")))


def close_stdout() -> None:
    """What is left to print goes nowhere."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: Exception) -> int:
    """Print the error as one line on stderr; returns the exit status for it, 1."""
    with suppress(OSError):
        print(f"exitscope: {cleaned(str(error))}", file=sys.stderr)
    return 1
