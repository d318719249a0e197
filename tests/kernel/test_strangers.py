"""What processes that mean no good can do to the collector: not much."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exitscope_probes.records import MODE_UFFD
from exitscope_probes.wire import Kind
from tests.kernel.client import Client, assert_told, collecting, connect
from tests.kernel.harness import run_guest
from tests.kernel.stranger import program, stranger

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

__all__ = ["program"]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    path = tmp_path / "collector.sock"
    with collecting(path) as process:
        client = connect(path, process)
        yield client
        client.close()


def test_processes_that_let_whoever_looks_at_them_wait_hold_up_nothing(client: Client, program: Path) -> None:
    with ExitStack() as stack:
        stuck = [stack.enter_context(stranger(program, "stuck")) for _ in range(6)]

        def unreadable(pid: int) -> str | None:
            vm = client.vm_of(pid)
            return vm["unreadable"] if vm else None

        client.read_until(lambda: all(unreadable(process.pid) for process in stuck), "that they are not readable")
        vm = client.vm_of(stuck[0].pid)
        assert vm and (vm["state"], vm["name"], vm["command"], vm["user"]) == ("running", "stranger", "", 0)
        assert [vcpu["vcpu"] for vcpu in vm["vcpus"]] == [0]
        totals = 0
        while totals < 10:
            totals += client.read().kind is Kind.TOTALS
        report = run_guest("--vcpus", 2, "--pages", 1000, "--name", "honest", "--pause-ms-before-exit", 1500)
        client.read_until(lambda: client.is_gone(report["pid"]), "the end of a VM that means well")
        assert_told(client, report, MODE_UFFD)
        honest = client.vm_of(report["pid"])
        assert honest and honest["name"] == "honest"
        assert unreadable(stuck[0].pid), "it holds on"
        assert stuck[0].stdin is not None
        stuck[0].stdin.write("let go\n")
        stuck[0].stdin.flush()
        client.read_until(lambda: not unreadable(stuck[0].pid), "that it is readable again")
    client.read_until(lambda: all(client.is_gone(process.pid) for process in stuck), "their end")
    assert not any(client.loss.values()), client.loss
