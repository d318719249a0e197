"""Small finished recordings from synthetic records, whose every number is known."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope.recordings.clock import NAME as CLOCK
from exitscope.recordings.clock import FolderClock
from exitscope.recordings.file import HISTOGRAM_CELL_DTYPE, RecordingFile, RecordingWriter
from exitscope.recordings.meta import (
    Handler,
    RecordedVcpu,
    RecordedVm,
    RecordingMeta,
    Snapshot,
    Totals,
    VcpuTotals,
    VmTotals,
)
from exitscope_probes.histogram import bucket_of
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    FAULT_DTYPE,
    MEMSLOT_UNKNOWN,
    MODE_EXIT,
    MODE_UFFD,
    MODES,
    RECORD_FAULT,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
)

VM = "4001-77"
START_NS = 1_000_000_000_000
HOUR_NS = 3600 * 1_000_000_000
STAGES = ("raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns")


def synthetic_records(
    count: int = 2000,
    vcpus: int = 4,
    mode: int = MODE_UFFD,
    seconds: float = 10.0,
    serve_ns: int = 300_000,
    seed: int = 1,
    vm: int = 1,
) -> npt.NDArray[Any]:
    """`count` faults of VM number `vm`, (count,) FAULT_DTYPE, sorted by begin_ns, evenly over `seconds`.

    serve is exponential with mean serve_ns; the other stages are some µs.
    """
    random = np.random.default_rng(seed)
    records = np.zeros(count, FAULT_DTYPE)
    records["type"], records["size"] = RECORD_FAULT, FAULT_DTYPE.itemsize
    records["mode"], records["vm"] = mode, vm
    records["resolver"] = 1 if mode == MODE_UFFD else 7
    records["seen"] = SEEN_ACCESS | SEEN_FILL | (SEEN_READ if mode == MODE_UFFD else 0)
    records["vcpu"] = np.arange(count) % vcpus
    records["tid"] = 9000 + records["vcpu"]
    records["handler_tid"] = 9100 + np.arange(count) % 2 if mode == MODE_UFFD else records["tid"]
    records["begin_ns"] = START_NS + np.sort(random.integers(0, max(int(seconds * 1e9), 1), count))
    records["raise_ns"] = random.integers(1_000, 4_000, count)
    records["notify_ns"] = random.integers(5_000, 40_000, count) if mode == MODE_UFFD else 0
    records["serve_ns"] = random.exponential(serve_ns, count).astype(np.uint64) + 1
    records["fill_ns"] = random.integers(3_000, 9_000, count)
    records["finish_ns"] = random.integers(2_000, 9_000, count)
    page = random.permutation(count).astype(np.uint64)
    records["hva"] = 0x7F00_0000_0000 + page * 4096
    records["gpa"] = page * 4096
    records["gpa"][::50] = ADDRESS_UNKNOWN
    records["memslot"] = np.where(np.arange(count) % 50 == 0, MEMSLOT_UNKNOWN, 0)
    records["access"] = 1 + np.arange(count) % 2
    records["presence"] = 1
    if mode == MODE_EXIT:
        records["exit_errno"] = -14
    return records


def latency_ns(records: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Sum of the five stages, (n,)."""
    return sum((records[name].astype(np.int64) for name in STAGES), np.zeros(len(records), np.int64))


def synthetic_meta(records: npt.NDArray[Any], id: str = "20260101-000000-test", name: str = "test") -> RecordingMeta:
    """What a recording of these records of one VM says: totals at start are not zero, their difference is exact."""
    tids = dict(zip(records["vcpu"].tolist(), records["tid"].tolist(), strict=True))
    start, stop = [], []
    for vcpu, tid in sorted(tids.items()):
        mine = records[records["vcpu"] == vcpu]
        lengths, modes = latency_ns(mine), mine["mode"]
        counts = {mode: int((modes == code).sum()) for code, mode in enumerate(MODES)}
        sums = {mode: int(lengths[modes == code].sum()) for code, mode in enumerate(MODES)}
        counts["kernel"], sums["kernel"] = 10, 10_000
        before = VcpuTotals(vcpu=vcpu, tid=tid, faults=dict.fromkeys(MODES, 5), sum_ns=dict.fromkeys(MODES, 5000),
                            stall_ns=1000, exits={"KVM_EXIT_IO": 7})  # fmt: skip
        start.append(before)
        stop.append(
            VcpuTotals(
                vcpu=vcpu,
                tid=tid,
                faults={mode: 5 + counts[mode] for mode in MODES},
                sum_ns={mode: 5000 + sums[mode] for mode in MODES},
                stall_ns=1000 + int(lengths.sum()),
                exits={"KVM_EXIT_IO": 7 + vcpu, "EFAULT": counts["exit"]},
            )
        )
    end_ns = int((records["begin_ns"].astype(np.int64) + latency_ns(records)).max(initial=START_NS))
    handlers, fills = np.unique(records["handler_tid"], return_counts=True)
    vm = RecordedVm(
        id=VM,
        pid=4001,
        name="fake",
        vmm="test",
        command="fake --vcpus 4",
        vcpus=[RecordedVcpu(vcpu=vcpu, tid=tid, name=f"vcpu{vcpu}") for vcpu, tid in sorted(tids.items())],
        handlers=[
            Handler(tid=tid, name="handler", fills=n)
            for tid, n in zip(handlers.tolist(), fills.tolist(), strict=True)
            if tid
        ],
        uffd_features=["MISSING"],
        backing="anonymous",
        memory_bytes=len(records) * 4096,
        memslots=[0],
    )
    filled = {"COPY": 5 + len(records), "WAKE": 9}
    return RecordingMeta(
        id=id,
        name=name,
        started_ns=START_NS,
        ended_ns=end_ns,
        started_wall_ms=1_767_225_600_000,
        host="testhost",
        kernel="6.1.0-test",
        cpus=4,
        cpu_model="Test CPU",
        hooks=[{"hook": "vcpu_run", "title": "vCPU run", "status": "attached", "attachment": "tracepoint:x",
                "passed_over": [], "effect": "nothing", "essential": True}],
        vms=[vm],
        totals=Totals(
            start=Snapshot(time_ns=START_NS, vms={VM: VmTotals(vcpus=start, fills_demand={"COPY": 5})}),
            stop=Snapshot(
                time_ns=end_ns,
                vms={VM: VmTotals(vcpus=stop, fills_demand=filled, fills_background={"COPY": 3})},
            ),
        ),
        loss=dict.fromkeys(("ring_full", "map_full", "unmatched_begin", "unmatched_end", "slow_client"), 0),
    )  # fmt: skip


def write_recording(
    path: Path,
    records: npt.NDArray[Any] | None = None,
    meta: RecordingMeta | None = None,
    row_group: int = 1 << 20,
    **fields: Any,
) -> RecordingFile:
    """A finished recording at `path`; records default to synthetic_records(), fields change its meta."""
    records = synthetic_records() if records is None else records
    meta = (meta or synthetic_meta(records)).model_copy(update=fields)
    lengths = latency_ns(records)
    cells = np.zeros(len(records), HISTOGRAM_CELL_DTYPE)
    cells["vcpu"], cells["series"], cells["bucket"], cells["count"] = (
        records["vcpu"].astype("<i4"),
        records["mode"],
        bucket_of(lengths.astype(np.uint64)),
        1,
    )
    with RecordingWriter(path) as writer:
        for first in range(0, len(records), row_group):
            writer.write(records[first : first + row_group], {1: meta.vms[0].id if meta.vms else VM})
        writer.close(meta, cells)
    return RecordingFile.open(path)


def folder_of_age(directory: Path, passed_ns: int) -> str:
    """Make the clock of a recordings folder that a server has used for so long; returns the folder's id."""
    directory.mkdir(exist_ok=True)
    FolderClock(directory).now()
    kept = json.loads((directory / CLOCK).read_text())
    kept |= {"passed_ns": passed_ns, "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}
    (directory / CLOCK).write_text(json.dumps(kept))
    return str(kept["id"])
