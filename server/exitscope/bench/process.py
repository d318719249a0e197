"""Child processes of a bench: none outlives it, whatever happens."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

from ..serve import CHILD_VARIABLE

_GRACE_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h
_LIBC: Final = ctypes.CDLL(None)


@contextmanager
def child(
    command: Sequence[str], output: int | IO[bytes], errors: int | IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Started in a process group of its own: Ctrl-C is this process's to handle. Ended on the way out."""
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=os.environ | {CHILD_VARIABLE: "1"},
        process_group=0,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (takes no lock: see there)
    )
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM; SIGKILL to what has not ended ten seconds later."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _die_with_parent() -> None:
    """privileges.die_with_parent for a process with threads: one system call, and no library is opened after fork."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
