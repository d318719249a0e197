"""A recording as a source: plays in real time or at another speed, pauses, and goes to any moment of it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from ..migrations.models import Migration
from ..source import Handler, Status
from .file import RecordingFile
from .synthesis import Synthesis

MIN_SPEED: Final = 0.05
MAX_SPEED: Final = 100.0
_TICK_S: Final = 0.2
_STEP_NS: Final = 1_000_000_000
"""At most so much at once, and never across such a boundary: no column of the time series is left out."""

_BEFORE_NS: Final = 60 * 1_000_000_000
_MIGRATION_NS: Final = 300 * 1_000_000_000
_BEFORE_RECORDS: Final = 1 << 20
_REST_S: Final = 2.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Position:
    """Where the player is; moments are of the recording's clock, CLOCK_MONOTONIC ns of the traced host."""

    id: str
    at_ns: int
    from_ns: int
    to_ns: int
    speed: float
    paused: bool


class Player:
    """Plays `file`. again: from the beginning when it has ended, for ever; else it rests at the end.

    shown: set once the page shows what was asked for first. fresh: called before the first message and whenever time
    jumps: what was told before is void; settled: called when the jump is over.
    """

    def __init__(self, file: RecordingFile, status: Status, again: bool = False) -> None:
        self.file = file
        self.status = status
        self.fresh: Callable[[], None] = lambda: None
        self.settled: Callable[[], None] = lambda: None
        self.paused = False
        self.speed = 1.0
        self._again = again
        self._from_ns = file.meta.started_ns
        self._to_ns = max(file.meta.ended_ns, self._from_ns)
        self._at_ns = self._begun_ns = self._from_ns
        self._target_ns: int | None = self._from_ns
        self._catching_up_ns: int | None = None  # the target that is being gone to
        self._changed = asyncio.Event()
        self.shown = asyncio.Event()

    def position(self) -> Position:
        """Where it is; after a `seek`, where it is going to."""
        ahead_ns = self._catching_up_ns if self._target_ns is None else self._target_ns
        at_ns = self._at_ns if ahead_ns is None else ahead_ns
        return Position(self.file.meta.id, at_ns, self._from_ns, self._to_ns, self.speed, self.paused)

    def seek(self, at_ns: int) -> None:
        """Go there, or to the nearest moment that is recorded."""
        self._target_ns = min(max(at_ns, self._from_ns), self._to_ns)
        self._changed.set()

    def play(self, speed: float | None = None, paused: bool | None = None) -> None:
        """Change the speed, pause or go on; going on at the end begins again."""
        self.speed = self.speed if speed is None else min(max(speed, MIN_SPEED), MAX_SPEED)
        self.paused = self.paused if paused is None else paused
        if paused is False and self._at_ns >= self._to_ns and self._target_ns is None:
            self.seek(self._from_ns)
        self._changed.set()

    async def run(self, handle: Handler) -> None:
        """Every message of the recording, when it is due."""
        synthesis: Synthesis | None = None
        played = time.monotonic()
        while True:
            if self._target_ns is not None or synthesis is None:
                target_ns, self._target_ns = self._from_ns if self._target_ns is None else self._target_ns, None
                synthesis = None  # its memory is for the next one
                self._catching_up_ns = target_ns
                synthesis = await self._start(handle, target_ns)
                self._catching_up_ns = None
                played = time.monotonic()
            now = time.monotonic()
            until_ns = min(self._at_ns + int((now - played) * self.speed * 1e9), self._to_ns)
            played = now
            if not self.paused:
                await self._go(handle, synthesis, until_ns)
            self.status.connected = True
            self.status.data_ns = time.monotonic_ns()
            if self._at_ns >= self._to_ns and not self.paused and self._target_ns is None:
                await self._end()
            await self._wait(max(_TICK_S - (time.monotonic() - now), 0.01))

    async def _start(self, handle: Handler, at_ns: int) -> Synthesis:
        """Show what the page would show at this moment, had it looked on for the minute before."""
        going_on = [one for one in self.file.meta.migrations if _since_ns(one) <= at_ns <= _until_ns(one, at_ns)]
        since_ns = map(_since_ns, going_on)
        # What a migration has come to is counted from its begin, as it was live.
        longest_ns = max([_BEFORE_NS, *(at_ns - one for one in since_ns if at_ns - one <= _MIGRATION_NS)])
        before_ns = max(at_ns - longest_ns, self._from_ns)
        faults_per_ns = self.file.meta.records / max(self._to_ns - self._from_ns, 1)
        before_ns = max(before_ns, at_ns - int(_BEFORE_RECORDS / max(faults_per_ns, 1e-12)))
        synthesis = await _in_thread(lambda: Synthesis(self.file, before_ns))
        self.fresh()
        for message in await _in_thread(synthesis.welcome):
            handle(message)
        self._at_ns = self._begun_ns = before_ns
        await self._go(handle, synthesis, at_ns)
        self.settled()
        self.shown.set()
        return synthesis

    async def _go(self, handle: Handler, synthesis: Synthesis, until_ns: int) -> None:
        while self._at_ns < until_ns and self._target_ns is None:
            over_ns = (self._at_ns - self._begun_ns) % _STEP_NS
            at_ns = min(self._at_ns + _STEP_NS - over_ns, until_ns)
            for message in await _in_thread(partial(synthesis.advance, at_ns)):
                handle(message)
            self._at_ns = at_ns

    async def _end(self) -> None:
        if self._again:
            await self._wait(_REST_S)
            self._target_ns = self._from_ns if self._target_ns is None else self._target_ns
        else:
            self.paused = True

    async def _wait(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return


async def _in_thread(work: Callable[[], _T]) -> _T:
    """What it returns. A thread cannot be cancelled: whoever cancels waits for it, so that no two of a player work."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    finally:
        if not working.done():
            await asyncio.wait((working,))


def _since_ns(migration: Migration) -> int:
    return migration.from_ns if migration.missing_from_ns is None else migration.missing_from_ns


def _until_ns(migration: Migration, at_ns: int) -> int:
    return at_ns if migration.to_ns is None else migration.to_ns
