"""The wire format of protocol buffers for many messages at once, a row each (encoding: protobuf.dev).

A field is a matrix of its bytes and one that says which of them are there, because numbers differ in length.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2


@dataclass(frozen=True)
class Part:
    """Bytes of n messages. data: (n, width) uint8; there: (n, width) bool."""

    data: npt.NDArray[np.uint8]
    there: npt.NDArray[np.bool_]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Bytes of each row, (n,)."""
        counts: npt.NDArray[np.int64] = np.count_nonzero(self.there, axis=1).astype(np.int64)
        return counts

    def where(self, rows: npt.NDArray[np.bool_]) -> "Part":
        """Only in these rows, (n,)."""
        return Part(self.data, self.there & rows[:, None])

    def tobytes(self) -> bytes:
        """All rows, one after the other."""
        return self.data[self.there].tobytes()


def join(*parts: Part) -> Part:
    """One after the other in each row."""
    return Part(np.hstack([part.data for part in parts]), np.hstack([part.there for part in parts]))


def same(data: bytes, rows: int) -> Part:
    """The same bytes in every row."""
    matrix = np.broadcast_to(np.frombuffer(data, np.uint8), (rows, len(data)))
    return Part(matrix, np.ones(matrix.shape, bool))


def varint(number: int, values: npt.NDArray[Any]) -> Part:
    """Field `number` of type uint64, uint32 or enum; values (n,), none negative."""
    return join(same(key(number, _VARINT), len(values)), _digits(values))


def fixed64(number: int, values: npt.NDArray[Any]) -> Part:
    """Field `number` of type fixed64; values (n,)."""
    data = np.ascontiguousarray(values, "<u8").view(np.uint8).reshape(len(values), 8)
    return join(same(key(number, _FIXED64), len(values)), Part(data, np.ones(data.shape, bool)))


def message(number: int, *parts: Part) -> Part:
    """Field `number` that is a message made of these."""
    inner = join(*parts)
    sizes = inner.sizes
    return join(same(key(number, _LENGTH), len(sizes)), _digits(sizes), inner)


def key(number: int, kind: int) -> bytes:
    """What a field begins with."""
    return plain_varint(number << 3 | kind)


def plain_varint(value: int) -> bytes:
    """One number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def one(number: int, value: int | str | bytes) -> bytes:
    """One field of one message: a number, or a text or a message."""
    if isinstance(value, int):
        return key(number, _VARINT) + plain_varint(value)
    data = value.encode() if isinstance(value, str) else value
    return key(number, _LENGTH) + plain_varint(len(data)) + data


def _digits(values: npt.NDArray[Any]) -> Part:
    """Base 128, lowest first, the high bit set in all but the last."""
    numbers = np.asarray(values).astype(np.uint64)
    width = max((int(numbers.max(initial=0)).bit_length() + 6) // 7, 1)
    rest = numbers[:, None] >> (np.arange(width, dtype=np.uint64) * np.uint64(7))
    there = rest != 0
    there[:, 0] = True
    more = np.zeros(there.shape, bool)
    more[:, :-1] = there[:, 1:]
    return Part(((rest & np.uint64(0x7F)).astype(np.uint8) | more.astype(np.uint8) << np.uint8(7)), there)
