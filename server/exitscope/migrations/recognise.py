"""How a paging-in shows without the VMM's word: what one TOTALS message holds of each VM, and what it means.

A sign is a page placed by a userfaultfd ioctl, a fault that slept in userfaultfd, or somebody waiting there. Faults of
mode exit or memory_fault and async ones happen without any paging-in, too: they count only where pages are placed or
a userfaultfd is registered. So does MADV_POPULATE, by which VMMs also fill memory in advance.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import (
    MODE_ASYNC,
    MODE_EXIT,
    MODE_KERNEL,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    MODES,
    RESOLVERS,
    VCPU_OTHER,
)
from exitscope_probes.wire import Message

from ..peer import PeerVm
from .models import Kind

_BY_UFFD: Final = [RESOLVERS.index(name) for name in ("COPY", "CONTINUE", "ZEROPAGE", "MOVE", "POISON")]
_POPULATE: Final = RESOLVERS.index("MADV_POPULATE")
_ROLES: Final = frozenset({"uffd reader", "page copier"})
"""Of QEMU's threads in the destination of a postcopy migration (exitscope_probes.threads)."""

THREADS: Final = "In its process"


@dataclass(frozen=True, slots=True)
class Seen:
    """One VM's counters, since the collector began.

    slept: faults of mode uffd; async_: of mode async; left: of modes exit and memory_fault. placed, background: pages
    placed by ioctls, and those of them ahead of need; populated: by madvise, for somebody who waited. open_ns: begin of
    the fault that each vCPU is in now, by vCPU; finished: faults that userspace resolved, by vCPU; alive: vCPU threads.
    """

    slept: int = 0
    async_: int = 0
    left: int = 0
    placed: int = 0
    background: int = 0
    populated: int = 0
    open_ns: tuple[tuple[int, int], ...] = ()
    finished: tuple[tuple[int, int], ...] = ()
    alive: int = 0

    @property
    def faults(self) -> int:
        """That userspace resolved."""
        return self.slept + self.async_ + self.left

    def fills_since(self, before: "Seen", uffds: int) -> bool:
        """Whether pages were placed since, or faults that were resolved say so. uffds: that are registered."""
        placed = self.placed > before.placed or self.slept > before.slept
        populated = self.left > before.left and self.populated > before.populated
        return placed or populated or (uffds > 0 and self.async_ > before.async_)


NOTHING: Final = Seen()


def look(message: Message) -> dict[int, Seen]:
    """VM number -> what a TOTALS message says of it; VMs of which it says nothing are left out."""
    vms = message.arrays["vms"]
    demand, background = vms["fills_demand"].astype(np.int64), vms["fills_background"].astype(np.int64)
    ahead = background[:, _BY_UFFD].sum(axis=1)
    placed = (demand[:, _BY_UFFD].sum(axis=1) + ahead).tolist()
    fills = dict(
        zip(vms["vm"].tolist(), zip(placed, ahead.tolist(), demand[:, _POPULATE].tolist(), strict=True), strict=True)
    )
    rows = message.arrays["vcpus"][["vm", "vcpu", "exited", "open_since_ns", "series"]]
    rows = rows[np.argsort(rows["vm"], kind="stable")]
    counts = rows["series"]["count"][:, : len(MODES)].astype(np.int64)
    numbers, firsts = np.unique(rows["vm"], return_index=True)
    edges = [*firsts.tolist(), len(rows)]
    of_vcpus = {int(n): (rows[a:b], counts[a:b]) for n, (a, b) in zip(numbers, pairwise(edges), strict=True)}
    none = rows[:0], counts[:0]
    return {
        number: _seen(*of_vcpus.get(number, none), *fills.get(number, (0, 0, 0)))
        for number in fills.keys() | of_vcpus.keys()
        if number
    }


def _seen(rows: npt.NDArray[Any], counts: npt.NDArray[np.int64], placed: int, background: int, populated: int) -> Seen:
    modes = counts.sum(axis=0).tolist()
    own, alive = rows["vcpu"] != VCPU_OTHER, rows["exited"] == 0
    vcpus = rows["vcpu"][own].tolist()
    since = np.where(alive, rows["open_since_ns"], 0)[own].tolist()
    finished = (counts.sum(axis=1) - counts[:, MODE_KERNEL])[own].tolist()
    return Seen(
        slept=modes[MODE_UFFD],
        async_=modes[MODE_ASYNC],
        left=modes[MODE_EXIT] + modes[MODE_MEMORY_FAULT],
        placed=placed,
        background=background,
        populated=populated,
        open_ns=tuple((vcpu, ns) for vcpu, ns in zip(vcpus, since, strict=True) if ns),
        finished=tuple(zip(vcpus, finished, strict=True)),
        alive=int(alive[own].sum()),
    )


def kind_of(peer: PeerVm) -> tuple[Kind, str]:
    """What a paging-in of this VM is, and the sentence that says why."""
    named = [thread for thread in peer.threads if thread.role in _ROLES]
    if named:
        threads = " and ".join(f"{thread.name} ({thread.role})" for thread in named[:2])
        have = "are threads" if len(named) > 1 else "is a thread"
        return "postcopy", f"{THREADS} {threads} {have} named as in a QEMU to which a postcopy migration comes."
    if peer.vmm == "QEMU":
        return "postcopy", "It is a QEMU, which fills memory in by userfaultfd when a postcopy migration comes in."
    what = peer.vmm or "a VMM that is not known"
    return "page-in", f"It is {what}: its memory is filled in while it runs, as from a snapshot."
