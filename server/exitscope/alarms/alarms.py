"""The evaluator: all rules over one state, and what they have found so far."""

from typing import Any, Final

from ..aggregate import Aggregate
from ..source import Status
from .death import Deaths
from .finding import Finding, Limits
from .handler import Handlers
from .ledger import Key, Ledger
from .livelock import Livelock
from .losses import Losses, source_lost
from .models import Alarm, Kind, OldestFault
from .models import Alarms as Listed
from .recordings import not_recorded
from .sight import Sight
from .stall import VmStalls, oldest_fault, vcpu_stalled

MAX_SHOWN: Final = 64

OF_A_VM: Final[tuple[Kind, ...]] = (
    "oldest_fault",
    "handler_gone",
    "handler_stuck",
    "vcpu_stalled",
    "vm_stalled",
    "async_livelock",
    "vm_died",
)
OF_ALL: Final[tuple[Kind, ...]] = ("records_lost", "source_lost", "not_recorded")
_OF_THE_DATA: Final[frozenset[Kind]] = frozenset((*OF_A_VM, "records_lost"))
_OF_THE_SOURCE: Final[frozenset[Kind]] = frozenset(("source_lost", "not_recorded"))


class Alarms:
    """Of one state; a new state has new ones. Time is the state's own, so that replays have the alarms of their run.

    While the source is silent all alarms stay as they are, and there is one more that says so.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._ledger = Ledger()
        self._looked_ns = 0
        self._waits: list[OldestFault] = []
        self.waiting: dict[str, int] = {}  # VM id -> its vCPUs in a fault, if there are any
        self._stalls = VmStalls()
        self._livelock, self._losses, self._handlers, self._deaths = Livelock(), Losses(), Handlers(), Deaths()

    def look(self, aggregate: Aggregate, status: Status, now_ns: int, unrecorded: str | None = None) -> None:
        """Judge the state, if there is news, and its source. now_ns: CLOCK_MONOTONIC, as in `status`.

        unrecorded: why migrations that should be are not recorded.
        """
        running = {vm.id for vm in aggregate.vms.running()}
        if aggregate.time_ns != self._looked_ns and aggregate.ready:
            self._looked_ns = aggregate.time_ns
            sight = Sight(aggregate, self.limits)
            self._ledger.update(self._findings(sight), _OF_THE_DATA, running, sight.time_ns)
            self._ledger.forget({vm.id for vm in aggregate.vms})
            self.waiting = {vm_id: len(waits) for vm_id, waits in sight.waits.items()}
            self._waits = [
                OldestFault(vm=vm_id, vcpu=wait.vcpu, open_since_ns=wait.open_since_ns, age_ns=wait.age_ns)
                for vm_id, (wait, *_) in sight.waits.items()
            ]
            self._waits.sort(key=lambda wait: -wait.age_ns)
        if status.kind == "live":  # a replay's time is another
            found = [*source_lost(aggregate, status, now_ns), *not_recorded(unrecorded)]
            self._ledger.update(found, _OF_THE_SOURCE, running, now_ns)

    @property
    def active(self) -> set[Key]:
        """Kind and VM of each active alarm."""
        return self._ledger.active

    @property
    def raised(self) -> dict[Key, int]:
        """How often each has been raised."""
        return dict(self._ledger.raised)

    @property
    def oldest_faults(self) -> list[OldestFault]:
        """Of each running VM that has an open fault."""
        return self._waits

    def listed(self) -> Listed:
        """All there is to say."""
        return Listed(alarms=self._ledger.listed(), oldest_faults=self._waits)

    def shown(self) -> list[dict[str, Any]]:
        """The alarms of a frame: the first MAX_SHOWN that are listed."""
        alarms: list[Alarm] = self._ledger.listed()[:MAX_SHOWN]
        return [alarm.model_dump() for alarm in alarms]

    def _findings(self, sight: Sight) -> list[Finding]:
        return [
            *vcpu_stalled(sight),
            *self._stalls.look(sight),
            *oldest_fault(sight),
            *self._handlers.look(sight),
            *self._livelock.look(sight),
            *self._losses.look(sight),
            *self._deaths.look(sight),
        ]
