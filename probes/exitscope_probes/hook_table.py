"""The hook table of this machine's architecture."""

import platform
from typing import Final

from . import hooks, hooks_arm64
from .hooks import Hook

_TABLES: Final = {"x86_64": hooks.HOOKS, "aarch64": hooks_arm64.HOOKS}

HOOKS: Final[tuple[Hook, ...]] = _TABLES.get(platform.machine(), hooks.HOOKS)


def functions() -> frozenset[str]:
    """Every kernel function that the table names: what kallsyms is asked for, all at once."""
    return hooks.functions(HOOKS)
