"""Ids of VMs: their process and its start, 4711-98765, and the second and later ones of a process -2, -3, and so on."""

from typing import Final

_MAX_PROCESSES: Final = 4096
"""Of so many processes it is remembered which ids their VMs have had, the newest ones."""


class VmIds:
    """Gives no id twice: who knows a VM that has ended by its id must not take another one for it."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}  # process -> number of its newest VM

    def note(self, vm_id: str) -> None:
        """It has been given."""
        pid, _, rest = vm_id.partition("-")
        start, _, number = rest.partition("-")
        process = f"{pid}-{start}"
        self._last[process] = max(self._last.pop(process, 0), int(number or 1))
        if len(self._last) > _MAX_PROCESSES:
            del self._last[next(iter(self._last))]

    def give(self, pid: int, start_ticks: int | None) -> str:
        """A new one for a VM of a process; start_ticks: procfs.Proc.start_ticks."""
        process = f"{pid}-{start_ticks or 0}"
        number = self._last.get(process, 0) + 1
        vm_id = process if number == 1 else f"{process}-{number}"
        self.note(vm_id)
        return vm_id
