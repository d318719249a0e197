"""What somebody who means harm does to bytes and to JSON that were right, drawn by Hypothesis."""

import json
import os
import random
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Json = Any

_WORDS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, (1 << 62) - 1, 1 << 62, (1 << 63) - 1,
                 1 << 63, (1 << 64) - 1)  # fmt: skip

_LARGE: Final[tuple[Callable[[], bytes], ...]] = (
    lambda: b'"' + b"x" * 70_000 + b'"', lambda: b"[" * 40 + b"]" * 40, lambda: b"[" * 3000 + b"]" * 3000,
    lambda: b"[" + b"0," * 5000 + b"0]", lambda: b"[" + b"{}," * 5000 + b"{}]", lambda: b"9" * 400, lambda: b"9" * 5000,
)  # fmt: skip
_SMALL: Final = (
    b"null true -1 0 1 2147483648 4611686018427387904 9223372036854775807 9223372036854775808 -9223372036854775808 "
    b'18446744073709551616 1.5 1e308 1e999 NaN Infinity -Infinity "" "\\ud800" "\\u001b[2J\\u202e\\u0000\\r\\n" '
    b'"2222222222222222222222222222222" [] {} [[],[]] {"a":{"b":{}}} {"\\ud800":1} [null] [{}] @ "'
).split()


def places(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside, the whole included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


def changed(value: Json, path: tuple[Any, ...], new: Json) -> Json:
    """A copy with another value at the path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def hostile_json(value: Json, draw: random.Random) -> bytes:
    """The text of the value with one to three of its parts replaced."""
    texts = []
    for number in range(draw.choice((1, 1, 1, 2, 3))):
        value = changed(value, draw.choice(places(value)), f"@{number}@")
        texts.append(draw.choice(_LARGE)() if draw.randrange(6) == 0 else draw.choice(_SMALL))
        if not isinstance(value, dict | list):
            break
    text = json.dumps(value).encode()
    for number, new in enumerate(texts):
        text = text.replace(f'"@{number}@"'.encode(), new)
    return text


def hostile_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bits flipped, words replaced, pieces cut out, doubled or put in elsewhere."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        if not found:
            break
        at = draw.randrange(len(found))
        length = draw.choice((1, 2, 4, 8, 8, 64))
        match draw.randrange(6):
            case 0:
                found[at] ^= 1 << draw.randrange(8)
            case 1 | 2:
                at -= at % min(length, 8)
                size = min(length, 8)
                word = draw.choice(_WORDS) & ((1 << 8 * size) - 1)
                found[at : at + size] = word.to_bytes(size, "little")
            case 3:
                del found[at : at + length]
            case 4:
                found[at:at] = found[at : at + length]
            case 5:
                found[at : at + length] = draw.randbytes(length)
    return bytes(found)


def examples(most: int) -> settings:
    """So many in CI; as many as EXITSCOPE_FUZZ says in `make fuzz`."""
    return settings(
        max_examples=int(os.environ.get("EXITSCOPE_FUZZ", most)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def draws() -> st.SearchStrategy[random.Random]:
    """Randomness that Hypothesis repeats."""
    return st.integers(0, (1 << 64) - 1).map(random.Random)
