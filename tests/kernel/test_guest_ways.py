"""The guest's further ways to fault and to be resolved: its own counts, on real KVM, are exact in each."""

from pathlib import Path
from typing import Any

import pytest

from exitscope_probes.guest import build as guest_build
from tests.kernel.test_guest import Report, call, run

pytestmark = pytest.mark.needs("kvm", "uffd")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sources as they are now, not one that was installed earlier."""
    return guest_build.build(tmp_path_factory.mktemp("guest") / "exitscope-guest")


def of_vcpus(report: Report, key: str) -> list[Any]:
    return [vcpu[key] for vcpu in report["vcpus"]]


@pytest.mark.parametrize("options", [["--thread-id"], ["--backing", "shmem"], ["--fault", "minor"], ["--async"]])
def test_vmm_thread_touches_pages_of_its_own(binary: Path, options: list[str]) -> None:
    report = run(binary, "--vmm-touch", 30, "--vcpus", 2, "--pages", 100, "--rounds", 2, *options)
    vmm = report["vmm"]
    assert (vmm["pages"], vmm["touches"], vmm["faults"], vmm["repeats"]) == (30, 60, 60, 0)
    assert vmm["tid"] not in of_vcpus(report, "tid")
    assert (of_vcpus(report, "faults"), of_vcpus(report, "touches")) == ([100, 100], [100, 100])
    assert report["events_read"] == report["fills"]["demand"] == 260
    assert run(binary, "--pages", 1)["vmm"] is None


@pytest.mark.parametrize("touches", [10, 80], ids=["fewer than the guest", "more"])
def test_vcpu_threads_touch_pages_between_runs(binary: Path, touches: int) -> None:
    report = run(binary, "--vcpu-touch", touches, "--vcpus", 2, "--pages", 100, "--rounds", 2)
    assert of_vcpus(report, "userspace_touches") == of_vcpus(report, "userspace_faults") == [2 * touches] * 2
    assert (of_vcpus(report, "faults"), of_vcpus(report, "touches")) == ([100, 100], [100, 100])
    assert report["events_read"] == 200 + 4 * touches


RESOLVERS = [
    pytest.param("zeropage", "ZEROPAGE", [], id="zeropage"),
    pytest.param("zeropage", "ZEROPAGE", ["--backing", "shmem"], id="zeropage of shmem"),
    pytest.param("zeropage", "ZEROPAGE", ["--mode", "exit"], id="zeropage in exit mode"),
    pytest.param("move", "MOVE", [], marks=pytest.mark.needs("uffd_move"), id="move"),
    pytest.param("move", "MOVE", ["--mode", "exit"], marks=pytest.mark.needs("uffd_move"), id="move in exit mode"),
    pytest.param("populate", "MADV_POPULATE", ["--mode", "exit"], id="populate"),
    pytest.param("populate", "MADV_POPULATE", ["--mode", "exit", "--order", "random"], id="populate at random"),
    pytest.param("populate", "MADV_POPULATE", ["--mode", "exit", "--fault", "minor"], id="populate minor"),
]


@pytest.mark.parametrize(("resolver", "name", "options"), RESOLVERS)
def test_resolvers(binary: Path, resolver: str, name: str, options: list[str]) -> None:
    report = run(binary, "--resolver", resolver, *options, "--vcpus", 2, "--pages", 200, "--rounds", 2)
    assert report["resolver"] == name
    assert (of_vcpus(report, "faults"), of_vcpus(report, "repeats")) == ([200, 200], [0, 0])
    assert (report["fills"]["demand"], report["fills"]["eexist"]) == (400, 0)


@pytest.mark.needs("uffd_poison")
@pytest.mark.parametrize("backing", ["anon", "shmem"])
def test_poisoned_pages_are_repaired_after_a_sigbus(binary: Path, backing: str) -> None:
    report = run(binary, "--resolver", "poison", "--backing", backing, "--vcpus", 2, "--pages", 100, "--rounds", 2)
    assert report["resolver"] == "POISON"
    assert of_vcpus(report, "faults") == [100, 100]
    assert report["events_read"] == report["fills"]["demand"] == report["fills"]["repaired"] == 200


@pytest.mark.parametrize("interrupts", [[], ["--async"]])
@pytest.mark.parametrize("options", [[], ["--fault", "minor"], ["--resolver", "zeropage"]])
def test_one_fill_for_all_vcpus(binary: Path, options: list[str], interrupts: list[str]) -> None:
    """Dealt in turn and resolved together: each range has a page of each vCPU, and each vCPU waits for it."""
    together = ("--interleave", "--gather", "--fill-pages", 4, "--vcpus", 8, "--pages", 800)
    report = run(binary, *together, *options, *interrupts)
    assert of_vcpus(report, "faults") == [100] * 8
    assert (report["events_read"], report["fills"]["demand"]) == (800, 200)


@pytest.mark.parametrize("mode", ["uffd", "exit"])
def test_ranges_are_filled_once(binary: Path, mode: str) -> None:
    """A vCPU that comes to a page filled along with another one does not fault."""
    options = ("--interleave", "--fill-pages", 16, "--handlers", 3, "--vcpus", 8, "--pages", 1000)
    report = run(binary, "--mode", mode, *options)
    assert (report["fills"]["demand"], report["fills"]["eexist"]) == (63, 0)
    assert 63 <= report["faults"] <= 1000
    report = run(binary, "--mode", mode, "--fill-pages", 16, "--vcpus", 2, "--pages", 320)
    assert of_vcpus(report, "faults") == [10, 10]


@pytest.mark.parametrize("order", ["seq", "random"])
def test_pages_dealt_in_turn(binary: Path, order: str) -> None:
    report = run(binary, "--interleave", "--order", order, "--vcpus", 3, "--pages", 100, "--prefill-percent", 50)
    assert of_vcpus(report, "pages") == [34, 33, 33]
    assert of_vcpus(report, "faults") == [17, 17, 17]


@pytest.mark.needs("memory_fault")
@pytest.mark.parametrize("vcpus", [1, 4])
def test_memory_fault_exits(binary: Path, vcpus: int) -> None:
    """KVM names the page; a new guest_memfd in its memslot resolves it. The vCPU checks the gpa against its pages."""
    report = run(binary, "--mode", "memory_fault", "--vcpus", vcpus, "--pages", 400, "--rounds", 2)
    assert of_vcpus(report, "faults") == of_vcpus(report, "filled") == [800 // vcpus] * vcpus
    assert of_vcpus(report, "repeats") == [0] * vcpus
    assert (report["mode"], report["backing"], report["fills"]["demand"]) == ("memory_fault", "guest_memfd", 800)


@pytest.mark.parametrize(
    "options",
    [
        ["--vcpus", "0"],
        ["--vcpus", "257"],
        ["--vcpus", "many"],
        ["--vcpus"],
        ["--vcpus", "8", "--pages", "7"],
        ["--pages", "-1"],
        ["--mode", "fast"],
        ["--mode", "exit", "--async"],
        ["--mode", "exit", "--livelock"],
        ["--mode", "exit", "--hold-fault"],
        ["--mode", "none", "--prefill-percent", "1"],
        ["--fault", "minor", "--backing", "anon"],
        ["--delay-us", "nan"],
        ["--async=1"],
        ["--no-such-option"],
        ["argument"],
        ["--resolver", "fast"],
        ["--resolver", "continue"],
        ["--resolver", "copy", "--fault", "minor"],
        ["--resolver", "move", "--backing", "shmem"],
        ["--resolver", "poison", "--mode", "exit"],
        ["--resolver", "populate"],
        ["--resolver", "copy", "--mode", "none"],
        ["--fill-pages", "513"],
        ["--fill-pages", "2", "--prefill-percent", "1"],
        ["--gather", "--handlers", "2"],
        ["--gather", "--vcpus", "3", "--pages", "100"],
        ["--gather", "--fill-pages", "2", "--vcpus", "2"],
        ["--vmm-touch", "1", "--mode", "exit"],
        ["--vcpu-touch", "1", "--mode", "exit"],
        ["--vcpu-touch", "16777216", "--vcpus", "2"],
        ["--mode", "memory_fault", "--backing", "anon"],
        ["--mode", "memory_fault", "--pages", "30001"],
        ["--backing", "guest_memfd"],
    ],
)
def test_wrong_usage(binary: Path, options: list[str]) -> None:
    result = call(binary, *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
