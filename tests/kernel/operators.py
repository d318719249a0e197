"""Who looks at alarms and migrations, through a real collector and the server's own state."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exitscope.aggregate import Aggregate
from exitscope.alarms import death
from exitscope.alarms.alarms import Alarms
from exitscope.alarms.models import Alarm
from exitscope.source import Status
from exitscope.vms import Vm
from exitscope_probes.wire import Kind
from tests.kernel.client import Client, collecting
from tests.kernel.harness import TIMEOUT_S

S = 1_000_000_000


class Operator:
    """Looks at what a collector says of all VMs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.aggregate = Aggregate()
        self._alarms = Alarms()
        self._status = Status("live", connected=True)

    def watch(self, condition: Callable[[], object], what: str) -> None:
        """Until it holds; it is asked after every message."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}; but {self._alarms.listed().alarms}"
            message = self._client.read()
            self.aggregate.handle(message)
            self._status.data_ns = time.monotonic_ns()
            if message.kind is Kind.TOTALS:
                self._alarms.look(self.aggregate, self._status, time.monotonic_ns())

    def for_seconds(self, seconds: float) -> None:
        """Just look on."""
        until = time.monotonic() + seconds
        self.watch(lambda: time.monotonic() > until, "time")

    def vms(self, pid: int) -> list[Vm]:
        """Those of a process, oldest first."""
        return [vm for vm in self.aggregate.vms if vm.peer.pid == pid]

    def states(self, pid: int) -> list[str]:
        """running or gone, of each VM of a process, sorted."""
        return sorted(vm.state for vm in self.vms(pid))

    def alarms(self, pid: int) -> list[Alarm]:
        """All of a process's VM, active or not."""
        ids = {vm.id for vm in self.vms(pid)}
        return [alarm for alarm in self._alarms.listed().alarms if alarm.vm in ids]

    def active(self, pid: int) -> dict[str, Alarm]:
        """Kind -> the active one."""
        return {alarm.kind: alarm for alarm in self.alarms(pid) if alarm.active}

    def migrations(self, pid: int) -> list[dict[str, Any]]:
        """What is said of its VM's migrations and page-ins."""
        ids = {vm.id for vm in self.vms(pid)}
        return [one for one in self.aggregate.migrations.listed() if one["vm"] in ids]

    def lost(self) -> bool:
        """Whether records are said to be lost."""
        return any(alarm.kind == "records_lost" for alarm in self._alarms.listed().alarms)

    def waiting(self, pid: int) -> bool:
        """Whether its VM has an open fault."""
        ids = {vm.id for vm in self.vms(pid)}
        return any(fault.vm in ids for fault in self._alarms.oldest_faults)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setattr(death, "SHOWN_NS", 2 * S)
    path = tmp_path / "socket"
    with collecting(path):
        client = Client(path)
        yield Operator(client)
        client.close()
