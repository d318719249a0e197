"""What the server's aggregation costs: python -m tests.load_aggregate [vCPUs] [faults/s] [seconds].

Feeds synthetic frames as fast as they are taken and prints CPU time per second of data: 5 Hz totals, 20 Hz
records, frames for one page with a 10 s window and one with 15 min, JSON included.
"""

import resource
import sys
import time

import numpy as np
from pydantic_core import to_json

from exitscope import frame
from exitscope.aggregate import Aggregate
from exitscope.source import Status
from exitscope.window import WINDOWS
from exitscope_probes.wire import Message
from tests.unit.frames import FakeVm, Feeder


def main(vcpus: int = 256, faults_per_s: int = 100_000, seconds: int = 120) -> None:
    random = np.random.default_rng(1)
    feeder, aggregate, status = Feeder(), Aggregate(), Status("live")
    vm = feeder.add_vm(1, vcpus)
    for message in feeder.welcome():
        aggregate.handle(message)
    base_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent: dict[str, float] = {}

    def measured(name: str, since: float) -> None:
        spent[name] = spent.get(name, 0.0) + time.process_time() - since

    size = 0
    for step in range(seconds * 5):
        for vcpu in range(vcpus):
            latencies = random.exponential(300_000, faults_per_s // 5 // vcpus) + 20_000
            for series in (0, 5, 6, 7, 8, 9):
                feeder.faults(vm, vcpu, (latencies / (1 + series)).astype(np.int64), series)
        totals = feeder.totals()
        batches = [_records(feeder, vm, random, vcpus, faults_per_s // 20) for _ in range(4)]
        for batch in batches:
            since = time.process_time()
            aggregate.handle(batch)
            measured("records", since)
        since = time.process_time()
        aggregate.handle(totals)
        measured("totals", since)
        for window in ("10s", "15m"):
            since = time.process_time()
            selection = frame.select(aggregate, "")
            built = frame.build(aggregate, status, selection, WINDOWS[window], step, 0)
            text = to_json(built)
            measured(f"frame {window}", since)
            size = len(text)
    for name, total in spent.items():
        print(f"{name:12} {100 * total / seconds:6.2f} % of a core")
    kept = aggregate.histograms.cells_kept
    print(f"{'sum':12} {100 * sum(spent.values()) / seconds:6.2f} % of a core; frame {size} B, {kept} deltas")
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base_kb) / 1024
    print(f"memory       +{grown_mb:.0f} MB over {base_kb / 1024:.0f} MB (the generator included)")


def _records(feeder: Feeder, vm: FakeVm, random: np.random.Generator, vcpus: int, count: int) -> Message:
    """Faults of the last 50 ms, all over 16 GiB, served by four threads."""
    batch = feeder.records(vm, random.integers(1, 10**6, count).tolist())
    records = batch.arrays["records"]
    records["begin_ns"] -= random.integers(0, 50_000_000, count).astype(np.uint64)
    records["vcpu"], records["tid"] = random.integers(0, vcpus, count), 9000
    records["gpa"] = random.integers(0, 1 << 34, count)
    records["memslot"] = random.integers(0, 3, count)
    records["handler_tid"] = random.integers(100, 104, count)
    return batch


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
