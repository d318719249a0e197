"""Which faults userspace resolves: those of every mode but the last, `kernel`."""

from collections.abc import Mapping
from typing import Final

from exitscope_probes.records import MODE_KERNEL, MODES

USER_MODES: Final = MODE_KERNEL
"""So many modes, the first of MODES. The last is shown apart: its many short ones hide the rest."""


def user_faults(by_mode: Mapping[str, int]) -> int:
    """How many of these faults userspace resolved. by_mode: mode -> count."""
    return sum(count for mode, count in by_mode.items() if mode != MODES[MODE_KERNEL])
