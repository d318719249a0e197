"""How alarms speak: lengths of time and lists, for a person."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

_UNITS: Final = ((3600 * 10**9, "h"), (60 * 10**9, "min"), (10**9, "s"), (10**6, "ms"))
_NAMED: Final = 4
_USERS: Final = Path("/etc/passwd")


def age(length_ns: int) -> str:
    """Such as 850 ms, 1.4 s, 12 s, 3.5 min: what a person would say."""
    for unit_ns, unit in _UNITS:
        if length_ns >= unit_ns:
            value = length_ns / unit_ns
            return f"{value:.0f} {unit}" if value >= 10 or unit == "ms" else f"{value:.1f} {unit}"
    return "less than 1 ms"


def names(listed: Sequence[str]) -> str:
    """Such as a, b and 3 others."""
    if len(listed) > _NAMED:
        return f"{', '.join(listed[: _NAMED - 1])} and {len(listed) - _NAMED + 1} others"
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))


@cache
def user_name(user: int) -> str:
    """Such as alice (uid 1000). From this host's own file: to ask a directory in the network could take long."""
    try:
        lines = _USERS.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((fields[0] for line in lines if (fields := line.split(":"))[2:3] == [str(user)]), "")
    return f"{name} (uid {user})" if name.isprintable() and name else f"uid {user}"
