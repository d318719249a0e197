"""The spool: a recording while it runs. Append-only, so that it can be read whatever killed its writer.

A block is a 28-byte header and `stored` bytes, zstd-compressed. Blocks are written ten times a second, each by
one write(2): of a killed writer only the last block can be missing or cut off, and its checksum tells. The
writer holds a lock that the kernel takes away with the process: a spool without it is an orphan.

Kinds: HEAD first, JSON {"id", "name", "vm", "started_wall_ms", "load_average"}; FRAMES, wire frames one after the
other; END last, JSON {"state", "note", "silent", "vms", "load_average"}: without it, the writer was killed.
"""

import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, BinaryIO, Final

import pyarrow as pa

from exitscope_probes.untrusted import MAX_INTEGER, parse
from exitscope_probes.wire import HEADER_BYTES, Message, WireError, decode_body, decode_header

from .load import load_average
from .plainfile import open_regular

_HEADER: Final = struct.Struct("<4sIIIIQ")  # magic, kind, stored bytes, raw bytes, crc32 of what is stored, time_ns
_MAGIC: Final = b"XSPL"
_MAX_BLOCK_BYTES: Final = 64 << 20  # one frame may be as large as wire.py allows
_SCAN_BYTES: Final = 1 << 20
_FALSE_STARTS: Final = 256
_TYPES: Final[dict[str, Any]] = {
    "id": str, "name": str, "vm": str | None, "started_wall_ms": int, "load_average": int | float | None, "state": str,
    "note": str, "silent": bool, "vms": list,
}  # fmt: skip
_LATEST_WALL_MS: Final = 1 << 53
"""What a browser takes as a moment exactly, and what further milliseconds can be added to."""

_CODEC: Final = pa.Codec("zstd", compression_level=1)


class Kind(IntEnum):
    """What a block holds."""

    HEAD = 1
    FRAMES = 2
    END = 3


class SpoolError(Exception):
    """There is nothing in the spool that could be made a recording; the message says why."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block. time_ns: CLOCK_MONOTONIC when it was written. after_damage: what was before it cannot be read."""

    kind: Kind
    time_ns: int
    data: bytes
    after_damage: bool = False

    def json(self) -> dict[str, Any]:
        """Of HEAD and END, without what has another type than its writer gives it; {} if it is none."""
        try:
            said = parse(self.data)
        except ValueError:
            return {}
        said = {name: value for name, value in said.items() if isinstance(value, _TYPES.get(name, object))}
        if not 0 <= said.get("started_wall_ms", 0) <= _LATEST_WALL_MS:
            del said["started_wall_ms"]
        return said

    def messages(self) -> Iterator[Message]:
        """Of FRAMES. Raises WireError for garbage."""
        offset = 0
        while offset < len(self.data):
            header = decode_header(self.data[offset : offset + HEADER_BYTES])
            end = offset + HEADER_BYTES + header.rest_bytes
            if end > len(self.data):
                raise WireError(f"a {header.kind.name} frame is cut off in the spool")
            yield decode_body(header, self.data[offset + HEADER_BYTES : end])
            offset = end


class SpoolWriter:
    """Makes a new spool, mode 0600, and appends to it. Raises OSError, e.g. FileExistsError or for a full disk.

    After such an error the spool is whole up to the block before, and more can be tried.
    """

    def __init__(self, path: str | os.PathLike[str], head: dict[str, Any]) -> None:
        self.path = os.fspath(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self.size_bytes = 0
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._append(Kind.HEAD, json.dumps(head | {"load_average": load_average()}).encode())
        except OSError:
            os.unlink(self.path)
            os.close(self._fd)
            raise

    def frames(self, data: bytes) -> None:
        """Append wire frames."""
        self._append(Kind.FRAMES, data)

    def end(self, state: str, note: str, silent: bool = False, vms: Iterable[str] = ()) -> None:
        """Say how it ended. silent: without a collector, since the block before; vms: of further VMs that it is of."""
        said = {"state": state, "note": note, "silent": silent, "vms": list(vms), "load_average": load_average()}
        self._append(Kind.END, json.dumps(said).encode())

    def in_place(self) -> bool:
        """Whether its file is still where it was made: else somebody has removed or moved it, or its directory."""
        try:
            there, ours = os.lstat(self.path), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, kind: Kind, data: bytes) -> None:
        stored = _CODEC.compress(data, asbytes=True)
        header = _HEADER.pack(_MAGIC, kind, len(stored), len(data), zlib.crc32(stored), time.monotonic_ns())
        left = memoryview(header + stored)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, self.size_bytes)
            os.lseek(self._fd, self.size_bytes, os.SEEK_SET)
            raise
        self.size_bytes += _HEADER.size + len(stored)


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Nobody else writes to or finishes this spool meanwhile. Raises BlockingIOError if somebody does, else OSError."""
    fd = open_regular(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def is_orphan(path: str | os.PathLike[str]) -> bool:
    """Whether its writer has ended, and nobody finishes it. Raises OSError if it cannot be opened."""
    try:
        with claimed(path):
            return True
    except BlockingIOError:
        return False


def read_spool(path: str | os.PathLike[str], past_damage: bool = False) -> Generator[Block]:
    """The blocks up to the first that is cut off or damaged. Raises SpoolError if the first already is.

    past_damage: go on with the next that is whole, as each can be read by itself.

    Raises OSError if it cannot be read: what is in it is not known then.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        first = _read_block(file)
        if first is None or first.kind is not Kind.HEAD:
            raise SpoolError(f"{os.fspath(path)} is not a recording in progress, or was cut off at its beginning")
        yield first
        at = file.tell()
        while block := _read_block(file) or (_block_after(file, at + 1) if past_damage else None):
            yield block
            at = file.tell()


def _block_after(file: BinaryIO, offset: int) -> Block | None:
    """The first whole block that begins at or after this offset; the file is at its end then.

    None after _FALSE_STARTS that only look like one: what is damaged by accident has hardly any.
    """
    false_starts = 0
    while false_starts < _FALSE_STARTS:
        file.seek(offset)
        chunk = file.read(_SCAN_BYTES)
        found = chunk.find(_MAGIC)
        if found < 0:
            if len(chunk) < _SCAN_BYTES:
                return None
            offset += len(chunk) - len(_MAGIC) + 1
            continue
        offset += found
        file.seek(offset)
        if block := _read_block(file):
            return replace(block, after_damage=True)
        offset += 1
        false_starts += 1
    return None


def _read_block(file: BinaryIO) -> Block | None:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, kind, stored_bytes, raw_bytes, checksum, time_ns = _HEADER.unpack(header)
    if magic != _MAGIC or kind not in list(Kind) or max(stored_bytes, raw_bytes) > _MAX_BLOCK_BYTES:
        return None
    if time_ns > MAX_INTEGER:
        return None
    stored = file.read(stored_bytes)
    if len(stored) < stored_bytes or zlib.crc32(stored) != checksum:
        return None
    try:
        data = _CODEC.decompress(stored, raw_bytes, asbytes=True)
    except (pa.ArrowException, OSError, ValueError):  # its length is not what the header says
        return None
    return Block(Kind(kind), time_ns, data)
