"""What the page shows: the source, or for a while a recording in its place, for everybody at once.

The source is followed all the time, so that it is as if nothing had been when the replay ends; metrics are its alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from exitscope_probes.wire import Kind, Message, WireError

from .aggregate import Aggregate
from .alarms.alarms import Alarms
from .alarms.finding import Limits
from .hub import Hub
from .recordings.file import RecordingFile
from .recordings.player import Player
from .source import Source, Status
from .works import reason_of

log = logging.getLogger("exitscope")

_WATCH_S: Final = 0.5
_BEGIN_S: Final = 3.0


class Switch:
    """The state of the source, and that of a replay. `aggregate` and `status` are what is shown.

    replay_error: why the last replay ended by itself; None if it did not. unrecorded: says why migrations that should
    be are not recorded, None if they are.
    """

    def __init__(self, source: Source, limits: Limits | None = None) -> None:
        self.live, self.live_alarms = Aggregate(), Alarms(limits)
        self.live_status = source.status
        self.aggregate, self.status, self.alarms = self.live, self.live_status, self.live_alarms
        self.hub = Hub(self.live, self.live_status, self.live_alarms)
        self.player = source if isinstance(source, Player) else None
        self._source = source
        self.replay_error: str | None = None
        self.unrecorded: Callable[[], str | None] = lambda: None
        self._playing: asyncio.Task[None] | None = None
        self._reason = source.status.reason
        if isinstance(source, Player):
            source.fresh, source.settled = self._source_afresh, self._show_source

    async def run(self) -> None:
        """Follow the source, until cancelled. Raises what ends it, and its status says so; it may be run again."""
        self.live_status.reason = self._reason
        try:
            await self._source.run(lambda message: self._take(self.live, message))
        except Exception as error:
            self.live_status.connected = False
            self.live_status.reason = f"the source ended and is started again: {reason_of(error)}"
            raise

    async def close(self) -> None:
        """End a replay."""
        await self._stop()

    async def watch(self) -> None:
        """Look for what is wrong with the source while no data come, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_S)
            self.live_alarms.look(self.live, self.live_status, time.monotonic_ns(), self.unrecorded())

    async def play(self, file: RecordingFile) -> Player:
        """Show this recording from now on. A replay that fails ends, the source is shown, and replay_error says why."""
        await self._stop()
        self.replay_error = None
        status = Status("replay", f"replay of the recording {file.meta.name or file.meta.id}")
        player = self.player = Player(file, status)

        def fresh() -> None:
            self._show(Aggregate(), status, Alarms(self.live_alarms.limits))

        player.fresh, player.settled = fresh, lambda: self._show(self.aggregate, status, self.alarms)
        fresh()
        self._playing = asyncio.create_task(player.run(lambda message: self._take(self.aggregate, message)))
        self._playing.add_done_callback(lambda task: self._ended(task, file))
        return player

    async def begun(self, player: Player) -> None:
        """Wait a moment until this replay shows what it was asked for, or has failed."""
        if self._playing is None or player is not self.player:
            return
        shown = asyncio.create_task(player.shown.wait())
        await asyncio.wait((shown, self._playing), timeout=_BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        shown.cancel()
        await asyncio.sleep(0)  # let _ended be called

    async def back(self) -> None:
        """Show the source again."""
        await self._stop()
        self._leave()

    def _leave(self) -> None:
        self.player = self._source if isinstance(self._source, Player) else None
        self._show_source()

    def _ended(self, task: asyncio.Task[None], file: RecordingFile) -> None:
        """The task of a replay is over: by itself, if it is still the one that is shown."""
        if task.cancelled() or task is not self._playing:
            return
        error, self._playing = task.exception(), None
        name = file.meta.name or file.meta.id
        self.replay_error = f"the replay of {name} ended: {reason_of(error) if error else 'it returned'}"
        log.error("%s", self.replay_error, exc_info=error)
        self._leave()

    def _take(self, aggregate: Aggregate, message: Message) -> None:
        try:
            aggregate.handle(message)
        except WireError:
            raise
        except Exception as error:  # a bug of ours must not end the stream; the source counts it
            log.exception("a %s frame could not be taken over", message.kind.name)
            raise WireError(f"{message.kind.name} frame: {type(error).__name__}: {error}") from error
        if message.kind is not Kind.TOTALS:
            return
        if aggregate is self.live:
            self.live_alarms.look(aggregate, self.live_status, time.monotonic_ns(), self.unrecorded())
        if aggregate is self.aggregate:
            if aggregate is not self.live:
                self.alarms.look(aggregate, self.status, time.monotonic_ns())
            self.hub.notify()

    def _source_afresh(self) -> None:
        shown = self.aggregate is self.live
        self.live, self.live_alarms = Aggregate(), Alarms(self.live_alarms.limits)
        if shown:
            self._show_source()

    def _show_source(self) -> None:
        if self._playing is None:
            self._show(self.live, self.live_status, self.live_alarms)

    def _show(self, aggregate: Aggregate, status: Status, alarms: Alarms) -> None:
        self.aggregate, self.status, self.alarms = aggregate, status, alarms
        self.hub.show(aggregate, status, alarms)

    async def _stop(self) -> None:
        while self._playing is not None:  # another may have been started meanwhile
            playing, self._playing = self._playing, None
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
