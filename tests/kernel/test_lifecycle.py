"""VMs that come and go, many of them and several at once: none mixed up, none forgotten, no map left filling."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from exitscope_probes.collector import Collector
from exitscope_probes.loader import Probes, load
from exitscope_probes.records import MODE_ASYNC, MODE_EXIT, MODE_UFFD
from exitscope_probes.socketfile import Listener
from tests.kernel.client import Client, assert_told, welcomed
from tests.kernel.harness import (
    TIMEOUT_S,
    Report,
    Traces,
    Watch,
    answer,
    finish,
    go,
    guest,
    of_ours,
    wait_until,
)

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

VMS, AT_ONCE, VCPUS = 200, 20, 2
WAYS: list[tuple[int, list[object]]] = [
    (MODE_UFFD, ["--mode", "uffd"]),
    (MODE_EXIT, ["--mode", "exit"]),
    (MODE_ASYNC, ["--mode", "uffd", "--async"]),
    (MODE_UFFD, ["--mode", "uffd", "--thread-id", "--fault", "minor"]),
]


@dataclass(frozen=True, slots=True)
class Live:
    """A collector that runs in a thread, its probes, and a client of its."""

    probes: Probes
    client: Client


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Room for two batches of VMs only."""
    with load(max_vcpus=2 * AT_ONCE * VCPUS, max_vms=2 * AT_ONCE, only=of_ours()) as probes:
        collector = Collector(probes, Listener(str(tmp_path / "collector.sock")))
        thread = threading.Thread(target=collector.run)
        thread.start()
        try:
            client = welcomed(tmp_path / "collector.sock")
            yield Live(probes, client)
            client.close()
        finally:
            collector.stop("end of the test")
            thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def run_batch(live: Live, first: int) -> list[tuple[int, Report]]:
    """A batch of guests at the same time, each of another size; all gone in the end. (mode, report) of each."""
    with ExitStack() as stack:
        started = []
        for number in range(first, first + AT_ONCE):
            mode, options = WAYS[number % len(WAYS)]
            options = [*options, "--vcpus", VCPUS, "--pages", VCPUS * (10 + number % 7), "--wait-start"]
            started.append((mode, stack.enter_context(guest(*options))))
        pids = [answer(process)["pid"] for _, process in started]
        traces = Traces(live.probes, pids)
        for _, process in started:
            go(process)
        reports = [(mode, finish(process)) for mode, process in started]
    live.client.read_until(lambda: all(map(live.client.is_gone, pids)), f"all of {pids} gone")
    wait_until(lambda: not traces.remaining(), "all room given back")
    return reports


def test_200_vms_leave_nothing_behind(live: Live) -> None:
    reports = [report for first in range(0, VMS, AT_ONCE) for report in run_batch(live, first)]
    assert len(reports) == VMS
    for mode, report in reports:
        assert report["faults"] == report["conditions"]["pages"]
        assert_told(live.client, report, mode)
    own = {report["pid"] for _, report in reports}
    vms = [vm for vm in live.client.vms.values() if vm["pid"] in own]
    assert len({vm["id"] for vm in vms}) == len({vm["vm"] for vm in vms}) == VMS
    assert {vm["state"] for vm in vms} == {"gone"}
    assert not any(live.client.loss.values()), live.client.loss


def test_vms_at_the_same_time_are_kept_apart(watch: Watch) -> None:
    """Of different kinds and sizes, so that nothing can be another's."""
    with watch.losing(), ExitStack() as stack:
        started = []
        for number, (mode, options) in enumerate(WAYS):
            pages = 3 * (100 + 50 * number)
            process = stack.enter_context(
                guest(*options, "--vcpus", 3, "--pages", pages, "--delay-us", 100, "--wait-start")
            )
            started.append((mode, pages, process))
        for _, _, process in started:
            answer(process)
        for _, _, process in started:
            go(process)
        reports = [finish(process) for _, _, process in started]
        for (mode, pages, process), report in zip(started, reports, strict=True):
            seen = watch.observe(process.pid)
            assert report["faults"] == pages
            assert seen.faults(mode) == seen.recorded(mode) == [pages // 3] * 3
            assert seen.vcpus["tid"].tolist() == [vcpu["tid"] for vcpu in report["vcpus"]]
            assert seen.vm["fills_demand"].sum() == pages
            assert seen.vm["events_read"] == report["events_read"]
    watch.retire(*(process.pid for _, _, process in started))


def test_a_vm_after_another_starts_from_nothing(watch: Watch) -> None:
    """Slots, kernel addresses and thread ids come again."""
    numbers = set()
    for pages in (40, 20, 60):
        with watch.losing():
            report, seen = watch.run("--mode", "exit", "--vcpus", 4, "--pages", pages)
        assert seen.faults(MODE_EXIT) == [pages // 4] * 4
        assert report["faults"] == pages
        numbers.add(int(seen.vm["vm"]))
    assert len(numbers) == 3


def test_a_vm_that_stays_idle_is_no_fault(watch: Watch) -> None:
    with guest("--vcpus", 2, "--pages", 20, "--pause-ms-before-exit", 60_000) as process:
        wait_until(lambda: len(watch.numbers(process.pid)) == 1, "its VM")
        wait_until(lambda: sum(watch.observe(process.pid).faults(MODE_UFFD)) == 20, "its 20 faults")
        time.sleep(0.2)
        seen = watch.observe(process.pid)
        assert not seen.vcpus["open_since_ns"].any()
        assert not seen.vcpus["exited"].any()
        process.terminate()
        finish(process)
    watch.retire(process.pid)
