"""The migrations as clients get them: with the wall clock, which the tracker does not know."""

import time
from collections.abc import Container
from typing import Any, Final

from .tracker import Tracker

RECENT_NS: Final = 900 * 1_000_000_000
"""A live frame has those that ended within this time: as far back as its charts go."""

_WALL_AT_ZERO_NS: Final = time.time_ns() - time.monotonic_ns()


def listed(tracker: Tracker) -> list[dict[str, Any]]:
    """models.Migration as plain data, newest first, without samples."""
    return [_dated(one) for one in reversed(tracker.listed())]


def found(tracker: Tracker, migration_id: str) -> dict[str, Any] | None:
    """One of them, with samples; None if there is none."""
    one = tracker.find(migration_id)
    return None if one is None else _dated(one)


def recent(tracker: Tracker, vms: Container[str] | None, time_ns: int) -> list[dict[str, Any]]:
    """For a frame: those of these VMs (None: of all) that go on or ended lately, oldest first; no samples at all."""

    def wanted(vm: str, to_ns: int | None) -> bool:
        return (vms is None or vm in vms) and (to_ns is None or to_ns > time_ns - RECENT_NS)

    return [{name: value for name, value in _dated(one).items() if name != "samples"} for one in tracker.listed(wanted)]


def _dated(one: dict[str, Any]) -> dict[str, Any]:
    return one if one["wall_ms"] else one | {"wall_ms": (_WALL_AT_ZERO_NS + one["from_ns"]) // 1_000_000}
