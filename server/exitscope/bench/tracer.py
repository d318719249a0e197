"""The product at work while a guest runs: a collector of its own, and a recording of what it sees."""

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from exitscope_probes.isolated import python

from ..collectorsocket import listens
from ..errors import UserError
from ..recordings.finish import finish
from ..recordings.meta import RecordingMeta
from ..recordings.recorder import Recorder, head
from ..recordings.spool import SpoolError, SpoolWriter
from .process import child

_START_S: Final = 30.0
_STOP_S: Final = 30.0
_POLL_S: Final = 0.02


def refuse_other_collector(path: str) -> None:
    """Raises UserError if a collector listens there: it would trace the untraced half, too."""
    if listens(path):
        raise UserError(f"a collector runs on {path}: it would trace the untraced runs, too; stop it first")


@contextmanager
def collecting(directory: Path) -> Iterator[str]:
    """A collector of the guests of this process, listening on the socket path given back.

    Raises UserError with what it says if it cannot start.
    """
    path = str(directory / "collector.sock")
    command = python("exitscope", "collect", "--socket", path, "--only-pid-tree", str(os.getpid()))
    with tempfile.TemporaryFile() as said, child(command, subprocess.DEVNULL, said) as process:
        deadline = time.monotonic() + _START_S
        while not listens(path):
            if process.poll() is not None or time.monotonic() > deadline:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                raise UserError(f"the collector did not start: {lines[-1] if lines else 'it said nothing'}")
            time.sleep(_POLL_S)
        yield path


@contextmanager
def recording(socket_path: str, directory: Path, recording_id: str, name: str) -> Iterator["_Recording"]:
    """What the collector sees meanwhile goes into directory/ID.parquet; afterwards `meta` says what it holds.

    Raises UserError if it cannot be written. Nothing is left of one that was interrupted.
    """
    one = _Recording(socket_path, directory, recording_id, name)
    try:
        one.begin()
        yield one
        one.end()
    finally:
        one.give_up()


class _Recording:
    def __init__(self, socket_path: str, directory: Path, recording_id: str, name: str) -> None:
        self.path = directory / f"{recording_id}.parquet"
        self.meta: RecordingMeta | None = None
        self._spool = directory / f"{recording_id}.spool"
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            writer = SpoolWriter(self._spool, head(recording_id, name, None))
        except OSError as error:
            raise UserError(f"cannot write to {directory}: {error.strerror or error}") from None
        self._recorder = Recorder(writer, socket_path)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        recording = asyncio.create_task(self._recorder.run())
        begun = asyncio.create_task(self._recorder.begun.wait())
        await asyncio.wait((recording, begun), return_when=asyncio.FIRST_COMPLETED)
        self._begun.set()
        await recording
        begun.cancel()

    def begin(self) -> None:
        """Return once it really records."""
        self._thread.start()
        if not self._begun.wait(_START_S) or self._recorder.failure:
            raise UserError(f"the recording did not begin: {self._recorder.failure or 'no totals from the collector'}")

    def end(self) -> None:
        """Make the file of what happened until now."""
        self._stop()
        if self._recorder.failure:
            raise UserError(f"the recording failed: {self._recorder.failure}")
        try:
            self.meta = finish(str(self._spool), str(self.path))
        except (SpoolError, OSError) as error:
            raise UserError(f"the recording cannot be finished: {error}") from None

    def give_up(self) -> None:
        """Remove what is not the finished file."""
        self._stop()
        self._spool.unlink(missing_ok=True)

    def _stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._recorder.stop)
            except RuntimeError:  # it has just ended
                return
            self._thread.join(_STOP_S)


def losses(meta: RecordingMeta | None) -> dict[str, int]:
    """What the recording lost, by the ledger, without what was zero."""
    found: dict[str, Any] = meta.loss if meta else {}
    return {name: int(count) for name, count in found.items() if count}
