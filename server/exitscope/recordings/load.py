"""How busy the host was when a recording began and when it ended: other work takes CPU time from the run."""

import os
from typing import Any

from exitscope_probes.wire import Kind, Message

from .meta import Load


def load_average() -> float | None:
    """Of the last minute, as the kernel has it; None if it is not said."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


class Running:
    """VMs that ran on the host, recorded or not: at first, and at last. Feed it every message in order."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._last: int | None = None

    def take(self, message: Message) -> None:
        """One message more."""
        vms = message.meta.get("vms") if message.kind is Kind.VMS else None
        if isinstance(vms, list):
            self._last = sum(isinstance(vm, dict) and vm.get("state") == "running" for vm in vms)
            self._first = self._last if self._first is None else self._first

    def loads(self, head: dict[str, Any], end: dict[str, Any] | None) -> tuple[Load, Load]:
        """When it began and when it ended. head, end: what the spool says; without an end its writer was killed."""
        return _load(head, self._first), _load(end or {}, self._last)


def _load(said: dict[str, Any], vms: int | None) -> Load:
    average = said.get("load_average")
    return Load(average=float(average) if isinstance(average, int | float) and 0 <= average < 1e6 else None, vms=vms)
