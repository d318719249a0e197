"""JSON from somebody who is not trusted: bounded in size, depth and number before it is believed, its strings clean."""

import json
import re
from typing import Any, Final

MAX_VALUES: Final = 1 << 18
"""Of one text: some 20 MB of Python's objects, looked at in a tenth of a second; 256 for each of 1,024 VMs."""

MAX_DEPTH: Final = 32
MAX_STRING: Final = 16_384
"""Characters; command lines have 4,096 at most (memory.py)."""

MAX_INTEGER: Final = (1 << 63) - 1

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Categories Cc, Cf, Cs, Zl and Zp but line ends and tabs, and but the joiners, which letters and emoji need. The table
# is written out: to look at every character takes longer than the rest of the start.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b\u200e-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
_SPACES: Final = str.maketrans("\n\r\t", "   ")
_REPLACEMENT: Final = "\ufffd"


def cleaned(text: str, most: int = MAX_STRING) -> str:
    """A foreign text of at most `most` characters without what would steer a terminal, a page or an encoder.

    Line ends and tabs become spaces; other controls, bidi marks and lone surrogates U+FFFD.
    """
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text if text.isprintable() else _UNSEEN.sub(_REPLACEMENT, text.translate(_SPACES))


def parse(data: bytes, most: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in `data`, every string cleaned.

    Raises ValueError that says what does not fit: no JSON, no UTF-8, no object, more than `most` values, deeper than
    MAX_DEPTH, a number beyond 63 bits or not finite, a key that is no plain word.
    """
    if _values(data) > most and _values(_STRING.sub(b"", data)) > most:
        raise ValueError(f"more than {most} values")
    try:
        found = json.loads(data.decode(), parse_constant=_not_finite)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {cleaned(str(error), 200)}") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    _check(found)
    return found


def _values(data: bytes) -> int:
    return sum(map(data.count, (b",", b"[", b"{")))


def _not_finite(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check(top: dict[str, Any]) -> None:
    """Look at every value once, level by level, and put cleaned strings in their places."""
    level: list[dict[str, Any] | list[Any]] = [top]
    for _depth in range(MAX_DEPTH):
        below: list[dict[str, Any] | list[Any]] = []
        for container in level:
            if isinstance(container, dict):
                _check_keys(container)
            places: Any = container.items() if isinstance(container, dict) else enumerate(container)
            changed = []
            for place, value in places:
                kind = type(value)
                if kind is str:
                    if len(value) > MAX_STRING or not value.isprintable():
                        changed.append((place, cleaned(value)))
                elif kind is dict or kind is list:
                    below.append(value)
                elif kind in (int, float) and not -MAX_INTEGER <= value <= MAX_INTEGER:  # nor inf
                    raise ValueError(f"{place}: a number beyond 63 bits")
            for place, text in changed:
                container[place] = text
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _check_keys(container: dict[str, Any]) -> None:
    for key in container:
        if len(key) > MAX_STRING or not key.isprintable():
            raise ValueError(f"the key {cleaned(key, 40)!r} is no plain word")
