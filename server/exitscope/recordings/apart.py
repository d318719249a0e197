"""Finishing a long recording in a process of its own: what that takes is not the server's, and is given back whole."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from exitscope_probes.isolated import python
from exitscope_probes.libc import die_with_parent

from .finish import finish
from .spool import SpoolError

LARGE_BYTES: Final = 4 << 20
"""A spool of so many bytes is finished apart: below that it takes less than the process's own start."""


def finish_by_size(spool: Path, path: Path) -> None:
    """finish.finish, here or apart. Raises what that raises, and OSError if the process was killed."""
    if spool.stat().st_size < LARGE_BYTES:
        finish(str(spool), str(path))
        return
    command = python(__name__, str(spool), str(path))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise OSError(0, f"the process that finished it was ended by {name}")
    said: dict[str, Any] = json.loads(done.stdout or "{}")
    if "spool" in said:
        raise SpoolError(said["spool"])
    if "errno" in said:
        raise OSError(said["errno"], said["reason"])
    if done.returncode:
        raise RuntimeError("the process that finishes it has failed; its reason stands in the log")


def main(spool: str, path: str) -> int:
    """The process: what went wrong is said on stdout as JSON {"spool"} or {"errno", "reason"}."""
    die_with_parent(signal.SIGKILL)  # the lock on the spool is the server's, and goes with it
    try:
        finish(spool, path)
    except SpoolError as error:
        print(json.dumps({"spool": str(error)}))
        return 1
    except OSError as error:
        print(json.dumps({"errno": error.errno or 0, "reason": error.strerror or str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
