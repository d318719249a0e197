"""What the kernel counted second by second, beside the records: for the replay, in the footer of the file.

Sparse: one entry for each counter that grew in an interval. When there are too many, intervals are joined in pairs:
the longer the recording, the coarser, and never larger.
"""

import base64
import json
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exitscope_probes.exit_reasons import HARDWARE_CELLS, ISA_NONE
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import EXIT_CELLS, FILLS, SERIES

# Columns of a vCPU.
COUNTS: Final = slice(0, SERIES)
SUMS_NS: Final = slice(SERIES, 2 * SERIES)
EXITS: Final = slice(2 * SERIES, 2 * SERIES + EXIT_CELLS)
STALL_NS: Final = 2 * SERIES + EXIT_CELLS
PREFETCH: Final = STALL_NS + 1
SCALARS: Final = PREFETCH + 1
KERNEL_CELLS: Final = slice(SCALARS, SCALARS + BUCKETS)
"""Histogram of mode kernel, which has no records."""

HARDWARE_COUNTS: Final = slice(KERNEL_CELLS.stop, KERNEL_CELLS.stop + HARDWARE_CELLS)
HARDWARE_SUMS_NS: Final = slice(HARDWARE_COUNTS.stop, HARDWARE_COUNTS.stop + HARDWARE_CELLS)
"""Hardware exits, and the time until guest code ran again."""

# Columns of a VM.
DEMAND: Final = slice(0, len(FILLS))
BACKGROUND: Final = slice(len(FILLS), 2 * len(FILLS))
FAILED: Final = 2 * len(FILLS)
BYTES_BACKGROUND: Final = FAILED + 1
VM_SCALARS: Final = BYTES_BACKGROUND + 1

WIDTH: Final = HARDWARE_SUMS_NS.stop
INTERVAL_NS: Final = 1_000_000_000
MAX_ENTRIES: Final = 1 << 20
MAX_OWNERS: Final = 1 << 16
MAX_INTERVALS: Final = 1 << 22

_ENTRY: Final = np.dtype([("interval", "<u4"), ("owner", "<u2"), ("column", "<u2"), ("delta", "<i8")])


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose counters: a vCPU's (-1: the VM's other threads), or with vcpu None the VM's."""

    vm: str
    vcpu: int | None
    tid: int = 0


class CounterLog:
    """Collects increments. Owners are numbers that the caller gives, from 0. isa: whose hardware exits they are."""

    def __init__(self, started_ns: int, max_entries: int = MAX_ENTRIES) -> None:
        self.started_ns = started_ns
        self.interval_ns = INTERVAL_NS
        self.isa = ISA_NONE
        self._max = max_entries
        self._open = np.zeros((0, WIDTH), np.int64)
        self._interval = 0
        self._closed: list[npt.NDArray[Any]] = []
        self._entries = 0

    def add(
        self,
        time_ns: int,
        owners: int | npt.NDArray[np.int64],
        columns: slice | npt.NDArray[Any],
        deltas: npt.NDArray[Any],
    ) -> None:
        """Count deltas (n,) for these columns of an owner, or of owners (n,); time_ns must not go back."""
        while time_ns - self.started_ns >= MAX_INTERVALS * self.interval_ns:
            self._close()
            self._coarser()
            self._interval //= 2
        interval = max(time_ns - self.started_ns - 1, 0) // self.interval_ns
        if interval != self._interval:
            self._close()
            self._interval = max(time_ns - self.started_ns - 1, 0) // self.interval_ns
        last = owners if isinstance(owners, int) else int(owners.max())
        if last >= len(self._open):
            self._open = np.concatenate((self._open, np.zeros((last + 8 - len(self._open), WIDTH), np.int64)))
        self._open[owners, columns] += deltas

    def pack(self, owners: list[Owner], vms: Container[str] | None = None) -> bytes:
        """As text for the footer. vms: ids of those that the recording is of; None: all."""
        self._close()
        owners, entries = _of(owners, _joined(self._closed), vms)
        columns = [np.ascontiguousarray(entries[name]) for name in _ENTRY.names or ()]
        columns[0] = np.diff(columns[0], prepend=np.uint32(0)).astype("<u4")
        raw = b"".join(column.tobytes() for column in columns)
        said = {
            "started_ns": self.started_ns,
            "interval_ns": self.interval_ns,
            "isa": self.isa,
            "entries": len(entries),
            "owners": [[owner.vm, owner.vcpu, owner.tid] for owner in owners],
        }
        return json.dumps(said).encode() + b"\n" + base64.b64encode(pa.compress(raw, "zstd", asbytes=True))

    def _close(self) -> None:
        owners, columns = np.nonzero(self._open)
        if len(owners):
            entries = np.empty(len(owners), _ENTRY)
            entries["interval"], entries["owner"], entries["column"] = self._interval, owners, columns
            entries["delta"] = self._open[owners, columns]
            self._open[:] = 0
            self._closed.append(entries)
            self._entries += len(entries)
        if self._entries > self._max:
            self._coarser()

    def _coarser(self) -> None:
        self.interval_ns *= 2
        entries = _joined(self._closed)
        entries["interval"] //= 2
        key = (entries["interval"].astype(np.uint64) << np.uint64(32)) | (
            entries["owner"].astype(np.uint64) << np.uint64(16) | entries["column"]
        )
        order = np.argsort(key, kind="stable")
        first = np.flatnonzero(np.diff(key[order], prepend=key.max(initial=0) + np.uint64(1)))
        merged = entries[order][first]
        merged["delta"] = np.add.reduceat(entries["delta"][order], first)
        self._closed, self._entries = [merged], len(merged)


@dataclass(frozen=True, slots=True)
class Counters:
    """The inverse of CounterLog.pack. entries: sorted; those of interval i are entries[edges[i]:edges[i + 1]]."""

    started_ns: int
    interval_ns: int
    isa: int
    owners: list[Owner]
    entries: npt.NDArray[Any]
    edges: npt.NDArray[np.int64]

    @classmethod
    def unpack(cls, text: bytes, vms: Container[str] | None = None) -> "Counters | None":
        """None for b"" or what is no counters. vms: ids of those that are wanted; None: all."""
        said_text, _, packed = text.partition(b"\n")
        try:
            said = json.loads(said_text)
            count, itemsizes = int(said["entries"]), [4, 2, 2, 8]
            if not 0 <= count <= 2 * MAX_ENTRIES or len(said["owners"]) > MAX_OWNERS:
                return None
            raw = pa.decompress(base64.b64decode(packed), count * sum(itemsizes), "zstd", asbytes=True)
            owners = [Owner(str(vm), _vcpu(vcpu), int(tid)) for vm, vcpu, tid in said["owners"]]
            interval_ns, started_ns = max(int(said["interval_ns"]), 1), int(said["started_ns"])
            isa = int(said.get("isa", ISA_NONE))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, pa.ArrowException):
            return None
        if not (0 <= started_ns < 1 << 60 and interval_ns < 1 << 60):
            return None
        entries = np.empty(count, _ENTRY)
        offset = 0
        for name, itemsize in zip(_ENTRY.names or (), itemsizes, strict=True):
            entries[name] = np.frombuffer(raw, f"<{'i' if name == 'delta' else 'u'}{itemsize}", count, offset)
            offset += count * itemsize
        entries["interval"] = np.minimum(np.cumsum(entries["interval"], dtype=np.uint64), MAX_INTERVALS)
        last = int(entries["interval"].max(initial=0))
        fits = (entries["owner"] < len(owners)) & (entries["column"] < WIDTH) & (entries["delta"] >= 0)
        if last >= MAX_INTERVALS or not fits.all() or float(entries["delta"].sum(dtype=np.float64)) >= 1 << 62:
            return None
        owners, entries = _of(owners, entries, vms)
        edges = np.searchsorted(entries["interval"], np.arange(last + 2))
        return cls(started_ns, interval_ns, isa, owners, entries, edges)


def _vcpu(number: object) -> int | None:
    """None: of a VM. Raises ValueError if it is neither."""
    if number is not None and not (isinstance(number, int) and -1 <= number < 1 << 16):
        raise ValueError("no vCPU")
    return number


def _of(
    owners: list[Owner], entries: npt.NDArray[Any], vms: Container[str] | None
) -> tuple[list[Owner], npt.NDArray[Any]]:
    """Those of these VMs, numbered anew."""
    wanted = np.array([vms is None or owner.vm in vms for owner in owners], bool)
    if wanted.all():
        return owners, entries
    entries = entries[wanted[entries["owner"]]]
    entries["owner"] = (np.cumsum(wanted) - 1)[entries["owner"]]
    return [owner for owner, there in zip(owners, wanted.tolist(), strict=True) if there], entries


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, _ENTRY), *parts])
