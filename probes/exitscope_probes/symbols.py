"""Addresses of kernel functions, from /proc/kallsyms."""

from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

_KALLSYMS = Path("/proc/kallsyms")
_MANY = 4096


@lru_cache
def kernel_symbols(names: frozenset[str], path: Path = _KALLSYMS) -> dict[str, int]:
    """Addresses of those of the named functions that this kernel shows to us: none while kptr_restrict hides them."""
    lines = path.read_bytes().splitlines()
    wanted = {name.encode() for name in names}
    return dict(_found(lines, wanted))


def hidden(path: Path = _KALLSYMS) -> bool:
    """Whether the kernel keeps all addresses from us (kptr_restrict, no CAP_SYSLOG); a few are 0 by themselves."""
    try:
        with path.open("rb") as lines:
            return not any(int(line.split(None, 1)[0], 16) for line in islice(lines, _MANY))
    except OSError:
        return True


def _found(lines: Iterable[bytes], wanted: set[bytes]) -> Iterable[tuple[str, int]]:
    for line in lines:
        fields = line.split(None, 3)  # address, kind, name, [module]
        if len(fields) > 2 and fields[2] in wanted and (address := int(fields[0], 16)):
            yield fields[2].decode(), address
