"""What the page shows: the source, or for a while a recording in its place, for everybody at once.

The source is followed all the time, so that it is as if nothing had been when the replay ends; metrics are its alone.
"""

import asyncio
import logging
import time
from typing import Final

from exitscope_probes.wire import Kind, Message, WireError

from .aggregate import Aggregate
from .alarms.alarms import Alarms
from .alarms.finding import Limits
from .hub import Hub
from .recordings.file import RecordingFile
from .recordings.player import Player
from .source import Source, Status

log = logging.getLogger("exitscope")

_WATCH_S: Final = 0.5


class Switch:
    """The state of the source, and that of a replay. `aggregate` and `status` are what is shown."""

    def __init__(self, source: Source, limits: Limits | None = None) -> None:
        self.live, self.live_alarms = Aggregate(), Alarms(limits)
        self.live_status = source.status
        self.aggregate, self.status, self.alarms = self.live, self.live_status, self.live_alarms
        self.hub = Hub(self.live, self.live_status, self.live_alarms)
        self.player = source if isinstance(source, Player) else None
        self._source = source
        self._playing: asyncio.Task[None] | None = None
        if isinstance(source, Player):
            source.fresh, source.settled = self._source_afresh, self._show_source

    async def run(self) -> None:
        """Follow the source, until cancelled."""
        try:
            await self._source.run(lambda message: self._take(self.live, message))
        finally:
            await self._stop()

    async def watch(self) -> None:
        """Look for what is wrong with the source while no data come, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_S)
            self.live_alarms.look(self.live, self.live_status, time.monotonic_ns())

    async def play(self, file: RecordingFile) -> Player:
        """Show this recording from now on."""
        await self._stop()
        status = Status("replay", f"replay of the recording {file.meta.name or file.meta.id}")
        player = self.player = Player(file, status)

        def fresh() -> None:
            self._show(Aggregate(), status, Alarms(self.live_alarms.limits))

        def take(message: Message) -> None:
            try:
                self._take(self.aggregate, message)
            except WireError as error:
                status.errors += 1
                log.warning("replay of %s: %s", file.path, error)

        player.fresh, player.settled = fresh, lambda: self._show(self.aggregate, status, self.alarms)
        fresh()
        self._playing = asyncio.create_task(player.run(take))
        self._playing.add_done_callback(_report)
        return player

    async def back(self) -> None:
        """Show the source again."""
        await self._stop()
        self.player = self._source if isinstance(self._source, Player) else None
        self._show_source()

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
            self.live_alarms.look(aggregate, self.live_status, time.monotonic_ns())
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
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the replay ended: %s", error, exc_info=error)
