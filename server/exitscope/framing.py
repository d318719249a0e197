"""Whole frames of the collector's stream, decoded only when somebody asks."""

import asyncio
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from exitscope_probes.wire import HEADER_BYTES, Header, Kind, Message, decode_body, decode_header, encode

_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """data: all of it, the header too."""

    header: Header
    data: bytes

    @classmethod
    def of(cls, message: Message) -> "Frame":
        """A message as it is sent."""
        data = encode(message)
        return cls(decode_header(data[:HEADER_BYTES]), data)

    @property
    def kind(self) -> Kind:
        """Of the header."""
        return self.header.kind

    @property
    def time_ns(self) -> int:
        """Of the header."""
        return self.header.time_ns

    def message(self) -> Message:
        """Decode it. Raises WireError if it does not fit."""
        return decode_body(self.header, self.data[HEADER_BYTES:])


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next one. Raises IncompleteReadError at the end of the stream, WireError for garbage."""
    head = await reader.readexactly(HEADER_BYTES)
    header = decode_header(head)
    return Frame(header, await read_bytes(reader, header.rest_bytes, head))


async def read_bytes(reader: asyncio.StreamReader, length: int, before: bytes = b"") -> bytes:
    """`before` and the next bytes, kept once; readexactly() would collect a large frame and then copy it.

    Raises IncompleteReadError with what came, if the stream ends before.
    """
    if length <= _PIECE_BYTES:
        return before + await reader.readexactly(length)
    found = BytesIO()
    found.write(before)
    left = length
    while left:
        piece = await reader.read(min(left, _PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(found.getvalue()[len(before) :], length)
        found.write(piece)
        left -= len(piece)
    return found.getvalue()
