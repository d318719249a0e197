"""Addresses of kernel functions, from /proc/kallsyms."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


@lru_cache
def _read(names: frozenset[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    with Path("/proc/kallsyms").open() as lines:
        for line in lines:
            address, _, rest = line.partition(" ")
            name = rest[2:].split(None, 1)[0]
            if name in names and int(address, 16):  # all zero: kptr_restrict hides them
                found[name] = int(address, 16)
                if len(found) == len(names):
                    break
    return found


def kernel_symbols(names: Iterable[str]) -> dict[str, int]:
    """Addresses of those of the named symbols that this kernel shows to us."""
    wanted = frozenset(names)
    return _read(wanted) if wanted else {}
