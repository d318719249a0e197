"""The hook table of this machine's architecture."""

import platform
from dataclasses import replace
from pathlib import Path
from typing import Final

from . import hooks, hooks_arm64
from .hooks import Hook

_TABLES: Final = {"x86_64": hooks.HOOKS, "aarch64": hooks_arm64.HOOKS}

_USERFAULTFD: Final = Path("/proc/sys/vm/unprivileged_userfaultfd")  # there with CONFIG_USERFAULTFD
_OF_USERFAULTFD: Final = ("uffd_wait", "uffd_notify", "resolve")


def for_this_kernel(table: tuple[Hook, ...], has_userfaultfd: bool) -> tuple[Hook, ...]:
    """The table; where the kernel has no userfaultfd, nothing is wrong without its hooks."""
    return tuple(
        hook if has_userfaultfd or hook.name not in _OF_USERFAULTFD else replace(hook, essential=False)
        for hook in table
    )


HOOKS: Final[tuple[Hook, ...]] = for_this_kernel(_TABLES.get(platform.machine(), hooks.HOOKS), _USERFAULTFD.exists())


def functions() -> frozenset[str]:
    """Every kernel function that the table names: what kallsyms is asked for, all at once."""
    return hooks.functions(HOOKS)
