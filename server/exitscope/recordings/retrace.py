"""The migrations of a recording: what the live server's tracker makes of the same messages."""

from collections.abc import Container

from exitscope_probes.wire import Kind, Message

from ..aggregate import Aggregate
from ..migrations.models import Migration


class Retrace:
    """Feed it every message of the spool in order, with `take`."""

    def __init__(self) -> None:
        self._aggregate = Aggregate()
        self._beginning = True

    def take(self, message: Message) -> None:
        """One message more. Raises WireError if it does not fit."""
        if message.kind is Kind.FAULTS:
            records = message.arrays["records"]
            self._aggregate.stalled.add(records)
            self._aggregate.unanswered.records(records)
            self._aggregate.migrations.faults(records)
            return
        self._aggregate.handle(message)
        if self._beginning and message.kind is Kind.TOTALS:  # survey.py: a new client's snapshot is before the begin
            self._beginning = message.meta.get("snapshot") is True
            if self._beginning:
                self._aggregate.migrations.look_again()

    def found(self, recording_id: str, only: Container[str] | None, started_ns: int, wall_ms: int) -> list[Migration]:
        """Oldest first; only: those of these VMs, and their other sides. wall_ms: of started_ns."""
        tracker = self._aggregate.migrations
        told = [tracker.find(one["id"]) or one for one in tracker.listed()]
        sides = {one["other"] for one in told if only is not None and one["vm"] in only}
        kept = [one for one in told if only is None or one["vm"] in only or one["id"] in sides]
        for one in kept:
            one["wall_ms"] = wall_ms + (one["from_ns"] - started_ns) // 1_000_000
            one["recording"] = recording_id
        return [Migration.model_validate(one) for one in kept]
