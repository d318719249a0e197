"""A guest that touches N pages yields exactly N faults: in the totals, as records, and by its own count."""

import numpy as np
import pytest

from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_KERNEL,
    MODE_UFFD,
    MODES,
    RESOLVERS,
    SEEN_FILL,
    SEEN_READ,
    WAITER_ASYNC,
    WAITER_VCPU,
)
from tests.kernel.harness import Observed, Report, Watch

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

PAGES = 800
PAGE_BYTES = 4096
WAYS = {
    "uffd": (MODE_UFFD, ["--mode", "uffd"]),
    "uffd-thread-id": (MODE_UFFD, ["--mode", "uffd", "--thread-id"]),
    "async": (MODE_ASYNC, ["--mode", "uffd", "--async"]),
    "exit": (MODE_EXIT, ["--mode", "exit"]),
}


def assert_exact(report: Report, seen: Observed, mode: int, faults: list[int]) -> None:
    """Every way of counting says the same; `faults`: of each vCPU."""
    total = sum(faults)
    resolver = report["resolver"]
    assert [vcpu["faults"] for vcpu in report["vcpus"]] == faults, "the guest's own count"
    assert seen.vcpus["vcpu"].tolist() == [vcpu["vcpu"] for vcpu in report["vcpus"]]
    assert seen.vcpus["tid"].tolist() == [vcpu["tid"] for vcpu in report["vcpus"]]
    for other in set(range(len(MODES))) - {MODE_KERNEL}:
        expected = faults if other == mode else [0] * len(faults)
        assert seen.faults(other) == expected, f"{MODES[other]} in the totals"
        assert seen.recorded(other) == expected, f"{MODES[other]} as records"
    assert seen.histograms[:, mode].sum(axis=1).tolist() == faults
    assert len(seen.others) == 0
    assert len(seen.records) == total

    assert seen.fills("demand") == ({resolver: total} if total else {})
    assert seen.vm["fills_failed"] == report["fills"]["eexist"] == 0
    read = 0 if mode == MODE_EXIT else total
    assert (seen.vm["events_read"], seen.vm["events_done"], report["events_read"]) == (read, read, read)
    assert not seen.vcpus["unread"].any()
    assert not seen.vcpus["open_since_ns"].any()


def assert_described(report: Report, records: np.ndarray) -> None:  # type: ignore[type-arg]
    """Each record says who, where and by whom."""
    # A waiter that finds its page there before it sleeps may be done before the call that filled it.
    filled = records[records["seen"] & SEEN_FILL != 0]
    assert len(filled) >= 0.99 * len(records)
    assert set(filled["resolver"]) == {RESOLVERS.index(report["resolver"])}
    tids = np.array([vcpu["tid"] for vcpu in report["vcpus"]])
    assert np.array_equal(records["tid"], tids[records["vcpu"]])
    in_kvm_run = report["mode"] == "exit"
    fillers = tids if in_kvm_run else [handler["tid"] for handler in report["handlers"]]
    assert set(filled["handler_tid"]) <= set(fillers)
    if in_kvm_run:
        assert np.array_equal(records["handler_tid"], records["tid"])
        assert set(records["exit_errno"]) == {-14}
    assert set(records["waiter"]) == {WAITER_ASYNC if report["async"] else WAITER_VCPU}
    assert in_kvm_run or (records["seen"] & SEEN_READ).all()
    for address in ("gpa", "hva"):
        assert not (records[address] == ADDRESS_UNKNOWN).any()
        assert not (records[address] % PAGE_BYTES).any()
        assert len(np.unique(records[address])) == len(records)
    assert len(np.unique(records["hva"] - records["gpa"])) == 1, "one memslot holds all the pages"


@pytest.mark.parametrize("vcpus", [1, 2, 8])
@pytest.mark.parametrize("fault", ["missing", "minor"])
@pytest.mark.parametrize("way", WAYS)
def test_every_fault_is_counted_once(watch: Watch, way: str, fault: str, vcpus: int) -> None:
    mode, options = WAYS[way]
    with watch.losing():
        report, seen = watch.run(*options, "--fault", fault, "--vcpus", vcpus, "--pages", PAGES)
    assert_exact(report, seen, mode, [PAGES // vcpus] * vcpus)
    assert_described(report, seen.records)
    assert seen.fills("background") == {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "options",
    [
        ["--order", "random"],
        ["--rounds", 3],
        ["--backing", "shmem"],
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_however_the_pages_are_touched(watch: Watch, way: str, options: list[object]) -> None:
    mode, mode_options = WAYS[way]
    with watch.losing():
        report, seen = watch.run(*mode_options, *options, "--vcpus", 3, "--pages", 600)
    assert_exact(report, seen, mode, [200 * report["rounds"]] * 3)


@pytest.mark.parametrize("thread_id", [[], ["--thread-id"]], ids=["unnamed", "named"])
def test_reads_of_more_events_than_one_run_of_the_program_looks_at(watch: Watch, thread_id: list[str]) -> None:
    vcpus, each = 80, 5
    with watch.losing():
        report, seen = watch.run(
            *(
                "--mode",
                "uffd",
                *thread_id,
                "--batch",
                256,
                "--delay-us",
                2000,  # long enough for the other vCPUs to come on a busy host, too
                "--vcpus",
                vcpus,
                "--pages",
                each * vcpus,
            )
        )
    assert_exact(report, seen, MODE_UFFD, [each] * vcpus)
    read_ns = sum((seen.records[name] for name in ("begin_ns", "raise_ns", "notify_ns")), np.uint64(0))
    assert np.unique(read_ns, return_counts=True)[1].max() > 64, "no read has returned many events"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "exit"])
@pytest.mark.parametrize("options", [["--handlers", 3], ["--batch", 8], ["--handlers", 3, "--batch", 8]])
def test_however_the_handlers_read(watch: Watch, way: str, options: list[object]) -> None:
    """Several handlers on one uffd, several events in one read."""
    mode, mode_options = WAYS[way]
    with watch.losing():
        report, seen = watch.run(*mode_options, *options, "--vcpus", 8, "--pages", PAGES)
    assert_exact(report, seen, mode, [PAGES // 8] * 8)
    assert_described(report, seen.records)


@pytest.mark.parametrize("fault", ["missing", "minor"])
@pytest.mark.parametrize("way", WAYS)
def test_background_fills_are_no_faults(watch: Watch, way: str, fault: str) -> None:
    mode, options = WAYS[way]
    with watch.losing():
        report, seen = watch.run(
            *options, "--fault", fault, "--vcpus", 2, "--pages", 1000, "--prefill-percent", 30, "--rounds", 2
        )
    assert report["fills"]["background"] == 600
    assert seen.fills("background") == {report["resolver"]: 600}
    assert seen.vm["bytes_background"] == 600 * PAGE_BYTES
    assert_exact(report, seen, mode, [700] * 2)


def test_faults_that_the_kernel_solves_alone(watch: Watch) -> None:
    """Totals only: they are many, and no record is worth each."""
    with watch.losing():
        report, seen = watch.run("--mode", "none", "--vcpus", 2, "--pages", 1000)
    assert report["faults"] == len(seen.records) == 0
    assert all(count >= 500 for count in seen.faults(MODE_KERNEL))
    assert seen.fills("demand") == seen.fills("background") == {}


@pytest.mark.parametrize("mode", [MODE_UFFD, MODE_EXIT])
def test_exits_are_counted_by_reason(watch: Watch, mode: int) -> None:
    """Each touch of a guest that thinks ends in an MMIO exit; each fault in exit mode in a bare -EFAULT."""
    from exitscope_probes.records import EXIT_NAMES

    report, seen = watch.run("--mode", MODES[mode], "--think-us", 10, "--vcpus", 2, "--pages", 200)
    exits = [{EXIT_NAMES[i]: n for i, n in enumerate(row) if n} for row in seen.vcpus["exits"].tolist()]
    for own, vcpu in zip(exits, report["vcpus"], strict=True):
        assert own.get("EFAULT", 0) == (vcpu["faults"] if mode == MODE_EXIT else 0)
        assert own["KVM_EXIT_MMIO"] == 100 + 1, "one per touch, one when the vCPU was made"
        assert set(own) <= {"EFAULT", "KVM_EXIT_MMIO", "EINTR"}
