"""A recording as the collector's messages: what it would have said up to any moment, from records and counters.

Faults that have records are counted from them, by the rules of bpf/account.h; mode kernel, exits, fills and stall from
the counters of every second, evenly over the second; so are hardware exits. Times are the recording's own clock. The
loss ledger is not played.
"""

import weakref
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import (
    CELL_DTYPE,
    EXIT_CELLS,
    EXIT_NAMES,
    HARDWARE_DTYPE,
    MODE_KERNEL,
    MODE_UFFD,
    MODES,
    SERIES,
    VCPU_DTYPE,
    VCPU_OTHER,
    VM_DTYPE,
    WAITER_OTHER,
    WAITER_VCPU,
)
from exitscope_probes.wire import Kind, Message

from . import conditions
from .counters import (
    BACKGROUND,
    COUNTS,
    DEMAND,
    EXITS,
    FAILED,
    KERNEL_CELLS,
    STALL_NS,
    SUMS_NS,
    WIDTH,
)
from .ending import Ending
from .file import RecordingFile
from .tally import Records, hardware_cells, tally

_KERNEL: Final = slice(MODE_KERNEL, MODE_KERNEL + 1)


class Numbers(dict[str, int]):
    """Id of a VM -> its number, given when asked for."""

    def __missing__(self, vm_id: str) -> int:
        self[vm_id] = number = len(self) + 1
        return number


class Synthesis:
    """Goes forward from `from_ns` with `advance`; begin again by making another one.

    What was counted before from_ns is in the totals of the first message, as if somebody had looked on since.
    """

    def __init__(self, file: RecordingFile, from_ns: int) -> None:
        self.meta = file.meta
        self.time_ns = from_ns
        self._numbers = Numbers()
        self._slots: dict[tuple[int, int], int] = {}  # (VM number, vCPU as in VCPU_DTYPE) -> slot
        self._rows = np.zeros(16, VCPU_DTYPE)
        self._start_exits = np.zeros((16, EXIT_CELLS), np.uint64)  # those before the recording
        self._cells = np.zeros((16, SERIES * BUCKETS), np.int64)
        for vm in self.meta.vms:
            for vcpu in vm.vcpus:
                self._slot(self._numbers[vm.id], vcpu.vcpu, vcpu.tid)
        self._counters = file.counters()
        self._counted = np.zeros((len(self._counters.owners) if self._counters else 0, WIDTH), np.int64)
        self._interval = 0
        self._hardware = np.empty(0, HARDWARE_DTYPE)
        self._first = {
            (vm_id, vcpu.vcpu): vcpu for vm_id, vm in self.meta.totals.start.vms.items() for vcpu in vm.vcpus
        }
        # Everybody that the footer names has its row now: arrays do not grow while one of their rows is written to.
        for owner in self._counters.owners if self._counters else ():
            if owner.vcpu is None:
                _ = self._numbers[owner.vm]
            else:
                self._slot(self._numbers[owner.vm], owner.vcpu, owner.tid)
        self._set_start()
        # Counters, if the recording has some, have counted what ended before from_ns.
        ours = weakref.proxy(self)  # no cycle: what a jump leaves behind is freed at once

        def tally_before(records: Records) -> None:
            ours._tally_before(records)

        self._faults = Ending(file, from_ns, self._numbers, tally_before if self._counters is None else None)

    def welcome(self) -> list[Message]:
        """HELLO, VMS and a snapshot of TOTALS."""
        meta = self.meta
        hello: dict[str, Any] = {
            "version": "",
            "host": meta.host,
            "kernel": meta.kernel,
            "cpus": meta.cpus,
            "started_ns": self.time_ns,
            "capabilities": {"hooks": meta.hooks, "profile": meta.profile},
            "queues": False,
        }
        if "migrations" in meta.model_fields_set:  # older ones do not say: they are recognised again
            hello["migrations"] = [one.model_dump() for one in meta.migrations]
        self._count(self.time_ns)
        return [Message(Kind.HELLO, self.time_ns, hello), self._vms(), self._totals(np.flatnonzero(self._cells), True)]

    def advance(self, time_ns: int) -> list[Message]:
        """What happened until then: FAULTS, VMS and TOTALS."""
        ended = self._faults.until(time_ns)
        self.time_ns = time_ns
        slots = self._slots_of(ended)
        grown = tally(ended, slots, self._rows, self._cells, stall=self._counters is None)
        changed = np.unique(np.concatenate((grown, self._count(time_ns))))
        messages = [self._vms(), self._totals(changed, False)]
        if len(ended):
            messages.insert(0, Message(Kind.FAULTS, time_ns, {"dropped": 0}, {"records": ended}))
        return messages

    def _tally_before(self, records: Records) -> None:
        tally(records, self._slots_of(records), self._rows, self._cells, stall=True)

    def _count(self, time_ns: int) -> npt.NDArray[np.int64]:
        """Bring what the counters count to this moment; returns the cells that grew."""
        at = self._counters
        if at is None:
            return np.empty(0, np.int64)
        passed_ns = max(time_ns - at.started_ns, 0)
        interval = min(passed_ns // at.interval_ns, len(at.edges) - 1)
        entries = at.entries[at.edges[self._interval] : at.edges[interval]]
        np.add.at(self._counted, (entries["owner"], entries["column"]), entries["delta"])
        self._interval = int(interval)
        now = self._counted
        if interval + 1 < len(at.edges):
            entries = at.entries[at.edges[interval] : at.edges[interval + 1]]
            share = min((passed_ns - interval * at.interval_ns) / at.interval_ns, 1.0)
            now = now.copy()
            np.add.at(now, (entries["owner"], entries["column"]), (entries["delta"] * share).astype(np.int64))
        grown, hardware = [], []
        for owner, values in zip(at.owners, now, strict=True):
            if owner.vcpu is None:
                continue
            slot = self._slot(self._numbers[owner.vm], owner.vcpu, owner.tid)
            row = self._rows[slot : slot + 1]
            start = self._first.get((owner.vm, owner.vcpu))
            row["exits"] = self._start_exits[slot] + values[EXITS].astype(np.uint64)
            row["stall_ns"] = (start.stall_ns if start else 0) + values[STALL_NS]
            row["series"]["count"][0, _KERNEL] = (start.faults.get("kernel", 0) if start else 0) + values[MODE_KERNEL]
            row["series"]["sum_ns"][0, _KERNEL] = (start.sum_ns.get("kernel", 0) if start else 0) + values[
                SUMS_NS.start + MODE_KERNEL
            ]
            cells = self._cells[slot, MODE_KERNEL * BUCKETS : (MODE_KERNEL + 1) * BUCKETS]
            changed = np.flatnonzero(cells != values[KERNEL_CELLS])
            cells[changed] = values[KERNEL_CELLS][changed]
            grown.append(changed + (slot * SERIES + MODE_KERNEL) * BUCKETS)
            hardware.append(hardware_cells(slot, at.isa, values))
        self._now, self._hardware = now, np.concatenate([self._hardware[:0], *hardware])
        cells_grown: npt.NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *grown])
        return cells_grown

    def _set_start(self) -> None:
        """Totals at from_ns: those at the recording's start, and what was counted between."""
        for (vm_id, vcpu), start in self._first.items():
            slot = self._slot(self._numbers[vm_id], vcpu, start.tid)
            row = self._rows[slot : slot + 1]
            for series, mode in enumerate(MODES):
                row["series"]["count"][0, series] = start.faults.get(mode, 0)
                row["series"]["sum_ns"][0, series] = start.sum_ns.get(mode, 0)
            row["stall_ns"] = start.stall_ns
            for name, count in start.exits.items():
                if name in EXIT_NAMES:
                    row["exits"][0, EXIT_NAMES.index(name)] = count
        self._start_exits = self._rows["exits"].copy()
        self._now = self._counted
        at = self._counters
        if at is None:
            return
        interval = min(max(self.time_ns - at.started_ns, 0) // at.interval_ns, len(at.edges) - 1)
        entries = at.entries[: at.edges[interval]]
        before = np.zeros_like(self._counted)
        np.add.at(before, (entries["owner"], entries["column"]), entries["delta"])
        for owner, values in zip(at.owners, before, strict=True):
            if owner.vcpu is not None:
                slot = self._slot(self._numbers[owner.vm], owner.vcpu, owner.tid)
                row = self._rows["series"][slot]
                row["count"] += values[COUNTS].astype(np.uint64)
                row["sum_ns"] += values[SUMS_NS].astype(np.uint64)

    def _slots_of(self, records: Records) -> npt.NDArray[np.int64]:
        keys = records["vm"].astype(np.uint64) << np.uint64(32) | records["vcpu"]
        unique, first, codes = np.unique(keys, return_index=True, return_inverse=True)
        slots = [
            self._slot(key >> 32, key & 0xFFFF_FFFF, int(records["tid"][at]))
            for key, at in zip(unique.tolist(), first.tolist(), strict=True)
        ]
        found: npt.NDArray[np.int64] = np.array(slots, np.int64)[codes]
        return found

    def _slot(self, number: int, vcpu: int, tid: int) -> int:
        key = number, VCPU_OTHER if vcpu < 0 else vcpu
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self._slots)
            if slot >= len(self._rows):
                self._rows = np.concatenate((self._rows, np.zeros(len(self._rows), VCPU_DTYPE)))
                self._cells = np.concatenate((self._cells, np.zeros_like(self._cells)))
                self._start_exits = np.concatenate((self._start_exits, np.zeros_like(self._start_exits)))
            row = self._rows[slot]
            row["vm"], row["vcpu"], row["tid"] = *key, tid
        return slot

    def _vms(self) -> Message:
        listed = []
        open_ones = self._faults.open
        open_ones = open_ones[(open_ones["mode"] == MODE_UFFD) & (open_ones["waiter"] != WAITER_OTHER)]
        queued_ns = (open_ones["begin_ns"] + open_ones["raise_ns"]).astype(np.int64)
        read_ns = queued_ns + open_ones["notify_ns"].astype(np.int64)
        known = {vm.id: vm for vm in self.meta.vms}
        for vm_id, number in self._numbers.items():
            vm = known.get(vm_id)
            names = {vcpu.vcpu: vcpu.name for vcpu in vm.vcpus} if vm else {}
            mine = (open_ones["vm"] == number) & (queued_ns <= self.time_ns)
            pending, total = int((mine & (read_ns > self.time_ns)).sum()), int(mine.sum())
            queue = [{"fd": 0, "pending": pending, "total": total}]
            vcpus = [
                {"vcpu": vcpu, "slot": slot, "tid": int(self._rows["tid"][slot]), "name": names.get(vcpu, "")}
                for (owner, vcpu), slot in self._slots.items()
                if owner == number and vcpu != VCPU_OTHER
            ]
            listed.append(
                {
                    "vm": number,
                    "id": vm_id,
                    "pid": vm.pid if vm else 0,
                    "name": vm.name if vm else vm_id,
                    "vmm": vm.vmm if vm else None,
                    "state": "running",
                    "vcpus": vcpus,
                    "uffds": queue if vm is None or vm.uffd_features != [] else [],
                    **(conditions.said(vm) if vm else {}),
                }
            )
        return Message(Kind.VMS, self.time_ns, {"vms": listed})

    def _totals(self, changed: npt.NDArray[np.int64], snapshot: bool) -> Message:
        open_ones = self._faults.open
        waiting = open_ones[open_ones["waiter"] == WAITER_VCPU]
        waiting_slots = self._slots_of(waiting)  # may be new ones
        used = len(self._slots)
        rows = self._rows[:used].copy()
        rows["open_since_ns"][waiting_slots] = waiting["begin_ns"]
        cells = np.zeros(len(changed), CELL_DTYPE)
        cells["cell"], cells["count"] = changed, self._cells.reshape(-1)[changed]
        arrays = {"slots": np.arange(used, dtype="<u4"), "vcpus": rows, "vms": self._fills(), "cells": cells}
        arrays["hardware"] = self._hardware
        return Message(Kind.TOTALS, self.time_ns, {"snapshot": snapshot, "loss": {}}, arrays)

    def _fills(self) -> npt.NDArray[Any]:
        vms = np.zeros(len(self._numbers), VM_DTYPE)
        vms["vm"] = list(self._numbers.values())
        for owner, values in zip(self._counters.owners if self._counters else (), self._now, strict=True):
            if owner.vcpu is None:
                row = vms[self._numbers[owner.vm] - 1 : self._numbers[owner.vm]]
                row["fills_demand"] += values[DEMAND].astype(np.uint64)
                row["fills_background"] += values[BACKGROUND].astype(np.uint64)
                row["fills_failed"] += np.uint64(values[FAILED])
        return vms
