"""Codes and bits of a fault by the names that the kernel and exitscope give them, as SQL: exports hold names."""

from collections.abc import Iterable
from typing import Final

from exitscope_probes.records import EXIT_NAMES

from ..page import access_names, error_name

_ERRNOS: Final = 256  # include/uapi/asm-generic/errno.h ends at 133
_REASONS: Final = EXIT_NAMES[:48]  # by kvm_run->exit_reason
SEEN: Final = ("access", "sleep", "read", "fill", "halt", "range", "named")
"""Bits of `seen`, SEEN_* of events.h."""


def seen_names(bits: int) -> str:
    """`access+read+fill`: what was seen of the fault."""
    return "+".join(name for bit, name in enumerate(SEEN) if bits >> bit & 1)


def _literal(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def _listed(names: Iterable[str | None], index: str) -> str:
    """The name at an index from 0 on, NULL beyond. A list, as a CASE of so many branches takes six times as long."""
    return f"[{', '.join(map(_literal, names))}][{index} + 1]"


READABLE: Final = {
    "seen": _listed(map(seen_names, range(256)), "seen::INTEGER"),
    "access": _listed(map(access_names, range(8)), "(access & 7)::INTEGER"),
    "exit_errno": f"CASE WHEN exit_errno BETWEEN {1 - _ERRNOS} AND 0 THEN "
    f"{_listed((error_name(-number) for number in range(_ERRNOS)), '-exit_errno')} ELSE exit_errno::VARCHAR END",
    "exit_reason": "CASE WHEN exit_errno <> 0 THEN "
    f"coalesce({_listed(_REASONS, 'exit_reason::INTEGER')}, exit_reason::VARCHAR) END",
}
"""Column -> SQL of its text; NULL where nothing is known, as of an exit that was none."""


def expression(column: str) -> str:
    """SQL of a column as it is exported."""
    return READABLE.get(column, column)
