"""Whole frames of the collector's stream, decoded only when somebody asks."""

import asyncio
from dataclasses import dataclass

from exitscope_probes.wire import HEADER_BYTES, Header, Kind, Message, decode_body, decode_header, encode


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
    return Frame(header, head + await reader.readexactly(header.rest_bytes))
