"""Recordings of made-up migrations: a destination's faults, QEMU's account of it, and what the kernel counted."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope.migrations.models import Migration, MigrationFills, Phase, Sample, VcpuStall
from exitscope.recordings.counters import DEMAND, CounterLog, Owner
from exitscope.recordings.file import RecordingFile, RecordingWriter
from exitscope.recordings.meta import RecordingMeta
from exitscope_probes.records import MODE_ASYNC, SEEN_HALT, SEEN_READ, VCPU_OTHER, WAITER_ASYNC, WAITER_OTHER

from .recordings import START_NS, VM, latency_ns, synthetic_meta, synthetic_records

S: Final = 1_000_000_000
MS: Final = 1_000_000
SOURCE: Final = "4000-76"
COPIES: Final = 1
"""Column of resolver COPY within DEMAND and BACKGROUND."""


def migrated_records(count: int = 3000, vcpus: int = 4, seconds: float = 6.0, seed: int = 1) -> npt.NDArray[Any]:
    """Faults of a postcopy: some async, halted or not; some without event; some of other threads; some pages twice."""
    records = synthetic_records(count, vcpus, seconds=seconds, serve_ns=1_500_000, seed=seed)
    random = np.random.default_rng(seed)
    records["vcpu"] = random.integers(0, vcpus, count)
    records["tid"] = 9000 + records["vcpu"]
    asynchronous = np.arange(count) % 7 == 3
    records["mode"][asynchronous], records["waiter"][asynchronous] = MODE_ASYNC, WAITER_ASYNC
    records["seen"][np.arange(count) % 14 == 3] |= SEEN_HALT
    unread = np.arange(count) % 31 == 5
    records["seen"][unread] &= ~np.uint8(SEEN_READ)
    others = np.arange(count) % 41 == 7
    records["vcpu"][others], records["waiter"][others], records["tid"][others] = VCPU_OTHER, WAITER_OTHER, 8888
    again = np.arange(2, count, 50)
    for name in ("hva", "gpa"):
        records[name][again] = records[name][again - 2]
    return records


def destination(records: npt.NDArray[Any], **changes: Any) -> Migration:
    """What is said of it; changes replace fields."""
    own = records[records["vcpu"] != VCPU_OTHER]
    vcpus = np.unique(own["vcpu"]).tolist()
    end_ns = int((records["begin_ns"].astype(np.int64) + latency_ns(records)).max(initial=START_NS + S)) + 5 * MS
    said: dict[str, Any] = {
        "id": "arrival",
        "vm": VM,
        "vm_name": "fake",
        "kind": "postcopy",
        "role": "destination",
        "how": "qmp",
        "evidence": ["QEMU said “postcopy-active” over QMP."],
        "state": "completed",
        "from_ns": START_NS - S,
        "to_ns": end_ns,
        "wall_ms": 1_767_225_599_000,
        "missing_from_ns": START_NS,
        "phases": [
            Phase(name="precopy", from_ns=START_NS - S, to_ns=START_NS),
            Phase(name="postcopy", from_ns=START_NS, to_ns=end_ns),
        ],
        "faults": {"uffd": int((own["mode"] == 0).sum()), "async": int((own["mode"] == MODE_ASYNC).sum()), "kernel": 9},
        "fills": MigrationFills(demand=len(records), background=5000),
        "stall": [VcpuStall(vcpu=vcpu, stall_ns=77 * MS) for vcpu in vcpus],
        "qmp": {
            "follow": "followed",
            "vcpu_blocktime_ns": [int(100 + 3 * vcpu) * MS for vcpu in vcpus],
            "blocktime_ns": 12 * MS,
        },
        "other": "departure",
    }
    return Migration(**(said | changes))


def source(**changes: Any) -> Migration:
    """The other side, on the same host: what it sends, and what it was asked for."""
    samples = [
        Sample(
            at_ns=START_NS - S + tick * S // 2,
            status="postcopy-active",
            remaining_bytes=(20 - tick) << 20,
            transferred_bytes=tick << 20,
            bytes_per_s=2.0e6,
            postcopy_requests=tick * 100,
        )
        for tick in range(15)
    ]
    said: dict[str, Any] = {
        "id": "departure",
        "vm": SOURCE,
        "vm_name": "fake-source",
        "kind": "postcopy",
        "role": "source",
        "how": "qmp",
        "state": "completed",
        "from_ns": START_NS - S,
        "to_ns": START_NS + 6 * S,
        "wall_ms": 1_767_225_599_000,
        "qmp": {"follow": "followed", "postcopy_requests": 2800},
        "samples": samples,
        "other": "arrival",
    }
    return Migration(**(said | changes))


def migrated_meta(records: npt.NDArray[Any], *migrations: Migration, **fields: Any) -> RecordingMeta:
    """Of a recording that began two seconds before the first fault; fields change it."""
    meta = synthetic_meta(records[records["vcpu"] != VCPU_OTHER])
    for handler, name in zip(meta.vms[0].handlers, ("fault-default", "postcopy/listen"), strict=False):
        handler.name = name
    meta.vms[0].async_faults, meta.vms[0].vmm = True, "QEMU"
    began = {"started_ns": START_NS - 2 * S, "ended_ns": meta.ended_ns + S}
    return meta.model_copy(update=began | {"migrations": list(migrations)} | fields)


def write_migration(
    path: Path, records: npt.NDArray[Any] | None = None, *migrations: Migration, **fields: Any
) -> RecordingFile:
    """A finished recording of them; by default of destination() and source()."""
    records = migrated_records() if records is None else records
    meta = migrated_meta(records, *(migrations or (destination(records), source())), **fields)
    log = CounterLog(meta.started_ns)
    deltas = np.zeros(DEMAND.stop * 2, np.int64)
    for second in range(8):
        deltas[COPIES], deltas[DEMAND.stop + COPIES] = 10 * second, 100 * second
        log.add(meta.started_ns + second * S + 1, 0, slice(0, len(deltas)), deltas)
    with RecordingWriter(path) as writer:
        writer.write(records, {1: VM})
        writer.close(meta, None, log.pack([Owner(VM, None)]))
    return RecordingFile.open(path)
