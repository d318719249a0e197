"""Synthetic migrations: a Feeder whose VMs have uffds, threads and a QMP monitor that says what it is told."""

from typing import Any

from exitscope.aggregate import Aggregate
from exitscope.migrations.models import Migration
from exitscope_probes.records import MODE_UFFD
from exitscope_probes.wire import Kind, Message

from .frames import FakeVm, Feeder, S

MS = 1_000_000


class Host:
    """A collector's messages, handed to an Aggregate as they are made; all of them are kept, too."""

    def __init__(self) -> None:
        self.feeder = Feeder()
        self.aggregate = Aggregate()
        self.messages: list[Message] = []
        self.said: dict[int, dict[str, Any]] = {}  # VM number -> what VMS adds for it
        self.send(self.feeder.hello(), self.vms(), self.feeder.totals(0, snapshot=True))

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.messages.append(message)
            self.aggregate.handle(message)

    def vm(self, number: int, vcpus: int = 2, uffds: int = 1, **said: Any) -> FakeVm:
        """A VM that discovery has found. said: name, uuid, vmm, threads… of VMS."""
        vm = self.feeder.add_vm(number, vcpus)
        self.said[number] = {"uffds": [{"fd": 7 + i, "pending": 0, "total": 0} for i in range(uffds)]} | said
        self.look()
        return vm

    def vms(self) -> Message:
        message = self.feeder.vms_message()
        for vm in message.meta["vms"]:
            vm.update(self.said.get(vm["vm"], {}))
        return message

    def look(self, **changes: Any) -> None:
        """VMS now."""
        for said in self.said.values():
            said.update(changes)
        self.send(self.vms())

    def totals(self, seconds: float = 0.2, every: float = 0.2) -> None:
        """Time passes, TOTALS come five times a second and VMS once."""
        steps = max(round(seconds / every), 1)
        for i in range(steps):
            self.send(self.feeder.totals(round(seconds * S / steps)))
            if i % 5 == 4:
                self.send(self.vms())

    def page(self, vm: FakeVm, demand: int = 0, background: int = 0, latency_ns: int = MS, vcpu: int = 0) -> None:
        """Pages come, as the kernel counts them; records of the demanded ones, too."""
        if demand:
            self.feeder.fault(vm, vcpu, latency_ns, demand, MODE_UFFD)
            self.feeder.fill(vm, "COPY", demand)
            self.send(self.feeder.records(vm, [latency_ns] * demand, vcpu, mode=MODE_UFFD))
        if background:
            self.feeder.fill(vm, "COPY", background, demand=False)

    def qmp(self, vm: FakeVm, status: str | None, role: str | None = None, **said: Any) -> None:
        """MIGRATION now."""
        meta = {"vm": vm.number, "id": vm.id, "follow": "followed", "reason": None, "socket": "/run/vm.qmp"}
        meta |= {"at_ns": self.feeder.time_ns, "status": status, "role": role, "capabilities": ["postcopy-ram"]} | said
        self.send(Message(Kind.MIGRATION, self.feeder.time_ns, meta))

    @property
    def listed(self) -> list[dict[str, Any]]:
        return self.aggregate.migrations.listed()

    @property
    def only(self) -> dict[str, Any]:
        (one,) = self.listed
        found = self.aggregate.migrations.find(one["id"])
        assert found is not None
        return found


def valid(one: dict[str, Any]) -> Migration:
    """What the API would make of it."""
    found = Migration.model_validate(one)
    moments = [phase.from_ns for phase in found.phases] + [found.to_ns or found.from_ns]
    assert moments == sorted(moments) or found.to_ns is None
    assert [phase.to_ns for phase in found.phases[:-1]] == [phase.from_ns for phase in found.phases[1:]]
    return found
