"""Attached probes and the upkeep of their maps: slots given out and taken back, what is stale forgotten."""

import os
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .chunks import SLOTS_PER_CHUNK
from .histogram import BUCKETS
from .maps import FREE_SLOT_DTYPE, NO_SLOT, THREAD_DTYPE, TIDS_PER_PAGE, VMS_PER_MEMORY, Map, Maps, map_array
from .only import ALL, Only
from .plan import HookStatus
from .programs import run_once
from .records import SERIES, VCPU_OTHER, VM_DTYPE

EVERYBODY: Final = 0xFFFFFFFF  # bpf/shares.h
_AHEAD: Final = 512
_STALE_NS: Final = 10_000_000_000
_Entry = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Share:
    """Of one user. vms, vcpus: followed now; not_counted: VMs and vCPUs that found no room, since the start."""

    vms: int
    vcpus: int
    not_counted: int


class Probes:
    """Attached probes and the maps that they fill. close() detaches everything.

    The maps behind vcpus_fd, vms_fd and loss_fd can be mmapped; events.h gives their entries. histograms (max_vcpus,
    SERIES, BUCKETS) u4 and hardware (max_vcpus,) HARDWARE_ROW_DTYPE are mapped; they grow with use.
    """

    def __init__(self, maps: Maps, only: Only = ALL) -> None:
        """Fills the queues of free slots; programs may be attached from then on. only: whose VMs they trace."""
        self.maps = maps
        self.only = only
        self.hooks: tuple[HookStatus, ...] = ()
        self.on_close: list[Callable[[], object]] = []
        self.ring_bytes = maps["records"].entries
        self.max_vcpus, self.max_vms = maps["vcpu_totals"].entries, maps["vm_totals"].entries
        self.ring_fd = maps["records"].fd
        self.vcpus_fd = maps["vcpu_totals"].fd
        self.histograms = maps.histograms.view.view("<u4").reshape(self.max_vcpus, SERIES, BUCKETS)
        self.hardware = maps.hardware.view
        self.vms_fd = maps["vm_totals"].fd
        self.loss_fd = maps["losses"].fd
        self._threads = map_array(maps["threads"].fd, THREAD_DTYPE, maps["threads"].entries)
        self._vms = map_array(self.vms_fd, VM_DTYPE, self.max_vms)
        self._check_vm: int | None = None
        self._next_vm = 1
        self._vcpu_slots = self._thread_slots = 0  # given out so far
        self.grow(0, _AHEAD)
        for slot in range(self.max_vms):
            self._give_vm(slot)

    def grow(self, vcpus: int, at_once: int = 2 * SLOTS_PER_CHUNK) -> None:
        """Have room for _AHEAD vCPUs more than are followed now, as far as max_vcpus and the kernel's memory allow.

        The kernel clears the memory, 50 KB for each: at_once bounds how many are added by one call.
        """
        enough = min(vcpus + _AHEAD, self.max_vcpus, self._vcpu_slots + at_once)
        while self._vcpu_slots < enough:
            try:
                self.maps.histograms.grow()
                self.maps.hardware.grow()
            except OSError:
                return  # what finds no room is counted as such
            for slot in range(self._vcpu_slots, min(self._vcpu_slots + SLOTS_PER_CHUNK, self.max_vcpus)):
                self._give("free_vcpus", slot)
            self._vcpu_slots = min(self._vcpu_slots + SLOTS_PER_CHUNK, self.max_vcpus)
            threads = min(8 * self._vcpu_slots, self.maps["threads"].entries)
            for slot in range(self._thread_slots, threads):
                self._give("free_threads", slot)
            self._thread_slots = threads

    def _give(self, queue: str, slot: int, vm: int = 0) -> None:
        self.maps[queue].push(np.array((slot, vm), FREE_SLOT_DTYPE))

    def _give_vm(self, slot: int) -> None:
        self._give("free_vms", slot, self._next_vm)
        self._next_vm += 1

    def _forget(self, table: Map, unwanted: Callable[[_Entry, _Entry], bool]) -> list[_Entry]:
        """Deletes the entries for which unwanted(key, value) holds; returns the keys of those that were there."""
        entries = [(key, table.get(key)) for key in table.walk()]
        return [key for key, value in entries if value is not None and unwanted(key, value) and table.delete(key)]

    def free_vcpu_slots(self, slots: Collection[int]) -> int:
        """Gives vCPU slots back, after their rows and histograms have been zeroed; many at once cost little more.

        Returns how many were left in a fault by all threads.
        """
        gone = set(slots)
        self._forget(self.maps["vcpu_slots"], lambda _, value: int(value) in gone)
        self._forget(self.maps["async_waits"], lambda key, _: int(key["slot"]) in gone)
        unfinished = self._free_resting(gone)
        left = np.isin(self._threads["slot"], list(gone))  # a thread may live on, and wait for another VM's pages
        for name, none in (("vcpu", 0), ("slot", NO_SLOT), ("vcpu_id", VCPU_OTHER)):
            self._threads[name][left] = none
        self._return_shares("vcpu_users", gone, (0, 1))
        for slot in sorted(gone):
            self._give("free_vcpus", slot)
        return unfinished

    def _free_resting(self, slots: set[int]) -> int:
        """Gives back what keeps the state of vCPUs that no thread has run since; their number."""
        resting, count = self.maps["resting"], 0
        for key in list(resting.walk()):
            value = resting.get(key)
            if value is not None and int(self._threads["slot"][int(value)]) in slots and resting.delete(key):
                self._give("free_threads", int(value))
                count += 1
        return count

    def free_vm_slots(self, slots: Collection[int]) -> None:
        """Gives VM slots back, after their rows have been zeroed; forgets what was pending on their memory."""
        gone = set(slots)
        self._forget(self.maps["vm_slots"], lambda _, value: int(value) in gone)
        memories = self._forget_memories(gone)
        exited = self.maps["exited"]
        for slot in gone:
            exited.put(exited.index(slot), np.zeros((), exited.value))
        self._forget_pendings(lambda key, _: int(key["mm"]) in memories)
        self._return_shares("vm_users", gone, (1, 0))
        for slot in sorted(gone):
            self._give_vm(slot)

    def _return_shares(self, table: str, slots: Collection[int], taken: tuple[int, int]) -> None:
        """What each of the slots took of its user's share, and of everybody's."""
        owners = self.maps[table]
        counts = Counter(int(owner) for slot in slots if (owner := owners.get(owners.index(slot))) is not None)
        returned = self.maps["shares_returned"]
        for user, count in [*counts.items(), (EVERYBODY, len(slots))]:
            key = returned.index(user)
            share = returned.get(key)
            share = np.zeros((), returned.value) if share is None else share
            share["taken"] += np.array(taken, "<u4") * np.uint32(count)
            returned.put(key, share)

    def users(self) -> dict[int, Share]:
        """By real user id: what room its VMs take, and how many found none."""
        taken, returned = self.maps["shares"], self.maps["shares_returned"]
        users: dict[int, Share] = {}
        for user in taken.walk():
            share, back = taken.get(user), returned.get(user)
            if share is not None and int(user) != EVERYBODY:
                vms, vcpus = (share["taken"] - (0 if back is None else back["taken"])).tolist()
                users[int(user)] = Share(vms, vcpus, int(share["not_counted"]))
        return users

    def _forget_memories(self, gone: Collection[int]) -> set[int]:
        """Takes VMs off their memories' lists; returns the memories that are left without one."""
        table = self.maps["vm_slots_by_mm"]
        left = set()
        for key in list(table.walk()):
            vms = table.get(key)
            if vms is None:
                continue
            made = int(vms["made"])
            listed = [int(vms["slot"][n % VMS_PER_MEMORY]) for n in range(max(made - VMS_PER_MEMORY, 0), made)]
            others = [slot for slot in listed if slot not in gone]
            if others == listed:
                continue
            vms["made"] = len(others)
            vms["slot"][: len(others)] = others
            if others:
                table.put(key, vms)
            elif table.delete(key):
                left.add(int(key))
        return left

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        """Tells the probes of a thread that was inside KVM_RUN on descriptor vcpu_fd before they came."""
        tids = self.maps["tids"]
        page_key = tids.index(tid // TIDS_PER_PAGE)
        page = tids.get(page_key)
        if page is None:
            return
        known = int(page[tid % TIDS_PER_PAGE])
        if known:  # a fill has woken it before it was found, so it passed for another thread of the VMM
            self._threads["run_fd"][known - 1] = vcpu_fd + 1
            return
        with suppress(OSError):  # no free thread slot: the kernel side counts what it cannot follow
            slot = int(self.maps["free_threads"].pop()["slot"])
            thread = np.zeros((), THREAD_DTYPE)
            thread["tid"], thread["self"], thread["run_fd"] = tid, slot, vcpu_fd + 1
            thread["slot"] = thread["vcpu_id"] = NO_SLOT
            threads = self.maps["threads"]
            threads.put(threads.index(slot), thread)
            page[tid % TIDS_PER_PAGE] = slot + 1
            tids.put(page_key, page)

    def readers(self) -> list[tuple[int, int]]:
        """(VM number, thread id) of who has read events last from the VM's userfaultfd, and lives."""
        vms = self._vms[self._vms["vm"] != 0]
        rows = self._threads[: self._thread_slots]
        rows = rows[np.isin(rows["reader_mm"], vms["mm"][vms["mm"] != 0])]
        found = []
        for row in rows:
            tid = int(row["tid"])
            page = self.maps["tids"].get(self.maps["tids"].index(tid // TIDS_PER_PAGE))
            if page is not None and int(page[tid % TIDS_PER_PAGE]) == int(row["self"]) + 1:
                found += [(number, tid) for number in vms["vm"][vms["mm"] == row["reader_mm"]].tolist()]
        return found

    def check_vms_with(self, program: int) -> None:
        """program: descriptor of check_vm, which look_for_ended runs; closed with the probes."""
        self._check_vm = program
        self.on_close.append(closer(program))

    def look_for_ended(self) -> None:
        """Sets vm_totals.kvm to 0 where a VM's last descriptor is closed: a call per VM, of a microsecond or two."""
        if self._check_vm is None:
            return
        for slot in np.flatnonzero(self._vms["kvm"]).tolist():
            run_once(self._check_vm, slot)

    def forget_stale(self, now_ns: int) -> int:
        """Forgets filled events that no waiter has claimed for 10 s (it was killed, or kicked out); their number."""
        return self._forget_pendings(
            lambda _, entry: bool(
                (entry["fill_end_ns"] or entry["claims"] >= entry["reads"])
                and now_ns - int(max(entry["fill_end_ns"], entry["read_ns"])) > _STALE_NS
            )
        )

    def _forget_pendings(self, unwanted: Callable[[_Entry, _Entry], bool]) -> int:
        count = len(self._forget(self.maps["pendings"], unwanted))
        if count:
            total = self.maps["pendings_forgotten"]
            before = total.get(total.index(0))
            total.put(total.index(0), np.array((0 if before is None else int(before)) + count, total.value))
        return count

    def occupancy(self) -> dict[str, int]:
        """Entries of each map that grows with VMs and faults."""
        names = ("vcpu_slots", "vm_slots", "vm_slots_by_mm", "pendings", "async_waits", "resting")
        return {name: sum(1 for _ in self.maps[name].walk()) for name in names}

    def close(self) -> None:
        """Detaches every program and frees the maps."""
        while self.on_close:
            self.on_close.pop()()
        self.maps.close()

    def __enter__(self) -> "Probes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def closer(descriptor: int) -> Callable[[], None]:
    """Something for Probes.on_close that closes a descriptor."""
    return lambda: os.close(descriptor)
