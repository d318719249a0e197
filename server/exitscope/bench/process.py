"""Child processes of a bench: none outlives it, whatever happens."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

from exitscope_probes.libc import die_with_parent

from ..serve import CHILD_VARIABLE

_GRACE_S: Final = 10.0


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
        preexec_fn=die_with_parent,  # noqa: PLW1509 (takes no lock: see there)
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
