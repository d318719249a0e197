"""Who waited: the VMM's own threads, a vCPU's thread in userspace, several vCPUs for one fill; and by what resolved."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exitscope_probes.records import (
    ACCESS_READ,
    ACCESS_WRITE,
    ADDRESS_UNKNOWN,
    EXIT_NAMES,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_KERNEL,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    MODES,
    PRESENCES,
    RESOLVERS,
    SEEN_FILL,
    SEEN_READ,
    SEEN_SLEEP,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_OTHER,
    WAITER_VCPU,
)
from tests.kernel.harness import Observed, Report, Watch, whole_ns

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

PAGE_BYTES = 4096
Records = npt.NDArray[Any]


def others(seen: Observed) -> Records:
    """Records of the waiters that are no vCPU."""
    records: Records = seen.records[seen.records["waiter"] == WAITER_OTHER]
    return records


def assert_vcpus(report: Report, seen: Observed, mode: int, faults: list[int]) -> None:
    """Each vCPU has exactly these faults, of this mode only, and no record of anybody else's."""
    assert seen.vcpus["tid"].tolist() == [vcpu["tid"] for vcpu in report["vcpus"]]
    for other in set(range(len(MODES))) - {MODE_KERNEL}:
        assert seen.faults(other) == (faults if other == mode else [0] * len(faults)), f"{MODES[other]} in the totals"
    own = seen.records[seen.records["waiter"] != WAITER_OTHER]
    assert set(own["waiter"]) <= {WAITER_ASYNC if mode == MODE_ASYNC else WAITER_VCPU}
    assert np.bincount(own["vcpu"], minlength=len(faults)).tolist() == faults, "as records"
    tids = np.array([vcpu["tid"] for vcpu in report["vcpus"]])
    assert np.array_equal(own["tid"], tids[own["vcpu"]])
    assert not seen.vcpus["open_since_ns"].any()


def assert_others(report: Report, seen: Observed, faults: int) -> None:
    """The VMM thread has exactly these, in a row of its own."""
    records = others(seen)
    assert len(records) == faults
    assert set(records["vcpu"]) == {VCPU_OTHER}
    assert set(records["tid"]) == {report["vmm"]["tid"]}
    assert set(records["mode"]) == {MODE_UFFD}
    assert (records["seen"] & SEEN_READ).all()
    assert len(np.unique(records["hva"])) == min(faults, report["vmm"]["pages"])
    assert len(seen.others) == 1
    row = seen.others[0]
    assert (row["vcpu"], row["tid"]) == (VCPU_OTHER, report["vmm"]["tid"])
    assert row["series"]["count"][MODE_UFFD] == faults
    assert row["series"]["sum_ns"][MODE_UFFD] == whole_ns(records).sum()
    assert not row["stall_ns"], "no vCPU stood still"


def assert_events(report: Report, seen: Observed, fills: int) -> None:
    """Every event read once and done, every fill counted once."""
    read = report["events_read"]
    assert (seen.vm["events_read"], seen.vm["events_done"]) == (read, read)
    assert seen.fills("demand") == {report["resolver"]: fills}
    assert seen.vm["fills_failed"] == 0


WAYS = {
    "uffd": (MODE_UFFD, []),
    "uffd-thread-id": (MODE_UFFD, ["--thread-id"]),
    "async": (MODE_ASYNC, ["--async"]),
}


# A wait outside of a guest fault that is over before it sleeps leaves no trace where nothing names it.
ASLEEP = ("--delay-us", 200)


@pytest.mark.parametrize("memory", [[], ["--backing", "shmem"], ["--fault", "minor"]], ids=["anon", "shmem", "minor"])
@pytest.mark.parametrize("way", WAYS)
def test_a_vmm_thread_waits_as_other(watch: Watch, way: str, memory: list[str]) -> None:
    mode, options = WAYS[way]
    with watch.losing():
        report, seen = watch.run(
            *options, *memory, *ASLEEP, "--vmm-touch", 150, "--vcpus", 2, "--pages", 400, "--rounds", 2
        )
    assert report["vmm"]["faults"] == 300
    assert_vcpus(report, seen, mode, [400, 400])
    assert_others(report, seen, 300)
    assert_events(report, seen, 1100)
    hvas = seen.records["hva"]
    assert not np.isin(hvas[seen.records["waiter"] == WAITER_OTHER], hvas[seen.records["waiter"] != WAITER_OTHER]).any()


@pytest.mark.parametrize("option", [[], ["--thread-id"]], ids=["unnamed", "thread-id"])
def test_a_vmm_thread_waits_as_long_as_it_does(watch: Watch, option: list[str]) -> None:
    """A sleep of 2 ms before each fill: all of it is in the records, and the vCPUs have none of it."""
    options = ["--vmm-touch", 40, "--vcpus", 1, "--pages", 40, "--handlers", 2, "--delay-us", 2000, *option]
    with watch.losing():
        report, seen = watch.run(*options)
    assert_vcpus(report, seen, MODE_UFFD, [40])
    assert_others(report, seen, 40)
    assert np.median(others(seen)["serve_ns"]) >= 2_000_000


@pytest.mark.parametrize("memory", [[], ["--backing", "shmem"], ["--fault", "minor"]], ids=["anon", "shmem", "minor"])
@pytest.mark.parametrize("option", [[], ["--thread-id"]], ids=["unnamed", "thread-id"])
def test_a_vcpu_thread_in_userspace(watch: Watch, option: list[str], memory: list[str]) -> None:
    """As a VMM emulates a device: no guest fault is open, but the vCPU stands still. Its fault begins at its sleep."""
    with watch.losing():
        report, seen = watch.run(
            *option, *memory, *ASLEEP, "--vcpu-touch", 50, "--vcpus", 2, "--pages", 200, "--rounds", 2
        )
    assert [vcpu["userspace_faults"] for vcpu in report["vcpus"]] == [100, 100]
    faults = seen.faults(MODE_UFFD)
    if option:
        assert_vcpus(report, seen, MODE_UFFD, [300, 300])
        assert_events(report, seen, 600)
    # Outside of a guest fault, a wait that nothing names is known by its wake-up alone: now and then one is missed.
    assert all(297 <= count <= 300 for count in faults) and faults == seen.recorded(MODE_UFFD)
    assert len(others(seen)) == len(seen.others) == 0
    first_device_page = 200
    base = seen.records["hva"].min()
    in_userspace = (seen.records["hva"] - base) // PAGE_BYTES >= first_device_page
    assert np.bincount(seen.records["vcpu"][in_userspace]).min() >= 97
    assert (seen.records["seen"][in_userspace] & SEEN_SLEEP).mean() > 0
    assert not seen.records["raise_ns"][in_userspace].any(), "the access is not seen"
    assert seen.vcpus["stall_ns"][0] >= whole_ns(seen.records[in_userspace & (seen.records["vcpu"] == 0)]).sum()


RESOLVED: list[Any] = [
    pytest.param(MODE_UFFD, ["--resolver", "zeropage"], id="zeropage"),
    pytest.param(MODE_UFFD, ["--resolver", "zeropage", "--thread-id"], id="zeropage-thread-id"),
    pytest.param(MODE_UFFD, ["--resolver", "zeropage", "--backing", "shmem"], id="zeropage-shmem"),
    pytest.param(MODE_EXIT, ["--mode", "exit", "--resolver", "zeropage"], id="zeropage-exit"),
    pytest.param(MODE_UFFD, ["--resolver", "move"], id="move", marks=pytest.mark.needs("uffd_move")),
    pytest.param(
        MODE_UFFD, ["--resolver", "move", "--thread-id"], id="move-thread-id", marks=pytest.mark.needs("uffd_move")
    ),
    pytest.param(
        MODE_EXIT, ["--mode", "exit", "--resolver", "move"], id="move-exit", marks=pytest.mark.needs("uffd_move")
    ),
    pytest.param(MODE_EXIT, ["--mode", "exit", "--resolver", "populate"], id="populate"),
    pytest.param(MODE_EXIT, ["--mode", "exit", "--resolver", "populate", "--fault", "minor"], id="populate-minor"),
]


@pytest.mark.parametrize(("mode", "options"), RESOLVED)
def test_each_way_to_resolve(watch: Watch, mode: int, options: list[str]) -> None:
    with watch.losing():
        report, seen = watch.run(*options, "--vcpus", 2, "--pages", 400, "--rounds", 2)
    assert_vcpus(report, seen, mode, [400, 400])
    assert_events(report, seen, 800)
    filled = seen.records[seen.records["seen"] & SEEN_FILL != 0]
    assert len(filled) >= 0.99 * len(seen.records)
    assert set(filled["resolver"]) == {RESOLVERS.index(report["resolver"])}
    assert seen.fills("background") == {}
    for address in ("gpa", "hva"):
        assert not (seen.records[address] == ADDRESS_UNKNOWN).any()
        assert len(np.unique(seen.records[address][-400:])) == 400


@pytest.mark.needs("uffd_poison")
@pytest.mark.parametrize("option", [[], ["--thread-id"]], ids=["unnamed", "thread-id"])
@pytest.mark.parametrize("backing", ["anon", "shmem"])
def test_poisoned(watch: Watch, backing: str, option: list[str]) -> None:
    """The fault ends by UFFDIO_POISON; KVM sends SIGBUS, and the vCPU thread puts the page in with nobody waiting."""
    options = ["--resolver", "poison", "--backing", backing, *option, "--vcpus", 2, "--pages", 400]
    with watch.losing():
        report, seen = watch.run(*options)
    assert_vcpus(report, seen, MODE_UFFD, [200, 200])
    assert (seen.vm["events_read"], seen.vm["events_done"]) == (400, 400)
    filled = seen.records[seen.records["seen"] & SEEN_FILL != 0]
    assert len(filled) >= 0.99 * 400
    # Where nothing names a vCPU that is poisoned before it sleeps, its fault is seen to end by the repair.
    fills = {which: seen.fills(which) for which in ("demand", "background")}
    late = fills["demand"].pop("COPY", 0)
    assert fills == {"demand": {"POISON": 400}, "background": {"COPY": 400 - late}}
    assert late <= (0 if option else 8)
    assert late or set(filled["resolver"]) == {RESOLVERS.index("POISON")}
    assert (seen.vcpus["exits"][:, EXIT_NAMES.index("EINTR")] >= 200).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [[], ["--fault", "minor"]])
def test_one_fill_wakes_several_vcpus(watch: Watch, options: list[str], way: str) -> None:
    """Eight vCPUs wait for pages of two ranges; each range is filled at once. Every wait is a fault of its vCPU."""
    mode, more = WAYS[way]
    together = ["--interleave", "--gather", "--fill-pages", 4, "--vcpus", 8, "--pages", 800]
    with watch.losing():
        report, seen = watch.run(*together, *options, *more)
    assert [vcpu["faults"] for vcpu in report["vcpus"]] == [100] * 8
    assert_vcpus(report, seen, mode, [100] * 8)
    assert_events(report, seen, 200)
    assert len(others(seen)) == 0
    for address in ("gpa", "hva"):
        assert len(np.unique(seen.records[address])) == 800, f"each fault has its own {address}, not the fill's first"
    assert len(np.unique(seen.records["hva"] - seen.records["gpa"])) == 1


@pytest.mark.parametrize("option", [[], ["--thread-id"]], ids=["unnamed", "thread-id"])
def test_ranges_filled_while_others_come(watch: Watch, option: list[str]) -> None:
    """Nobody waits for anybody: a fault is seen for each event that a handler has read, or a few that none had."""
    ranges = ("--interleave", "--fill-pages", 16, "--handlers", 3)
    with watch.losing():
        report, seen = watch.run(*ranges, *option, "--vcpus", 8, "--pages", 3200)
    assert (
        report["fills"]["demand"] == sum(seen.fills("demand").values()) + sum(seen.fills("background").values()) == 200
    )
    for faults, unread, vcpu in zip(
        seen.faults(MODE_UFFD), seen.vcpus["unread"].tolist(), report["vcpus"], strict=True
    ):
        assert faults - unread == vcpu["faults"]
    assert seen.faults(MODE_UFFD) == seen.recorded(MODE_UFFD)
    assert (seen.vm["events_read"], seen.vm["events_done"]) == (report["events_read"], report["events_read"])


@pytest.mark.needs("memory_fault")
@pytest.mark.parametrize("vcpus", [1, 4])
def test_memory_fault_exits(watch: Watch, vcpus: int) -> None:
    """KVM_EXIT_MEMORY_FAULT with -EFAULT: KVM itself says flags, gpa and size."""
    pages = 400
    with watch.losing():
        report, seen = watch.run("--mode", "memory_fault", "--vcpus", vcpus, "--pages", pages, "--rounds", 2)
    faults = [2 * pages // vcpus] * vcpus
    assert_vcpus(report, seen, MODE_MEMORY_FAULT, faults)
    records = seen.records
    assert {MODES[mode] for mode in set(records["mode"])} == {"memory_fault"}
    assert set(records["exit_errno"]) == {-14}
    assert set(records["exit_reason"]) == {EXIT_NAMES.index("KVM_EXIT_MEMORY_FAULT")}
    assert set(records["exit_flags"]) == {0}
    assert set(records["exit_size"]) == {PAGE_BYTES}
    gpas, times = np.unique(records["gpa"], return_counts=True)
    assert (len(gpas), set(times)) == (pages, {2})
    assert int(gpas[-1] - gpas[0]) == (pages - 1) * PAGE_BYTES
    cell = EXIT_NAMES.index("KVM_EXIT_MEMORY_FAULT/EFAULT")
    assert seen.vcpus["exits"][:, cell].tolist() == faults
    assert not seen.vcpus["exits"][:, EXIT_NAMES.index("EFAULT")].any()
    assert seen.fills("demand") == seen.fills("background") == {}, "a new memslot is no fill that the probes know"
    assert set(records["access"]) == {ACCESS_WRITE}
    assert np.array_equal(records["memslot"], (records["gpa"] - gpas[0]) // PAGE_BYTES + 1), (
        "that of the fault, not of now"
    )
    assert not (records["hva"] == ADDRESS_UNKNOWN).any()


@pytest.mark.parametrize("fault", ["missing", "minor"])
def test_what_a_bare_efault_does_not_say(watch: Watch, fault: str) -> None:
    """Inferred by the probes: the page, what was wanted of it, its memslot, and where it was."""
    with watch.losing():
        report, seen = watch.run("--mode", "exit", "--fault", fault, "--vcpus", 2, "--pages", 400)
    assert_vcpus(report, seen, MODE_EXIT, [200, 200])
    records = seen.records
    assert set(records["access"]) in ({ACCESS_WRITE}, {ACCESS_READ}), "an emulated processor loads before it stores"
    assert set(records["memslot"]) == {1}
    assert {PRESENCES[code] for code in records["presence"]} == {fault}
    assert len(np.unique(records["gpa"])) == len(np.unique(records["hva"])) == 400
    assert len(np.unique(records["hva"] - records["gpa"])) == 1
