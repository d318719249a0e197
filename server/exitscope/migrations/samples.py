"""QEMU's answers over a migration, thinned out as they become many: the same count, ever farther apart."""

from typing import Any, Final

from ..peer import PeerMigration

MAX_SAMPLES: Final = 900
_FIELDS: Final = ("status", "remaining_bytes", "transferred_bytes", "bytes_per_s", "postcopy_requests")


class Samples:
    """At most MAX_SAMPLES; the first and the newest are always among them, and each change of the status."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Any]] = []
        self._newest: dict[str, Any] | None = None
        self._apart_ns = 0

    def add(self, answer: PeerMigration, at_ns: int) -> None:
        """Take what QEMU said at this moment."""
        sample = {"at_ns": at_ns} | {name: getattr(answer, name) for name in _FIELDS}
        last, newest = self._kept[-1] if self._kept else None, self._newest
        self._newest = sample
        if newest is not None and last is not newest and newest["status"] != sample["status"]:
            self._kept.append(newest)  # the last word before a change
            last = newest
        if last is None or at_ns - last["at_ns"] >= self._apart_ns or last["status"] != sample["status"]:
            self._kept.append(sample)
        if len(self._kept) >= MAX_SAMPLES:
            self._thin_out()

    def listed(self) -> list[dict[str, Any]]:
        """Oldest first."""
        extra = [self._newest] if self._newest is not None and self._newest is not self._kept[-1] else []
        return [*self._kept, *extra]

    def _thin_out(self) -> None:
        kept = self._kept
        changes = [i > 0 and kept[i]["status"] != kept[i - 1]["status"] for i in range(len(kept))]
        self._kept = [one for i, one in enumerate(kept) if i % 2 == 0 or (changes[i] and sum(changes) < len(kept) // 4)]
        spread_ns = kept[-1]["at_ns"] - kept[0]["at_ns"]
        self._apart_ns = max(2 * self._apart_ns, 2 * spread_ns // len(kept))
