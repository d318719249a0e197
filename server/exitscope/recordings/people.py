"""Whose a fault is, as one small number: VM, vCPU and mode."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exitscope_probes.records import MODES

from .columns import codes_of

MAX_WHO: Final = 1 << 12
_VCPUS: Final = 1 << 16
_MODES: Final = 8

Int64s = npt.NDArray[np.int64]
Who = tuple[str, int, int]
"""Id of a VM, vCPU or -1, index in MODES."""


class People:
    """Numbers by the order of appearance. who: those that have one; crowded: there are more than MAX_WHO."""

    def __init__(self, vms: Sequence[str] = (), who: Sequence[Who] = ()) -> None:
        self.vms: list[str] = []
        self.who: list[Who] = []
        self.crowded = False
        self._numbers = np.zeros(0, np.int32)  # by (vm * _VCPUS + vcpu + 1) * _MODES + mode: index in who, or -1
        for vm in vms:
            self._vm(vm)
        for vm, vcpu, mode in who:
            self._number((self._vm(vm) * _VCPUS + vcpu + 1) * _MODES + mode)

    def identify(self, table: pa.Table) -> tuple[Int64s, Int64s, Int64s]:
        """VM, mode and who of each record, (n,): indexes in vms, MODES and who. Nothing is right once it is crowded."""
        vm, names = codes_of(table["vm"])
        vm = np.array([self._vm(name) for name in names] or [0], np.int64)[vm]
        mode, names = codes_of(table["mode"])
        mode = np.array([MODES.index(name) if name in MODES else _MODES - 1 for name in names] or [0], np.int64)[mode]
        vcpu = np.clip(table["vcpu"].to_numpy().astype(np.int64) + 1, 0, _VCPUS - 1)
        place = (vm * _VCPUS + vcpu) * _MODES + mode
        for one in np.unique(place[self._numbers[place] < 0]).tolist():
            self._number(one)
        return vm, mode, self._numbers[place].astype(np.int64)

    def _vm(self, name: str) -> int:
        if name not in self.vms:
            self.vms.append(name)
            self._numbers = np.concatenate((self._numbers, np.full(_VCPUS * _MODES, -1, np.int32)))
        return self.vms.index(name)

    def _number(self, place: int) -> None:
        if len(self.who) >= MAX_WHO:
            self.crowded = True
            return
        self._numbers[place] = len(self.who)
        rest, mode = divmod(place, _MODES)
        self.who.append((self.vms[rest // _VCPUS], rest % _VCPUS - 1, mode))
