"""Faults that end in other ways than by a fill: nothing hangs, nothing stays behind, nothing goes uncounted."""

import ctypes
import os
import platform
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from exitscope_probes.records import MODE_ASYNC, MODE_KERNEL, MODE_UFFD, MODES, RESOLVERS, SEEN_FILL
from tests.kernel.harness import Guest, Watch, answer, finish, go, guest, run_guest, wait_until, whole_ns

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

SYS_TGKILL = {"x86_64": 234, "aarch64": 131}[platform.machine()]
# Newer kernels' KVM lets a signal end a vCPU's wait for a page (FOLL_INTERRUPTIBLE); 6.1's waits until it is there.
KICKABLE = tuple(map(int, os.uname().release.split(".")[:2])) > (6, 1)
libc = ctypes.CDLL(None)
HELD: dict[str, list[object]] = {
    "uffd": ["--mode", "uffd", "--hold-fault"],
    "uffd-thread-id": ["--mode", "uffd", "--hold-fault", "--thread-id"],
    "exit": ["--mode", "exit", "--delay-us", 60_000_000],
}


def await_open(watch: Watch, process: Guest, vcpus: int) -> None:
    """Until each vCPU is seen in a fault."""

    def open_now() -> bool:
        return bool(watch.numbers(process.pid)) and (
            np.count_nonzero(watch.observe(process.pid).vcpus["open_since_ns"]) == vcpus
        )

    wait_until(open_now, f"{vcpus} vCPUs in a fault")


@pytest.mark.parametrize("way", HELD)
def test_killed_in_a_fault(watch: Watch, way: str) -> None:
    with watch.losing(unmatched_begin=4), guest(*HELD[way], "--vcpus", 4, "--pages", 40) as process:
        await_open(watch, process, 4)
        traces = watch.left_of(process.pid)
        process.kill()
        process.wait()
        seen = watch.observe(process.pid)
    assert seen.vcpus["exited"].tolist() == [1] * 4
    assert not seen.vcpus["open_since_ns"].any()
    assert not seen.vcpus["series"]["count"][:, :MODE_KERNEL].any()
    assert len(seen.records) == 0
    watch.retire(process.pid)
    assert traces.remaining() == {}


def test_killed_while_a_kworker_waits(watch: Watch) -> None:
    with guest("--mode", "uffd", "--async", "--hold-fault", "--vcpus", 4, "--pages", 40) as process:
        wait_until(lambda: bool(watch.numbers(process.pid)), "its VM")
        wait_until(lambda: watch.observe(process.pid).vm["events_read"] == 4, "four events")
        wait_until(lambda: bool(watch.observe(process.pid).vcpus["open_since_ns"].all()), "four halted vCPUs")
        traces = watch.left_of(process.pid)
        with watch.losing(unmatched_begin=4):
            process.kill()
            process.wait()
    watch.retire(process.pid)
    assert traces.remaining() == {}


def test_handlers_that_die(watch: Watch) -> None:
    """vCPUs that wait for nobody show as open, since when, for as long as it lasts."""
    with guest("--vcpus", 3, "--pages", 300, "--handlers", 2, "--kill-handlers-after", 50) as process:
        await_open(watch, process, 3)
        # Each may still be in a fault that ends: those open now and later are the lasting ones.
        wait_until(lambda: watch.observe(process.pid).vm["fills_demand"].sum() == 50, "50 fills")
        await_open(watch, process, 3)
        traces = watch.left_of(process.pid)
        first = watch.observe(process.pid)
        time.sleep(0.3)
        second = watch.observe(process.pid)
        assert np.array_equal(first.vcpus["open_since_ns"], second.vcpus["open_since_ns"])
        assert (first.vcpus["open_since_ns"] <= time.monotonic_ns() - 300_000_000).all()
        assert sum(second.faults(MODE_UFFD)) == 50
        report = finish(process, signal.SIGTERM)
        seen = watch.observe(process.pid)
    assert report["fills"]["demand"] == seen.vm["fills_demand"].sum() == 50
    assert seen.vm["events_read"] == report["events_read"]
    assert not seen.vcpus["open_since_ns"].any()
    watch.retire(process.pid)
    assert traces.remaining() == {}


@pytest.mark.parametrize("fault", ["missing", "minor"])
@pytest.mark.parametrize(("mode", "option"), [(MODE_UFFD, []), (MODE_UFFD, ["--thread-id"]), (MODE_ASYNC, ["--async"])])
def test_uffd_closed_under_waiting_vcpus(watch: Watch, mode: int, option: list[str], fault: str) -> None:
    """The kernel lets them go: one fault each, which no fill has ended; all others are the kernel's own."""
    options = ["--hold-fault", "--close-uffd-after-ms", 1500, "--vcpus", 4, "--pages", 400, "--fault", fault, *option]
    with watch.losing(), guest(*options) as process:

        def met() -> bool:
            """Each vCPU waits; or has waited, if this process was too slow to see it."""
            rows: Any = watch.observe(process.pid).vcpus if watch.numbers(process.pid) else []
            return len(rows) == 4 and all(row["open_since_ns"] or row["series"]["count"][mode] for row in rows)

        wait_until(met, "four vCPUs that wait")
        traces = watch.left_of(process.pid)
        report = finish(process)
        seen = watch.observe(process.pid)
    assert [vcpu["touches"] for vcpu in report["vcpus"]] == [100] * 4
    assert (seen.faults(mode), seen.recorded(mode)) == ([1] * 4, [1] * 4), MODES[mode]
    assert all(count >= 99 for count in seen.faults(MODE_KERNEL))
    said = {RESOLVERS[code] for code in seen.records["resolver"]}
    # Of an async fault it can be told only as long as no fill of a range has been seen, which may have placed its page.
    assert said == {"released"} or (mode == MODE_ASYNC and said == {"other"})
    assert not (seen.records["seen"] & SEEN_FILL).any()
    assert (seen.vm["events_read"], seen.vm["events_done"]) == (4, 4)
    assert seen.fills("demand") == seen.fills("background") == {}
    assert not seen.vcpus["open_since_ns"].any()
    assert seen.vcpus["stall_ns"].min() >= seen.records["notify_ns"].min()
    watch.retire(process.pid)
    assert traces.remaining() == {}


@pytest.mark.parametrize("option", [[], ["--thread-id"]])
def test_kicked_out_of_a_fault(watch: Watch, option: list[str]) -> None:
    """A signal ends KVM_RUN in the middle of a wait; the access is made again, its page read about twice: one fault."""
    options = ["--vcpus", 2, "--handlers", 2, "--pages", 100, "--delay-us", 5000, "--wait-start", *option]
    with watch.losing(), guest(*options) as process:
        tids = [vcpu["tid"] for vcpu in answer(process)["vcpus"]]
        go(process)
        for _ in range(40):
            time.sleep(0.003)
            for tid in tids:
                assert libc.syscall(SYS_TGKILL, process.pid, tid, signal.SIGUSR1) == 0
        traces = watch.left_of(process.pid)
        report = finish(process)
        seen = watch.observe(process.pid)
    repeats = sum(vcpu["repeats"] for vcpu in report["vcpus"])
    assert (repeats > 0) == KICKABLE, "no signal came in a fault"
    assert report["faults"] == 100
    assert seen.vm["events_read"] == report["events_read"] == 100 + repeats
    assert seen.vm["fills_failed"] == report["fills"]["eexist"] >= KICKABLE
    copies = [seen.vm[f"fills_{which}"][RESOLVERS.index("COPY")] for which in ("demand", "background")]
    assert copies == [100, 0]
    assert seen.faults(MODE_UFFD) == seen.recorded(MODE_UFFD)
    if os.cpu_count() == 1:
        # On one emulated processor the read of an event may be seen only after its vCPU has asked again.
        assert seen.vm["events_done"] <= seen.vm["events_read"]
        for faults, vcpu in zip(seen.faults(MODE_UFFD), report["vcpus"], strict=True):
            assert 50 <= faults <= 50 + vcpu["repeats"]
    else:
        assert seen.vm["events_done"] == seen.vm["events_read"]
        assert seen.faults(MODE_UFFD) == [50, 50], "each page once, however often it was asked for"
        assert whole_ns(seen.records).min() >= 5_000_000, "from the first access on"
    for row, vcpu in zip(seen.vcpus, report["vcpus"], strict=True):
        # Nearly all; on a loaded machine the thread waits for its processor between two tries (seen: 0.78).
        assert 0.5 * vcpu["run_ns"] <= row["stall_ns"] <= vcpu["run_ns"]
    watch.retire(process.pid)
    assert traces.remaining() == {}


@pytest.fixture
def narrow() -> Iterator[Watch]:
    """Probes with next to no room."""
    with Watch(ring_bytes=4 * 4096, max_vcpus=4, max_vms=4) as watch:
        yield watch


@pytest.mark.parametrize("options", [["--mode", "uffd"], ["--mode", "exit"], ["--mode", "uffd", "--async"]])
def test_a_ring_that_is_too_small(narrow: Watch, options: list[str]) -> None:
    """Records are lost, and counted; the totals are exact all the same."""
    report = run_guest(*options, "--vcpus", 2, "--pages", 1000)
    seen = narrow.observe(report["pid"])
    assert 0 < len(seen.records) < 1000
    assert narrow.loss()["ring_full"] == 1000 - len(seen.records)
    mode = MODE_ASYNC if report["async"] else MODES.index(report["mode"])
    assert seen.faults(mode) == [500, 500]
    assert seen.histograms[:, mode].sum(axis=1).tolist() == [500, 500]
    assert seen.vcpus["series"]["count"][:, :MODE_KERNEL].sum() == seen.vm["fills_demand"].sum() == 1000


def test_more_vcpus_than_there_is_room_for(narrow: Watch) -> None:
    """The loss is counted, the vCPUs that found room are exact, and their room comes back."""
    before = narrow.loss()["not_counted"]
    report, seen = narrow.run("--mode", "exit", "--vcpus", 8, "--pages", 80)
    assert report["faults"] == 80
    assert narrow.loss()["not_counted"] - before >= 4
    assert len(seen.vcpus) == 4
    assert seen.vcpus["series"]["count"][:, MODES.index("exit")].tolist() == [10] * 4
    with narrow.losing():
        _, seen = narrow.run("--mode", "exit", "--vcpus", 4, "--pages", 80)
    assert seen.faults(MODES.index("exit")) == [20] * 4
