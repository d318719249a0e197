"""What waits in userfaultfds that no process shows to be a VM's: a pager has those of several, their VMMs have none."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import EXIT_NAMES

from .peer import PeerVm

_IN_USERSPACE: Final = [number for number, name in enumerate(EXIT_NAMES) if name.endswith(("EFAULT", "EHWPOISON"))]
_ASLEEP_NS: Final = 50_000_000
"""A fault that is open for longer waits for a handler: what the kernel solves by itself is over sooner."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Faults that wait. pending: those whose event nobody has read; total: all."""

    pending: int = 0
    total: int = 0


def inferred(peer: PeerVm, record: Any, vcpus: npt.NDArray[Any], time_ns: int) -> Queue:
    """From the VM's events and its vCPUs' open faults. record: VM_DTYPE (); vcpus: VCPU_DTYPE (n,).

    An event that was read and whose waiter has not gone on is with the handler. A fault beyond those is unread, if
    its VM's pager lives and has read events before, and its vCPU has never brought a fault to userspace itself.
    """
    opened = vcpus["open_since_ns"].astype(np.int64)
    read = max(int(record["events_read"]) - int(record["events_done"]), 0)
    held = min(read, int(np.count_nonzero(opened)))
    served = bool(record["events_read"]) and any(handler.lives for handler in peer.handlers)
    asleep = (opened > 0) & (time_ns - opened > _ASLEEP_NS) & ~vcpus["exits"][:, _IN_USERSPACE].any(axis=1)
    total = max(held, int(np.count_nonzero(asleep))) if served else held
    return Queue(total - held, total)
