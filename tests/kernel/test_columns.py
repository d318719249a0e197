"""What the server makes of a real guest over time: its columns add up to what the guest says itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exitscope.aggregate import Aggregate
from exitscope.frame import build, select
from exitscope.source import Status
from exitscope_probes.records import ADDRESS_UNKNOWN
from exitscope_probes.wire import Message
from tests.kernel.client import Client, collecting
from tests.kernel.harness import finish, guest

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

VCPUS = 4
PAGES = 20_000
S = 1_000_000_000


class Watching(Client):
    """A client that is a server, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.aggregate = Aggregate()

    def read(self) -> Message:
        message = super().read()
        self.aggregate.handle(message)
        return message


def test_columns_and_threads_are_what_the_guest_did(tmp_path: Path) -> None:
    options = ("--vcpus", VCPUS, "--pages", PAGES, "--handlers", 2, "--delay-us", 200, "--pause-ms-before-exit", 3000)
    with collecting(tmp_path / "collector.sock"):
        client = Watching(tmp_path / "collector.sock")
        aggregate = client.aggregate
        client.read_until(lambda: aggregate.series.count > 1, "a column before: it tells how long the next one is")
        with guest("--mode", "uffd", "--verify", *options) as process:
            client.read_until(lambda: client.is_gone(process.pid), "the VM's end")
            report = finish(process)
        ticks = aggregate.series.count + 1
        client.read_until(lambda: aggregate.series.count > ticks, "the last columns")
        client.close()
    records = client.records(report["pid"])
    vm = client.vm_of(report["pid"])
    assert vm is not None
    selection = select(aggregate, vm["id"])
    assert selection is not None
    columns = aggregate.series.ticks(selection.series_row, selection.rows)
    assert sum(one["fills"]["demand"] for one in columns) == report["fills"]["demand"]
    assert sum(one["fills"]["background"] for one in columns) == 0
    _stalled(columns, int(client.rows(report["pid"])["stall_ns"].sum()), aggregate)

    known = records["gpa"][records["gpa"] != ADDRESS_UNKNOWN]
    bin_bytes = columns[-1]["gpa"]["bin_bytes"]
    placed: dict[int, int] = {}
    for one in columns:
        for number, faults in one["gpa"]["cells"]:
            at = number * one["gpa"]["bin_bytes"] // bin_bytes
            placed[at] = placed.get(at, 0) + faults
    bins, counts = np.unique(known // bin_bytes, return_counts=True)
    assert placed == dict(zip(bins.tolist(), counts.tolist(), strict=True))

    shown: dict[str, Any] = build(aggregate, Status("live"), selection, 900 * S, 1, 0)
    handlers = [one for one in shown["threads"] if one["role"] == "uffd handler"]
    assert sorted(one["name"] for one in handlers) == ["uffd-handler-0", "uffd-handler-1"]
    assert sum(one["served"] for one in handlers) == np.isin(
        records["handler_tid"], [one["tid"] for one in handlers]
    ).sum() == len(records)  # fmt: skip
    assert all(0 < one["busy"] <= 1 for one in handlers)
    assert {one["handler"]["role"] for one in shown["slowest"]} == {"uffd handler"}
    (slot,) = shown["memslots"]
    assert slot["from_gpa"] == known.min()
    assert slot["to_gpa"] == known.max() // 4096 * 4096 + 4096


def _stalled(columns: list[dict[str, Any]], stall_ns: int, aggregate: Aggregate) -> None:
    """On average so many vCPUs stood still, times the length of each column: all the time that they did."""
    times_ns = [one["time_ns"] for one in aggregate.series.ticks(0, np.empty(0, np.int64))]
    lengths_ns = dict(zip(times_ns[1:], np.diff(times_ns).tolist(), strict=True))
    stood_ns = sum(one["stalled"]["mean"] * lengths_ns[one["time_ns"]] for one in columns)
    assert stood_ns == pytest.approx(stall_ns, rel=0.02)
    for one in columns:
        assert one["stalled"]["mean"] == pytest.approx(sum(one["stall"]), abs=0.01)
        assert one["stalled"]["mean"] <= one["stalled"]["peak"] <= VCPUS
    assert max(one["stalled"]["peak"] for one in columns) == VCPUS
