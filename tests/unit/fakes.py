"""What the kernel side would give the collector, in memory files: a ring and the mapped totals."""

import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.exit_reasons import ISA_SVM
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.only import ALL
from exitscope_probes.plan import HookStatus
from exitscope_probes.records import (
    FAULT_DTYPE,
    HARDWARE_ROW_DTYPE,
    LOSSES,
    RECORD_FAULT,
    SERIES,
    VCPU_DTYPE,
    VM_DTYPE,
)
from exitscope_probes.ring import BUSY_BIT, DISCARD_BIT
from exitscope_probes.upkeep import Share

PAGE = mmap.PAGESIZE
HISTOGRAM_BYTES = BUCKETS * 4


class MemoryFile:
    """An anonymous file and a writable view of it."""

    def __init__(self, size_bytes: int) -> None:
        self.fd = os.memfd_create("exitscope-test")
        os.ftruncate(self.fd, -(-size_bytes // PAGE) * PAGE)
        self.data = np.frombuffer(mmap.mmap(self.fd, 0), np.uint8)

    def close(self) -> None:
        os.close(self.fd)


class FakeRing(MemoryFile):
    """A ring of size_bytes as its mapping looks; the kernel's part of the protocol, in one thread."""

    def __init__(self, size_bytes: int, start: int = 0) -> None:
        super().__init__(2 * PAGE + 2 * size_bytes)
        self.size_bytes = size_bytes
        self.consumer = self.data[:8].view("<u8")
        self.producer = self.data[PAGE : PAGE + 8].view("<u8")
        self._ring = self.data[2 * PAGE :]
        self.consumer[0] = self.producer[0] = start

    def put(self, payload: bytes, *, busy: bool = False, discarded: bool = False) -> int | None:
        """Append a record; returns its position, or None if there is no room."""
        whole = 8 + (len(payload) + 7 & ~7)
        position = int(self.producer[0])
        if position + whole - int(self.consumer[0]) > self.size_bytes:
            return None
        header = len(payload) | (BUSY_BIT if busy else 0) | (DISCARD_BIT if discarded else 0)
        self._write(position, np.array([header, 0], "<u4").tobytes() + payload)
        self.producer[0] = position + whole
        return position

    def finish(self, position: int, length: int, *, discarded: bool = False) -> None:
        """Clear the busy bit of the record at this position."""
        self._write(position, np.array([length | (DISCARD_BIT if discarded else 0)], "<u4").tobytes())

    def _write(self, position: int, data: bytes) -> None:
        index = (position + np.arange(len(data))) % self.size_bytes
        self._ring[index] = self._ring[index + self.size_bytes] = np.frombuffer(data, np.uint8)


def fault_records(count: int, **fields: Any) -> npt.NDArray[Any]:
    """Records with the right type and size, begin_ns counting up, and these fields."""
    records = np.zeros(count, FAULT_DTYPE)
    records["type"] = RECORD_FAULT
    records["size"] = FAULT_DTYPE.itemsize
    records["begin_ns"] = np.arange(count)
    for name, value in fields.items():
        records[name] = value
    return records


class FakeProbes:
    """Stands for loader.Probes."""

    def __init__(self, max_vcpus: int = 8, max_vms: int = 4, ring_bytes: int = 1 << 16) -> None:
        self.max_vcpus, self.max_vms, self.ring_bytes = max_vcpus, max_vms, ring_bytes
        self.hooks: tuple[HookStatus, ...] = (
            HookStatus("vcpu_run", "vCPU run", "attached", "tracepoint:x", (), "nothing"),
            HookStatus("resolve", "resolve", "missing", None, (("tracepoint:y", "why"),), "no fill stage"),
            HookStatus("guest_walk", "walk", "missing", None, (), "no raise stage", essential=False),
        )
        self.only = ALL
        self.ring = FakeRing(ring_bytes)
        files = [
            MemoryFile(max_vcpus * VCPU_DTYPE.itemsize),
            MemoryFile(max_vcpus * SERIES * HISTOGRAM_BYTES),
            MemoryFile(max_vms * VM_DTYPE.itemsize),
            MemoryFile(8 * 8),
            MemoryFile(max_vcpus * HARDWARE_ROW_DTYPE.itemsize),
        ]
        self._files = [self.ring, *files]
        self.ring_fd = self.ring.fd
        self.vcpus_fd, _, self.vms_fd, self.loss_fd, _ = (file.fd for file in files)
        vcpus, histograms, vms, loss, hardware = (file.data for file in files)
        self.vcpus = vcpus[: max_vcpus * VCPU_DTYPE.itemsize].view(VCPU_DTYPE)
        size_bytes = max_vcpus * SERIES * HISTOGRAM_BYTES
        self.histograms = histograms[:size_bytes].view("<u4").reshape(max_vcpus, SERIES, BUCKETS)
        self.vms = vms[: max_vms * VM_DTYPE.itemsize].view(VM_DTYPE)
        self.hardware = hardware[: max_vcpus * HARDWARE_ROW_DTYPE.itemsize].view(HARDWARE_ROW_DTYPE)
        self.loss = loss[: 8 * len(LOSSES)].view("<u8")
        self.freed: list[tuple[str, int]] = []
        self.seeded: list[tuple[int, int]] = []

    def grow(self, vcpus: int) -> None:
        """All is there."""

    def users(self) -> dict[int, Share]:
        """One who has something."""
        return {1000: Share(1, 2, 0)}

    def add_vm(self, vm: int, pid: int, slots: dict[int, int], vm_slot: int = 0) -> None:
        """A VM with vCPUs {slot: tid}; vCPU numbers count up."""
        self.vms[vm_slot] = np.zeros((), VM_DTYPE)
        self.vms["vm"][vm_slot], self.vms["tgid"][vm_slot] = vm, pid
        self.vms["kvm"][vm_slot] = self.vms["mm"][vm_slot] = 0xFFFF_8880_0000_0000
        for vcpu, (slot, tid) in enumerate(slots.items()):
            row = np.zeros((), VCPU_DTYPE)
            row["vm"], row["vm_slot"], row["tgid"], row["vcpu"], row["tid"] = vm, vm_slot, pid, vcpu, tid
            self.vcpus[slot] = row

    def fault(self, slot: int, series: int, bucket: int, count: int = 1) -> None:
        """What the kernel does for `count` faults."""
        self.histograms[slot, series, bucket] += np.uint32(count)
        self.vcpus["series"]["count"][slot, series] += np.uint64(count)

    def hardware_exit(self, slot: int, cell: int, ns: int, isa: int = ISA_SVM) -> None:
        """What the kernel does for a hardware exit and the entry after it."""
        row = self.hardware[slot]
        row["isa"], row["moved"] = isa, row["moved"] + np.uint64(2)
        exits = row["exit"][cell]
        exits["count"] += np.uint64(1)
        exits["sum_ns"] += np.uint64(ns)
        exits["max_ns"] = max(int(exits["max_ns"]), ns)

    def free_vcpu_slots(self, slots: list[int]) -> int:
        for slot in slots:
            assert not self.vcpus[slot : slot + 1].view(np.uint8).any(), "row freed before it was zeroed"
            assert not self.hardware[slot : slot + 1].view(np.uint8).any(), "exits freed before they were zeroed"
            assert not self.histograms[slot].any(), "histograms freed before they were zeroed"
            self.freed.append(("vcpu", slot))
        return 0

    def look_for_ended(self) -> None:
        """VMs end here as the test says."""

    def free_vm_slots(self, slots: list[int]) -> None:
        for slot in slots:
            assert not self.vms[slot : slot + 1].view(np.uint8).any(), "row freed before it was zeroed"
            self.freed.append(("vm", slot))

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        self.seeded.append((tid, vcpu_fd))

    def readers(self) -> list[tuple[int, int]]:
        """Who reads events: nobody that the test would need."""
        return []

    def forget_stale(self, now_ns: int) -> int:
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
