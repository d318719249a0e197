"""Every strategy says the same of one and the same guest: all are attached at once, where this kernel allows them."""

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from exitscope_probes.hooks import STRATEGIES
from exitscope_probes.records import MODE_EXIT, MODE_KERNEL, MODE_UFFD, MODES
from tests.kernel.harness import Observed, Watch, run_guest, whole_ns

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "fentry", "kprobe")

PAGES = 400
MEDIAN_TOLERANCE = 0.10
WAYS = {
    "uffd": (MODE_UFFD, ["--mode", "uffd"]),
    "uffd-thread-id": (MODE_UFFD, ["--mode", "uffd", "--thread-id"]),
    "exit": (MODE_EXIT, ["--mode", "exit"]),
}


@pytest.fixture(scope="module")
def watches() -> Iterator[dict[str, Watch]]:
    """Probes of each strategy, with maps of their own."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Watch(strategy=name, ring_bytes=1 << 20, max_vcpus=64, max_vms=16))
            for name in STRATEGIES
        }


def observe_all(watches: dict[str, Watch], *options: object) -> dict[str, Observed]:
    with ExitStack() as stack:
        for watch in watches.values():
            watch.retire()
            stack.enter_context(watch.losing())
        report = run_guest(*options)
    seen = {name: watch.observe(report["pid"]) for name, watch in watches.items()}
    for watch in watches.values():
        watch.retire(report["pid"])
    return seen


def test_each_strategy_took_its_own_column(watches: dict[str, Watch]) -> None:
    for name, watch in watches.items():
        ways = {status.hook: status.attachment or "" for status in watch.probes.hooks}
        assert all(status.status == "attached" for status in watch.probes.hooks), ways
        for hook in ("vcpu_run", "guest_fault", "uffd_wait", "resolve"):
            assert ways[hook].startswith(f"{name}:"), ways


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_counts_and_latencies(watches: dict[str, Watch], way: str, vcpus: int) -> None:
    mode, options = WAYS[way]
    seen = observe_all(watches, *options, "--vcpus", vcpus, "--pages", PAGES, "--delay-us", 300)
    for name, observed in seen.items():
        assert observed.faults(mode) == observed.recorded(mode) == [PAGES // vcpus] * vcpus, name
        assert all(observed.faults(other) == [0] * vcpus for other in set(range(len(MODES))) - {mode, MODE_KERNEL})
    addresses = [np.sort(observed.records["gpa"]) for observed in seen.values()]
    assert all(np.array_equal(addresses[0], others) for others in addresses[1:])
    kernel = {name: observed.faults(MODE_KERNEL) for name, observed in seen.items()}
    assert len(set(map(tuple, kernel.values()))) == 1, kernel
    medians = {name: float(np.median(whole_ns(observed.records))) for name, observed in seen.items()}
    assert max(medians.values()) < min(medians.values()) * (1 + MEDIAN_TOLERANCE), medians


def test_the_kernel_solves_as_many_for_each(watches: dict[str, Watch]) -> None:
    seen = observe_all(watches, "--mode", "none", "--vcpus", 1, "--pages", PAGES)
    counts = {name: observed.faults(MODE_KERNEL) for name, observed in seen.items()}
    assert len(set(map(tuple, counts.values()))) == 1 and min(counts["fentry"]) >= PAGES, counts
