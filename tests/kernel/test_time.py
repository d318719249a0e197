"""Times, each against a measure of another kind: the guest's clock, a known sleep, the records against the totals."""

import time

import numpy as np
import pytest

from exitscope_probes.histogram import BUCKETS, bucket_of, percentiles_ns
from exitscope_probes.records import (
    MODE_ASYNC,
    MODE_EXIT,
    MODE_UFFD,
    MODES,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
    STAGE_SERIES,
)
from tests.kernel.harness import STAGES, Observed, Watch, whole_ns

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

WAYS = {
    "uffd": (MODE_UFFD, ["--mode", "uffd"]),
    "async": (MODE_ASYNC, ["--mode", "uffd", "--async"]),
    "exit": (MODE_EXIT, ["--mode", "exit"]),
}
# Stage of STAGE_SERIES -> its field in a record, and what must have been seen for it to be counted.
FIELDS = {
    "raise": ("raise_ns", SEEN_ACCESS),
    "notify": ("notify_ns", SEEN_READ),
    "serve": ("serve_ns", SEEN_READ),
    "fill": ("fill_ns", SEEN_FILL),
    "wake": ("finish_ns", SEEN_FILL),
    "reenter": ("finish_ns", SEEN_FILL),
}


@pytest.mark.parametrize("way", WAYS)
def test_stall_agrees_with_the_guests_own_clock(watch: Watch, way: str) -> None:
    """With a network behind the handler: the way from the access to KVM's first tracepoint, and from its last one back
    into the guest, is out of sight, some microseconds that would count for much in a fault of 30 µs."""
    options = [*WAYS[way][1], "--vcpus", 2, "--handlers", 2, "--pages", 2000, "--delay-us", 500]
    report, seen = watch.run("--fault-free-pass", *options)
    lost_ns = sum(vcpu["run_ns"] - vcpu["fault_free_ns"] for vcpu in report["vcpus"])
    for row, vcpu in zip(seen.vcpus, report["vcpus"], strict=True):
        assert row["stall_ns"] <= vcpu["run_ns"], "more stall than time"
    assert 0.9 <= seen.vcpus["stall_ns"].sum() / lost_ns <= 1.1


def assert_stages_add_up(seen: Observed, mode: int) -> None:
    """Totals and records were made from the same numbers; exactly so, not only within a microsecond."""
    family = "exit" if mode == MODE_EXIT else MODES[mode]
    for vcpu, row in enumerate(seen.vcpus["series"]):
        own = seen.records[seen.records["vcpu"] == vcpu]
        whole = whole_ns(own)
        assert (row[mode]["count"], row[mode]["sum_ns"]) == (len(own), whole.sum())
        assert row[mode]["max_ns"] == whole.max()
        for series, (stage_family, stage) in enumerate(STAGE_SERIES, start=len(MODES)):
            field, needed = FIELDS[stage]
            if family == "exit" and stage == "serve":
                needed = 0
            times = own[field][own["seen"] & needed == needed] if stage_family == family else own[field][:0]
            assert (row[series]["count"], row[series]["sum_ns"]) == (len(times), times.sum()), (family, stage)
            histogram = np.bincount(bucket_of(times), minlength=BUCKETS)
            assert np.array_equal(seen.histograms[vcpu, series], histogram), (family, stage)
        assert np.array_equal(seen.histograms[vcpu, mode], np.bincount(bucket_of(whole), minlength=BUCKETS))
    # A waiter that finds its page before it sleeps can be done before the fill's ioctl returns: that stage is unseen.
    filled = seen.records["seen"] & SEEN_FILL > 0
    assert filled.mean() >= 0.99
    complete = [vcpu for vcpu in range(len(seen.vcpus)) if filled[seen.records["vcpu"] == vcpu].all()]
    stages = [series for series, (name, _) in enumerate(STAGE_SERIES, start=len(MODES)) if name == family]
    sums = seen.vcpus["series"]["sum_ns"][complete].astype(np.int64)
    assert np.abs(sums[:, stages].sum(axis=1) - sums[:, mode]).max(initial=0) <= 1000


@pytest.mark.parametrize("way", WAYS)
def test_records_and_totals_tell_the_same(watch: Watch, way: str) -> None:
    mode, options = WAYS[way]
    began_ns = time.monotonic_ns()
    _, seen = watch.run(*options, "--vcpus", 3, "--pages", 3000, "--delay-us", 20, "--delay-dist", "exp")
    ended_ns = time.monotonic_ns()
    assert_stages_add_up(seen, mode)

    records = seen.records
    whole = whole_ns(records)
    assert (records["begin_ns"] >= began_ns).all()
    assert (records["begin_ns"] + whole <= ended_ns).all()
    for vcpu in range(len(seen.vcpus)):
        own = records[records["vcpu"] == vcpu]
        ends_ns = own["begin_ns"] + whole_ns(own)
        assert (own["begin_ns"][1:] >= ends_ns[:-1]).all(), "a vCPU is in one fault at a time"

    quantiles = (0.5, 0.9, 0.99, 1.0)
    exact = np.quantile(whole, quantiles, method="inverted_cdf").astype(np.float64)
    estimated = percentiles_ns(seen.histograms[:, mode].sum(axis=0), quantiles).astype(np.float64)
    assert (np.abs(estimated - exact) <= 0.05 * exact).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_slow_handler_shows_in_its_stage(watch: Watch, way: str) -> None:
    """A sleep of 2 ms before each fill is a serve stage of at least 2 ms, whatever the machine does."""
    _, options = WAYS[way]
    _, seen = watch.run(*options, "--pages", 100, "--delay-us", 2000, "--delay-dist", "fixed")
    medians_ns = {stage: int(np.median(seen.records[stage])) for stage in STAGES}
    assert seen.records["serve_ns"].min() >= 2_000_000
    assert all(median < medians_ns["serve_ns"] / 2 for stage, median in medians_ns.items() if stage != "serve_ns")


def test_halted_vcpus_are_stalled(watch: Watch) -> None:
    """Our guest did not register for async page faults, so KVM halts it: the fault's time is all stall."""
    _, seen = watch.run("--mode", "uffd", "--async", "--pages", 100, "--delay-us", 1000)
    (row,) = seen.vcpus
    assert row["async_tries"] >= 100
    assert 0.9 <= row["stall_ns"] / row["series"]["sum_ns"][: len(MODES)].sum() <= 1.0
