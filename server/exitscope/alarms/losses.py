"""Rules: data that are being lost, and a collector that has gone silent."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ..aggregate import Aggregate
from ..peer import PeerUser
from ..source import STALE_NS, Status
from ..words import counted
from .finding import Finding
from .sight import Sight
from .words import age, names, user_name

HOLD_NS: Final = 10_000_000_000
"""Losses come in bursts."""

_PLACES: Final[dict[str, tuple[str, str]]] = {
    "ring_full": ("fault record", "found no room in the ring buffer"),
    "map_full": ("fault", "found no room in a BPF map"),
    "not_counted": ("VM or vCPU", "found no room and is not counted"),
    "ring_error": ("record", "could not be read from the ring buffer"),
    "slow_client": ("fault record", "came too fast for a reader of the collector"),
    "recording_error": ("write", "of a recording failed"),
    "server_full": ("vCPU or VM", "found no room in the server"),
}
"""Places of the loss ledger -> what was lost, and why. What the others count happens in ordinary runs, too."""

_MANY: Final = {"vCPU or VM": "vCPUs or VMs", "VM or vCPU": "VMs or vCPUs"}

_HINTS: Final = {
    "ring_full": "Totals stay right. A larger --ring-bytes takes longer bursts, or the host is too busy.",
    "map_full": "Larger --max-vcpus and --max-vms give the maps more room.",
    "server_full": "Totals of the VMs that are shown stay right.",
}
_HINT: Final = "Totals and percentiles stay right; the list of single faults and recordings have gaps."


class Losses:
    """Compares the loss ledger with what it was when this run of the collector was first heard."""

    def __init__(self) -> None:
        self._session: int | None = None
        self._before: dict[str, int] = {}
        self._grew_ns: int | None = None
        self._first_ns = 0
        self._base: dict[str, int] = {}

    def look(self, sight: Sight) -> Iterator[Finding]:
        """At most one finding, which counts from the beginning of the burst."""
        now = _ledger(sight.aggregate)
        if self._session != sight.aggregate.sessions:
            self._session, self._before, self._grew_ns = sight.aggregate.sessions, now, None
            return
        if any(now[place] > self._before[place] for place in now):
            if self._grew_ns is None:
                self._first_ns, self._base = sight.time_ns, self._before
            self._grew_ns = sight.time_ns
        elif self._grew_ns is not None and sight.time_ns - self._grew_ns >= HOLD_NS:
            self._grew_ns = None
        self._before = now
        if self._grew_ns is None:
            return
        lost = {place: now[place] - self._base[place] for place in now if now[place] > self._base[place]}
        told = [
            f"{counted(number, what, _MANY.get(what, ''))} {why}"
            for place, number in lost.items()
            for what, why in [_PLACES[place]]
        ]
        lasted_ns = sight.time_ns - self._first_ns
        since = f" within {age(lasted_ns)}" if lasted_ns else ""
        yield Finding(
            "records_lost",
            "warning",
            f"{names(told)}{since}.",
            _room(sight.aggregate.users) if "not_counted" in lost else _hint(lost),
            hold_ns=0,
        )


def _hint(lost: Iterable[str]) -> str:
    return next((_HINTS[place] for place in lost if place in _HINTS), _HINT)


def _room(users: Sequence[PeerUser]) -> str:
    """Who takes the collector's room for VMs, and what to do."""
    remedy = "Larger --max-vcpus and --max-vms of the collector give more room; each user but root may take half of it."
    first = max(users, key=lambda user: (user.vcpus, user.vms), default=None)
    if first is None:
        return remedy
    room = f"{counted(first.vms, 'VM')} with {counted(first.vcpus, 'vCPU')}"
    left_out = sorted((user for user in users if user.not_counted), key=lambda user: -user.not_counted)
    whose = names([f"{user.not_counted} of {user_name(user.user)}" for user in left_out[:3]])
    return f"Not counted: {whose}. {user_name(first.user)} has the most room, {room}. {remedy}"


def source_lost(aggregate: Aggregate, status: Status, now_ns: int) -> Iterator[Finding]:
    """The collector was heard, and is not any more. now_ns: of this server's clock, as in `status`."""
    silent_ns = now_ns - status.data_ns
    if not aggregate.time_ns or not status.data_ns or silent_ns <= STALE_NS:
        return
    why = status.explain(now_ns)
    yield Finding(
        "source_lost",
        "critical",
        f"Nothing has come from the collector for {age(silent_ns)}{f': {why}' if why else ''}.",
        "All other alarms stand as they were then. See whether the collector runs: "
        "`systemctl status exitscope-collector`.",
        value_ns=silent_ns,
        limit_ns=STALE_NS,
        hold_ns=0,
    )


def _ledger(aggregate: Aggregate) -> dict[str, int]:
    ledger = aggregate.ledger
    return {place: ledger.get(place, 0) for place in _PLACES}
