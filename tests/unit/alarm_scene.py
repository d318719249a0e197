"""A state with VMs that the test moves through time, and its alarms."""

from typing import Any

from exitscope.aggregate import Aggregate
from exitscope.alarms.alarms import Alarms
from exitscope.alarms.finding import Limits
from exitscope.alarms.models import Alarm
from exitscope.source import Status

from .frames import FakeVm, Feeder, S

MS = 1_000_000
TICK_NS = S // 5


class Scene:
    """Feeder, Aggregate and Alarms on one clock. threads, handlers: of VMS, by VM number; uffds: whether it has one."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.feeder = Feeder()
        self.aggregate = Aggregate()
        self.alarms = Alarms(limits)
        self.status = Status("live", connected=True, data_ns=self.feeder.time_ns)
        self.threads: dict[int, list[dict[str, Any]]] = {}
        self.handlers: dict[int, list[dict[str, Any]]] = {}
        self.uffds: dict[int, bool] = {}

    def start(self) -> None:
        """What a client gets first, and a look."""
        for message in (self.feeder.hello(), self._vms(), self.feeder.totals(0, snapshot=True)):
            self.aggregate.handle(message)
        self.status.data_ns = self.feeder.time_ns
        self.look()

    def go(self, seconds: float = 0.2, vms: bool = True) -> list[Alarm]:
        """So much later, in ticks, with what the feeder counts; returns what is active."""
        ticks = max(round(seconds * S / TICK_NS), 1)
        for _ in range(ticks):
            self.aggregate.handle(self.feeder.totals(round(seconds * S / ticks)))
            if vms:
                self.aggregate.handle(self._vms())
            self.status.data_ns = self.feeder.time_ns
            self.look()
        return self.active

    def look(self, later_ns: int = 0) -> None:
        self.alarms.look(self.aggregate, self.status, self.feeder.time_ns + later_ns)

    @property
    def active(self) -> list[Alarm]:
        return [alarm for alarm in self.alarms.listed().alarms if alarm.active]

    @property
    def kinds(self) -> list[str]:
        return sorted(alarm.kind for alarm in self.active)

    def one(self, kind: str) -> Alarm:
        """The only active alarm of this kind."""
        (found,) = [alarm for alarm in self.active if alarm.kind == kind]
        return found

    @property
    def ended(self) -> list[Alarm]:
        return [alarm for alarm in self.alarms.listed().alarms if not alarm.active]

    def wait(self, vm: FakeVm, vcpu: int, since_ns: int | None = None) -> None:
        """The vCPU is in a fault since then, or now."""
        self.feeder.vcpus[vm.slots[vcpu]]["open_since_ns"] = self.feeder.time_ns if since_ns is None else since_ns

    def resolve(self, vm: FakeVm, vcpu: int) -> None:
        """Its fault is over."""
        row = self.feeder.vcpus[vm.slots[vcpu]]
        self.feeder.fault(vm, vcpu, self.feeder.time_ns - int(row["open_since_ns"]))
        row["open_since_ns"] = 0
        self.feeder.fill(vm, "COPY")

    def kill(self, vm: FakeVm) -> None:
        """All its threads end, those in a fault are counted; its process is gone with the next VMS."""
        for slot in vm.slots.values():
            row = self.feeder.vcpus[slot]
            self.feeder.loss["unmatched_begin"] += int(row["open_since_ns"] != 0)
            row["exited"], row["open_since_ns"] = 1, 0
        vm.state, vm.pending, vm.total = "gone", 0, 0

    def _vms(self) -> Any:
        message = self.feeder.vms_message()
        for entry in message.meta["vms"]:
            entry["threads"] = self.threads.get(entry["vm"], [])
            entry["handlers"] = self.handlers.get(entry["vm"], [])
            if not self.uffds.get(entry["vm"], True):
                entry["uffds"] = []
        return message


def thread(tid: int, role: str, name: str = "") -> dict[str, Any]:
    """One of VMS's threads."""
    return {"tid": tid, "name": name or role, "role": role, "cpu_ns": 1}
