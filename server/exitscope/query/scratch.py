"""Directories for what queries spill: each is its process's own, and a killed process's is removed by the next."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "exitscope-query-"
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """A new directory, mode 0700, locked as long as this process lives; removes those of ours that nobody holds."""

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):
                _remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._fd = os.open(self.path, _FLAGS)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self.path.mkdir(mode=0o700, exist_ok=True)  # another process may have found it before it was locked

    def remove(self) -> None:
        """It and all that is in it; may be called again."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def _remove_if_left(directory: Path) -> None:
    """Raises OSError if it is no directory, or somebody holds it."""
    fd = os.open(directory, _FLAGS)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(fd)
