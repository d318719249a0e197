"""The loss ledger: every place where data can be lost, by one name each, merged from kernel and collector."""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from .records import LOSSES

COLLECTOR_LOSSES: Final = ("hook_missing", "slow_client", "ring_error", "recording_error")
LEDGER: Final = (*LOSSES, *COLLECTOR_LOSSES)
"""All names, in the order in which they are shown."""


class Hook(Protocol):
    """What the ledger needs of plan.HookStatus."""

    @property
    def status(self) -> str:
        """Anything but "attached" loses what the hook would have seen."""

    @property
    def essential(self) -> bool:
        """Whether another hook cannot make up for it on this host."""


class Ledger:
    """The collector's own counters."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._own = dict.fromkeys(COLLECTOR_LOSSES, 0)
        self._unmatched = 0
        self._own["hook_missing"] = sum(hook.essential and hook.status != "attached" for hook in hooks)

    def add(self, name: str, count: int = 1) -> None:
        """Count a loss on this side; KeyError for a name that is not in COLLECTOR_LOSSES."""
        self._own[name] = self._own[name] + count

    def add_unmatched(self, count: int) -> None:
        """Count faults that a VM had begun and that no thread will end: the kernel counts only what it sees."""
        self._unmatched += count

    def own(self, name: str) -> int:
        """One of our own counters."""
        return self._own[name]

    def merged(self, kernel: Mapping[str, int], slow_client: int) -> dict[str, int]:
        """The whole ledger: kernel counters, the records dropped for slow clients, and our own."""
        merged = {name: kernel.get(name, 0) for name in LOSSES} | self._own
        merged["slow_client"] = slow_client
        merged["unmatched_begin"] += self._unmatched
        return merged
