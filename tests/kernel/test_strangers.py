"""What processes that mean no good can do to the collector: not much."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exitscope_probes.chunks import SLOTS_PER_CHUNK
from exitscope_probes.records import MODE_UFFD
from exitscope_probes.upkeep import Share
from exitscope_probes.wire import Kind
from tests.kernel.client import Client, assert_told, collecting, connect
from tests.kernel.harness import Watch, answer, finish, go, guest, run_guest
from tests.kernel.stranger import program, stranger

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

__all__ = ["program"]


USER, OTHER = 4001, 4002


def test_one_user_gets_half_of_the_room_and_another_finds_some(program: Path) -> None:
    with Watch(max_vms=16, max_vcpus=24) as watch, stranger(program, "many", USER, 24) as greedy:
        before = watch.probes.users()
        taken = sum(share.vms for share in before.values())
        assert before[USER].vms == (16 - taken + before[USER].vms) // 2, "others of this host have theirs"
        assert before[USER].not_counted >= 24 - before[USER].vms
        assert len(watch.numbers(greedy.pid)) == before[USER].vms
        with stranger(program, "many", OTHER, 2) as other:
            assert len(watch.numbers(other.pid)) == 2
            assert watch.probes.users()[OTHER] == Share(2, 2, 0)
        greedy.kill()
        greedy.wait()
        watch.retire(greedy.pid, other.pid)
        assert watch.probes.users()[USER].vms == watch.probes.users()[OTHER].vcpus == 0
        with stranger(program, "many", OTHER, 4) as other:
            assert len(watch.numbers(other.pid)) == 4, "what was given back can be had again"


def test_vcpus_without_room_are_told_as_not_counted_and_counted_once_there_is(watch: Watch) -> None:
    with Watch(max_vcpus=4) as small:
        with guest("--vcpus", 6, "--pages", 600, "--pause-ms-before-exit", 60_000) as process:
            answer(process)
            totals = small.totals.poll()
            (row,) = totals.vms[totals.vms["tgid"] == process.pid]
            room = int((totals.vcpus["tgid"] == process.pid).sum())
            assert room <= 4 and row["not_counted"] == 6 - room
            assert small.loss()["not_counted"] >= 6 - room
        small.retire(process.pid)
        _, seen = small.run("--vcpus", 2, "--pages", 100)
        assert seen.vm["not_counted"] == 0 and seen.faults(MODE_UFFD) == [50, 50]


def test_histograms_grow_with_use(watch: Watch) -> None:
    """Behind the first vCPUs that there is room for."""
    probes = watch.probes
    first = probes.maps.histograms.grown
    assert first * SLOTS_PER_CHUNK < probes.max_vcpus
    for _ in range(100):
        probes.grow(first * SLOTS_PER_CHUNK)
    assert probes.maps.histograms.grown == probes.maps.hardware.grown > first
    with ExitStack() as stack:  # the newest slots are handed out last
        guests = [stack.enter_context(guest("--vcpus", 64, "--pages", 640, "--wait-start")) for _ in range(9)]
        for process in guests:
            answer(process)
        for process in guests:
            go(process)
        for process in guests:
            report = finish(process)
            seen = watch.observe(process.pid)
            assert seen.faults(MODE_UFFD) == [10] * 64
            assert seen.histograms[:, MODE_UFFD].sum() == report["faults"] == 640
        slots = watch.totals.poll().slots
        assert slots.max() >= first * SLOTS_PER_CHUNK
    watch.retire(*(process.pid for process in guests))


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
