"""Synthetic VMs that speak the collector's protocol: every frame is valid, every count is known."""

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.exit_reasons import HARDWARE_CELLS, ISA_SVM
from exitscope_probes.histogram import BUCKETS, bucket_of
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    CELL_DTYPE,
    EXIT_NAMES,
    FAULT_DTYPE,
    FILLS,
    HARDWARE_DTYPE,
    LOSSES,
    MEMSLOT_UNKNOWN,
    MODE_UFFD,
    RECORD_FAULT,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
    SEEN_SLEEP,
    SERIES,
    SERIES_DTYPE,
    VCPU_DTYPE,
    VM_DTYPE,
    WAITER_VCPU,
)
from exitscope_probes.wire import Kind, Message, encode

S = 1_000_000_000
T0 = 5_000 * S


@dataclass
class FakeVm:
    """A VM of the fake collector. slots: vCPU number -> slot."""

    number: int
    id: str
    slots: dict[int, int]
    pid: int = 4000
    name: str = "fake"
    state: str = "running"
    pending: int = 0
    total: int = 0
    totals: npt.NDArray[Any] = field(default_factory=lambda: np.zeros((), VM_DTYPE))


class Feeder:
    """Keeps what the kernel would keep, and makes the frames that the collector would send."""

    def __init__(self, started_ns: int = T0, max_vcpus: int = 512) -> None:
        self.time_ns = started_ns
        self.started_ns = started_ns
        self.isa = ISA_SVM
        self.max_vcpus = max_vcpus
        self.vms: dict[int, FakeVm] = {}
        self.vcpus = np.zeros(max_vcpus, VCPU_DTYPE)
        self.buckets = np.zeros((max_vcpus, SERIES, BUCKETS), np.uint64)
        self.changed = np.zeros((max_vcpus, SERIES, BUCKETS), bool)
        self.hardware = np.zeros((max_vcpus, HARDWARE_CELLS), SERIES_DTYPE)
        self.loss = dict.fromkeys(LOSSES, 0)
        self.hooks: list[dict[str, Any]] = [
            {"hook": "run", "title": "vCPU run", "status": "attached", "attachment": "tracepoint:sys_enter",
             "passed_over": [["fentry:x", "EPERM"]], "effect": "no faults", "essential": True},
            {"hook": "fault", "title": "guest fault", "status": "missing", "attachment": None,
             "passed_over": [], "effect": "no guest addresses", "essential": False},
        ]  # fmt: skip

    def add_vm(self, number: int, vcpus: int, id: str | None = None, first_slot: int | None = None) -> FakeVm:
        """A VM with vCPUs 0 to vcpus - 1 in free slots."""
        free = [int(slot) for slot in np.flatnonzero(self.vcpus["vm"] == 0)]
        slots = {vcpu: (free[vcpu] if first_slot is None else first_slot + vcpu) for vcpu in range(vcpus)}
        vm = self.vms[number] = FakeVm(number, id or f"{4000 + number}-1", slots, 4000 + number)
        vm.totals["vm"] = number
        for vcpu in range(vcpus):
            self.own(vm, vcpu, slots[vcpu])
        return vm

    def own(self, vm: FakeVm, vcpu: int, slot: int) -> None:
        """Give a slot to a vCPU (or to VCPU_OTHER), from zero."""
        vm.slots[vcpu] = slot
        self.vcpus[slot] = np.zeros((), VCPU_DTYPE)
        self.vcpus[slot]["vm"] = vm.number
        self.vcpus[slot]["vcpu"] = vcpu
        self.vcpus[slot]["tid"] = 9000 + slot
        self.changed[slot] |= self.buckets[slot] != 0
        self.buckets[slot] = 0
        self.hardware[slot] = np.zeros((), SERIES_DTYPE)

    def remove_vm(self, number: int) -> None:
        """The VM has gone and its slots are free."""
        for slot in self.vms.pop(number).slots.values():
            self.vcpus[slot] = np.zeros((), VCPU_DTYPE)
            self.buckets[slot] = 0
            self.changed[slot] = False
            self.hardware[slot] = np.zeros((), SERIES_DTYPE)

    def fault(self, vm: FakeVm, vcpu: int, latency_ns: int, times: int = 1, series: int = MODE_UFFD) -> None:
        """Count faults (or stages) of one length; whole faults stall their vCPU."""
        self.faults(vm, vcpu, np.full(times, latency_ns), series)

    def faults(self, vm: FakeVm, vcpu: int, latencies_ns: npt.NDArray[Any], series: int = MODE_UFFD) -> None:
        """Count faults of these lengths (n,)."""
        slot = vm.slots[vcpu]
        row = self.vcpus[slot]["series"][series]
        row["count"] += np.uint64(len(latencies_ns))
        row["sum_ns"] += np.uint64(latencies_ns.sum())
        row["max_ns"] = max(int(row["max_ns"]), int(latencies_ns.max(initial=0)))
        buckets = bucket_of(latencies_ns.astype(np.uint64))
        np.add.at(self.buckets[slot, series], buckets, np.uint64(1))
        self.changed[slot, series, buckets] = True
        if series < 5:
            self.vcpus[slot]["stall_ns"] += np.uint64(latencies_ns.sum())

    def exit(self, vm: FakeVm, vcpu: int, name: str, times: int = 1) -> None:
        """Count returns of KVM_RUN."""
        self.vcpus[vm.slots[vcpu]]["exits"][EXIT_NAMES.index(name)] += np.uint64(times)

    def hardware_exit(self, vm: FakeVm, vcpu: int, cell: int, ns: int, times: int = 1) -> None:
        """Count hardware exits of one length."""
        row = self.hardware[vm.slots[vcpu], cell : cell + 1]
        row["count"] += np.uint64(times)
        row["sum_ns"] += np.uint64(ns * times)
        row["max_ns"] = np.maximum(row["max_ns"], np.uint64(ns))

    def fill(self, vm: FakeVm, resolver: str, times: int = 1, demand: bool = True) -> None:
        """Count fills."""
        vm.totals["fills_demand" if demand else "fills_background"][FILLS.index(resolver)] += np.uint64(times)

    def hello(self, **changes: Any) -> Message:
        meta: dict[str, Any] = {"version": "0", "host": "testhost", "kernel": "6.0-test", "cpus": 4}
        meta |= {"started_ns": self.started_ns, "capabilities": {"hooks": self.hooks}}
        return Message(Kind.HELLO, self.time_ns, meta | {"max_vcpus": self.max_vcpus} | changes)

    def vms_message(self) -> Message:
        vms = [
            {"vm": vm.number, "id": vm.id, "pid": vm.pid, "name": vm.name, "vmm": "test", "state": vm.state,
             "vcpus": [{"vcpu": v, "slot": s, "tid": 9000 + s, "name": f"CPU {v}/KVM"}
                       for v, s in vm.slots.items() if v < 0xFFFF_FFFF],
             "uffds": [{"fd": 7, "pending": vm.pending, "total": vm.total}]}
            for vm in self.vms.values()
        ]  # fmt: skip
        return Message(Kind.VMS, self.time_ns, {"vms": vms})

    def totals(self, after_ns: int = S // 5, snapshot: bool = False, lost: bool = False) -> Message:
        """What is counted now, after_ns later. lost: as if the frame were never sent."""
        self.time_ns += after_ns
        slots = np.flatnonzero(self.vcpus["vm"]).astype("<u4")
        where = np.flatnonzero(self.buckets if snapshot else self.changed)
        cells = np.zeros(len(where), CELL_DTYPE)
        cells["cell"], cells["count"] = where, self.buckets.reshape(-1)[where]
        if not lost:
            self.changed[:] = False
        vms = np.array([vm.totals for vm in self.vms.values()], VM_DTYPE)
        slot, cell = np.nonzero(self.hardware["count"])
        hardware = np.zeros(len(slot), HARDWARE_DTYPE)
        hardware["slot"], hardware["cell"], hardware["isa"] = slot, cell, self.isa
        for name in SERIES_DTYPE.names or ():
            hardware[name] = self.hardware[name][slot, cell]
        arrays = {"slots": slots, "vcpus": self.vcpus[slots], "vms": vms, "cells": cells, "hardware": hardware}
        return Message(Kind.TOTALS, self.time_ns, {"snapshot": snapshot, "loss": dict(self.loss)}, arrays)

    def records(self, vm: FakeVm, latencies_ns: list[int], vcpu: int = 0, **fields: Any) -> Message:
        """One record for each length, all of it in the stage `serve`, ended now."""
        records = np.zeros(len(latencies_ns), FAULT_DTYPE)
        records["type"], records["size"] = RECORD_FAULT, FAULT_DTYPE.itemsize
        records["vm"], records["vcpu"], records["waiter"] = vm.number, vcpu, WAITER_VCPU
        records["seen"] = SEEN_ACCESS | SEEN_SLEEP | SEEN_READ | SEEN_FILL
        records["serve_ns"] = latencies_ns
        records["begin_ns"] = self.time_ns - np.array(latencies_ns)
        records["hva"], records["gpa"], records["memslot"] = 0x7F00_0000_1000, ADDRESS_UNKNOWN, MEMSLOT_UNKNOWN
        for name, value in fields.items():
            records[name] = value
        return Message(Kind.FAULTS, self.time_ns, {"dropped": 0}, {"records": records})

    def welcome(self) -> list[Message]:
        """What a client gets first."""
        return [self.hello(), self.vms_message(), self.totals(0, snapshot=True)]


def write_recording(path: Path, messages: list[Message]) -> Path:
    """A recording of these messages."""
    path.write_bytes(gzip.compress(b"".join(map(encode, messages))))
    return path
