"""Hardware exits beside perf kvm stat and bpftrace, all three attached to the same run of a guest."""

import json
import re
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exitscope_probes.exit_reasons import cell_of, name_of
from exitscope_probes.guest.build import binary_path
from tests.kernel.harness import TIMEOUT_S, Report, Watch, wait_until

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "peers", "hardware_exits")

PEER = """
tracepoint:kvm:kvm_exit { @exits[tid, args->exit_reason] = count(); @open[tid] = args->exit_reason; @isa = args->isa; }
tracepoint:kvm:kvm_entry { delete(@open[tid]); }
"""
GUESTS = (
    ("--mode", "uffd", "--vcpus", "2", "--pages", "200"),
    ("--mode", "exit", "--vcpus", "2", "--pages", "100", "--think-us", "100"),
    ("--mode", "uffd", "--async", "--vcpus", "1", "--pages", "100"),
)


class Bpftrace:
    """A peer that counts kvm_exit by thread and reason; maps: what it said at its end, by name."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.maps: dict[str, Any] = {}

    @property
    def ready(self) -> bool:
        """Whether both of its programs are attached."""
        assert self._process.poll() is None, "bpftrace ended"
        listing = subprocess.run(["bpftool", "-j", "perf", "show"], capture_output=True, check=True, timeout=30).stdout
        own = [event for event in json.loads(listing or "[]") if event["pid"] == self._process.pid]
        return {"kvm_exit", "kvm_entry"} <= {event.get("tracepoint") for event in own}

    def stop(self) -> None:
        """Collects its maps."""
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=TIMEOUT_S)
        for line in output.splitlines():
            said = json.loads(line or "{}")
            if said.get("type") == "map":
                self.maps |= said["data"]


@contextmanager
def bpftrace() -> Iterator[Bpftrace]:
    """Attached, and gone afterwards."""
    command = ["bpftrace", "-f", "json", "-e", PEER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            peer = Bpftrace(process)
            wait_until(lambda: peer.ready, "bpftrace attached")
            yield peer
        finally:
            process.kill()


def run(command: list[str]) -> str:
    """What a command that must succeed prints; perf kvm stat prints its report to the standard error output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def perf_guests(data: Path) -> list[Report]:
    """Runs the guests, one after the other, under perf kvm stat record, into `data`."""
    guests = " && ".join(shlex.join([str(binary_path()), *options]) for options in GUESTS)
    output = run(["perf", "kvm", "stat", "record", "-o", str(data), "sh", "-c", guests])
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def perf_counts(data: Path) -> Counter[str]:
    """Exits by name, as perf kvm stat report prints them."""
    output = run(["perf", "kvm", "-i", str(data), "stat", "report", "--event=vmexit"])
    rows = re.findall(r"^\s*(\S.*?)\s+(\d+)\s+[\d.]+%\s+[\d.]+%", output, re.MULTILINE)
    assert rows, output
    return Counter({name: int(number) for name, number in rows})


def named(isa: int, counts: dict[int, int]) -> Counter[str]:
    """Counts by exit code, by our names."""
    found: Counter[str] = Counter()
    for code, number in counts.items():
        found[name_of(isa, cell_of(isa, code))] += number
    return found


def test_counts_equal_those_of_perf_and_bpftrace(watch: Watch, tmp_path: Path) -> None:
    status = {hook.hook: hook for hook in watch.probes.hooks}["hardware_exits"]
    assert status.status == "attached", status.passed_over
    data = tmp_path / "perf.data"
    with bpftrace() as peer:
        reports = perf_guests(data)
        peer.stop()
    assert len(reports) == len(GUESTS)
    tids = [vcpu["tid"] for report in reports for vcpu in report["vcpus"]]
    isa = int(peer.maps["@isa"])
    theirs: dict[int, Counter[int]] = {tid: Counter() for tid in tids}
    for key, number in peer.maps["@exits"].items():
        tid, code = map(int, key.split(","))
        if tid in theirs:
            theirs[tid][code] = number

    totals = watch.totals.poll()
    mine = np.isin(totals.vcpus["tid"], tids)
    cells = watch.totals.all_hardware(totals.slots[mine])
    assert (cells["isa"] == isa).all()
    tid_of = dict(zip(totals.slots[mine].tolist(), totals.vcpus["tid"][mine].tolist(), strict=True))
    ours: dict[int, Counter[str]] = {tid: Counter() for tid in tids}
    for cell in cells:
        ours[tid_of[int(cell["slot"])]][name_of(isa, int(cell["cell"]))] += int(cell["count"])
    assert ours == {tid: named(isa, counts) for tid, counts in theirs.items()}, "beside bpftrace, thread by thread"

    # perf counts an exit when the guest is entered again: not the one in which a vCPU's thread has ended.
    unfinished = named(isa, Counter(int(code) for tid, code in peer.maps.get("@open", {}).items() if int(tid) in tids))
    assert sum(unfinished.values()) <= len(tids)
    assert sum(ours.values(), Counter()) - unfinished == perf_counts(data), "beside perf kvm stat"

    assert (cells["max_ns"] <= cells["sum_ns"]).all()
    assert (cells["max_ns"] * cells["count"] >= cells["sum_ns"]).all()
    assert (cells["sum_ns"] > 0).sum() >= len(cells) - len(tids), "all were timed, but for those that never ended"
