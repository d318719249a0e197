"""What the records say of the VMs they belong to: who served their faults, and where their guest memory lies."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from .discovery import MAX_ADDRESSES, MAX_HANDLERS
from .records import ADDRESS_UNKNOWN

_NEWEST: Final = 256
"""So many records at a batch's end are looked at in their order: who served last is kept longest."""


@dataclass(slots=True)
class _Vm:
    handlers: dict[int, bool] = field(default_factory=dict)  # thread id -> whether it is told; who served last is last
    addresses: dict[int, bool] = field(default_factory=dict)  # hva -> whether it is told


class Notes:
    """Keeps a few threads and addresses of each VM until `forget`, and tells each once."""

    def __init__(self) -> None:
        self._vms: dict[int, _Vm] = {}

    def see(self, records: Any) -> None:
        """Look at a batch of records FAULT_DTYPE (n,)."""
        pairs = records["vm"].astype(np.uint64) << np.uint64(32) | records["handler_tid"]
        newest = pairs[-_NEWEST:].tolist()
        for pair in [*np.unique(pairs).tolist(), *newest]:
            number, tid = pair >> 32, pair & 0xFFFF_FFFF
            if tid:
                handlers = self._vms.setdefault(number, _Vm()).handlers
                handlers.pop(tid, None)
                handlers[tid] = False
                if len(handlers) > MAX_HANDLERS:
                    del handlers[next(iter(handlers))]
        for number, hva in zip(*(records[name][-MAX_ADDRESSES:].tolist() for name in ("vm", "hva")), strict=True):
            addresses = self._vms.setdefault(number, _Vm()).addresses
            if hva != ADDRESS_UNKNOWN and len(addresses) < MAX_ADDRESSES:
                addresses.setdefault(hva, False)

    def handlers(self) -> list[tuple[int, int]]:
        """(VM number, thread id) of all that have served since this was asked, who served last is last."""
        return self._untold({number: vm.handlers for number, vm in self._vms.items()})

    def addresses(self, known: Container[int]) -> list[tuple[int, int]]:
        """(VM number, hva) of the VMs that are known and that were not told yet."""
        return self._untold({number: vm.addresses for number, vm in self._vms.items() if number in known})

    def tell_again(self) -> None:
        """Who was told has forgotten all."""
        for vm in self._vms.values():
            vm.handlers = dict.fromkeys(vm.handlers, False)
            vm.addresses = dict.fromkeys(vm.addresses, False)

    def forget(self, number: int) -> None:
        """The VM is gone and its slots are free."""
        self._vms.pop(number, None)

    @staticmethod
    def _untold(notes: dict[int, dict[int, bool]]) -> list[tuple[int, int]]:
        untold = [(number, one) for number, ones in notes.items() for one, told in ones.items() if not told]
        for number, one in untold:
            notes[number][one] = True
        return untold
