"""Modes of faults: which of them userspace resolves, and for which it first leaves KVM_RUN."""

from collections.abc import Mapping
from typing import Final

from exitscope_probes.records import MODE_EXIT, MODE_KERNEL, MODE_MEMORY_FAULT, MODES

USER_MODES: Final = MODE_KERNEL
"""So many modes, the first of MODES. The last is shown apart: its many short ones hide the rest."""

EXIT_MODES: Final = (MODES[MODE_EXIT], MODES[MODE_MEMORY_FAULT])
"""Their faults have no `notify`, and end with `reenter`."""


def user_faults(by_mode: Mapping[str, int]) -> int:
    """How many of these faults userspace resolved. by_mode: mode -> count."""
    return sum(count for mode, count in by_mode.items() if mode != MODES[MODE_KERNEL])
