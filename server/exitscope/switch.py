"""What the page shows: the source, or for a while a recording in its place, for everybody at once.

The source is followed all the time, so that it is as if nothing had been when the replay ends; metrics are its alone.
"""

import asyncio
import logging

from exitscope_probes.wire import Kind, Message, WireError

from .aggregate import Aggregate
from .hub import Hub
from .recordings.file import RecordingFile
from .recordings.player import Player
from .source import Source, Status

log = logging.getLogger("exitscope")


class Switch:
    """The state of the source, and that of a replay. `aggregate` and `status` are what is shown."""

    def __init__(self, source: Source) -> None:
        self.live = Aggregate()
        self.live_status = source.status
        self.aggregate, self.status = self.live, self.live_status
        self.hub = Hub(self.live, self.live_status)
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

    async def play(self, file: RecordingFile) -> Player:
        """Show this recording from now on."""
        await self._stop()
        status = Status("replay", f"replay of the recording {file.meta.name or file.meta.id}")
        player = self.player = Player(file, status)

        def fresh() -> None:
            self._show(Aggregate(), status)

        def take(message: Message) -> None:
            try:
                self._take(self.aggregate, message)
            except WireError as error:
                status.errors += 1
                log.warning("replay of %s: %s", file.path, error)

        player.fresh, player.settled = fresh, lambda: self._show(self.aggregate, status)
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
        if message.kind is Kind.TOTALS and aggregate is self.aggregate:
            self.hub.notify()

    def _source_afresh(self) -> None:
        shown = self.aggregate is self.live
        self.live = Aggregate()
        if shown:
            self._show_source()

    def _show_source(self) -> None:
        if self._playing is None:
            self._show(self.live, self.live_status)

    def _show(self, aggregate: Aggregate, status: Status) -> None:
        self.aggregate, self.status = aggregate, status
        self.hub.show(aggregate, status)

    async def _stop(self) -> None:
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the replay ended: %s", error, exc_info=error)
