"""How a paging-in shows without the VMM's word: what one TOTALS message holds of each VM, and what it means.

A sign is a page placed by a userfaultfd ioctl, a fault that slept in userfaultfd, or somebody waiting there. Faults of
mode exit or memory_fault and async ones happen without any paging-in, too: they count only where pages are placed or
a userfaultfd is registered. So does MADV_POPULATE, by which VMMs also fill memory in advance. Write protection by
userfaultfd (a snapshot of a running VM, dirty tracking) makes vCPUs sleep, too, and brings no page: where its faults
are seen or asked for, only pages that are placed are a sign.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import (
    FILLS,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    MODES,
    VCPU_OTHER,
)
from exitscope_probes.wire import Message

from ..peer import PeerVm
from .models import Kind

_BY_UFFD: Final = [FILLS.index(name) for name in ("COPY", "CONTINUE", "ZEROPAGE", "MOVE", "POISON")]
_POPULATE: Final = FILLS.index("MADV_POPULATE")
_WAKE: Final = FILLS.index("WAKE")
_PROTECT: Final = [FILLS.index("WRITEPROTECT")]
_PROTECTS: Final = frozenset({"PAGEFAULT_FLAG_WP", "WP_HUGETLBFS_SHMEM", "WP_UNPOPULATED", "WP_ASYNC"})
"""Features with which a userfaultfd is opened for write protection (exitscope_probes.memory)."""
_ROLES: Final = frozenset({"uffd reader", "page copier"})
"""Of QEMU's threads in the destination of a postcopy migration (exitscope_probes.threads)."""

THREADS: Final = "In its process"
_INCOMING: Final = re.compile(r"(?:^| )--?incoming ")


@dataclass(frozen=True, slots=True)
class Seen:
    """One VM's counters, since the collector began.

    slept: faults of mode uffd; async_: of mode async; left: of modes exit and memory_fault. placed, background: pages
    placed by ioctls, and those of them ahead of need; populated: by madvise, for somebody who waited; woken,
    unprotected: fills by WAKE, and by WRITEPROTECT, for somebody who waited; filled: fills of every kind.
    open_ns: begin of the fault that each vCPU is in now, by vCPU; finished: faults that are over, by vCPU; living:
    vCPUs whose threads have not ended.
    """

    slept: int = 0
    async_: int = 0
    left: int = 0
    placed: int = 0
    background: int = 0
    populated: int = 0
    woken: int = 0
    unprotected: int = 0
    filled: int = 0
    open_ns: tuple[tuple[int, int], ...] = ()
    finished: tuple[tuple[int, int], ...] = ()
    living: tuple[int, ...] = ()

    @property
    def faults(self) -> int:
        """That userspace resolved."""
        return self.slept + self.async_ + self.left

    def fills_since(self, before: "Seen", uffds: int, protects: bool) -> bool:
        """Whether pages were placed since, or faults that were resolved say so.

        uffds: that are registered; protects: whether one of them may write-protect.
        """
        protects = protects or self.unprotected > 0
        slept = self.slept > before.slept and (not protects or self.woken > before.woken)
        placed = self.placed > before.placed or slept
        populated = self.left > before.left and self.populated > before.populated
        return placed or populated or (uffds > 0 and not protects and self.async_ > before.async_)


NOTHING: Final = Seen()


def look(message: Message) -> dict[int, Seen]:
    """VM number -> what a TOTALS message says of it; VMs of which it says nothing are left out."""
    vms = message.arrays["vms"]
    demand, background = vms["fills_demand"].astype(np.int64), vms["fills_background"].astype(np.int64)
    ahead = background[:, _BY_UFFD].sum(axis=1)
    columns = {
        "placed": demand[:, _BY_UFFD].sum(axis=1) + ahead,
        "background": ahead,
        "populated": demand[:, _POPULATE],
        "woken": demand[:, _WAKE],
        "unprotected": demand[:, _PROTECT].sum(axis=1),
        "filled": demand.sum(axis=1) + background.sum(axis=1),
    }
    numbers_of_rows = vms["vm"].tolist()
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    fills = {number: dict(zip(columns, row, strict=True)) for number, row in zip(numbers_of_rows, values, strict=True)}
    rows = message.arrays["vcpus"][["vm", "vcpu", "exited", "open_since_ns", "series"]]
    rows = rows[np.argsort(rows["vm"], kind="stable")]
    counts = rows["series"]["count"][:, : len(MODES)].astype(np.int64)
    numbers, firsts = np.unique(rows["vm"], return_index=True)
    edges = [*firsts.tolist(), len(rows)]
    of_vcpus = {int(n): (rows[a:b], counts[a:b]) for n, (a, b) in zip(numbers, pairwise(edges), strict=True)}
    none = rows[:0], counts[:0]
    return {
        number: _seen(*of_vcpus.get(number, none), fills.get(number, {}))
        for number in fills.keys() | of_vcpus.keys()
        if number
    }


def _seen(rows: npt.NDArray[Any], counts: npt.NDArray[np.int64], fills: dict[str, int]) -> Seen:
    modes = counts.sum(axis=0).tolist()
    own, alive = rows["vcpu"] != VCPU_OTHER, rows["exited"] == 0
    vcpus = rows["vcpu"][own].tolist()
    since = np.where(alive, rows["open_since_ns"], 0)[own].tolist()
    return Seen(
        slept=modes[MODE_UFFD],
        async_=modes[MODE_ASYNC],
        left=modes[MODE_EXIT] + modes[MODE_MEMORY_FAULT],
        open_ns=tuple((vcpu, ns) for vcpu, ns in zip(vcpus, since, strict=True) if ns),
        finished=tuple(zip(vcpus, counts.sum(axis=1)[own].tolist(), strict=True)),
        living=tuple(rows["vcpu"][own & alive].tolist()),
        **fills,
    )


def protects(peer: PeerVm) -> bool:
    """Whether a userfaultfd of the VM was opened so that it can write-protect: who waits there may wait for that."""
    return not _PROTECTS.isdisjoint(peer.uffd_features or ())


def kind_of(peer: PeerVm) -> tuple[Kind, str]:
    """What a paging-in of this VM is, and the sentence that says why."""
    named = [thread for thread in peer.threads if thread.role in _ROLES]
    if named:
        threads = " and ".join(f"{thread.name} ({thread.role})" for thread in named[:2])
        have = "are threads" if len(named) > 1 else "is a thread"
        return "postcopy", f"{THREADS} {threads} {have} named as in a QEMU to which a postcopy migration comes."
    if peer.vmm == "QEMU" and (not peer.command or _INCOMING.search(peer.command)):
        return "postcopy", "It is a QEMU, which fills memory in by userfaultfd when a postcopy migration comes in."
    what = peer.vmm or "a VMM that is not known"
    return "page-in", f"It is {what}: its memory is filled in while it runs, as from a snapshot."
