"""A recording as a source: its frames in real time, their clock shifted to now, again and again."""

import asyncio
import gzip
import logging
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from exitscope_probes.wire import HEADER_BYTES, Kind, Message, WireError, decode_body, decode_header

from .source import Handler, Status

log = logging.getLogger("exitscope")

_PAUSE_S = 1.0  # between two rounds

SHIFTED = {"records": ("begin_ns",), "vcpus": ("open_since_ns",)}
"""Fields that hold a moment, not a length of time; 0 stands for none."""


class ReplayError(Exception):
    """The recording cannot be played; the message says what to do."""


def open_recording(path: str) -> BinaryIO:
    """The file. Raises ReplayError unless it can be read and begins like a recording."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (the caller's, kept open from round to round)
    except OSError as error:
        raise ReplayError(f"cannot read the recording {path}: {error.strerror or error}") from None
    try:
        first = next(read_recording(file), None)
    except WireError as error:
        file.close()
        raise ReplayError(f"{path} is not a recording: {error}") from None
    if first is None or first.kind is not Kind.HELLO:
        file.close()
        raise ReplayError(f"{path} is not a recording: it does not begin with HELLO")
    return file


def read_recording(file: BinaryIO) -> Iterator[Message]:
    """The messages of a gzip file of frames, from its beginning. Raises WireError for garbage."""
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file) as frames:
            while head := frames.read(HEADER_BYTES):
                header = decode_header(head)
                yield decode_body(header, frames.read(header.rest_bytes))
    except (EOFError, zlib.error, OSError) as error:
        raise WireError(f"the recording is damaged: {error}") from None


class ReplaySource:
    """Plays the file for ever; ReplayError if it is none.

    Every round begins with HELLO of another start time: the reader starts afresh.
    """

    def __init__(self, path: str, reason: str | None = None) -> None:
        self._path = path
        self._file = open_recording(path)
        self.status = Status("replay", reason or f"replay of the recording {path}")

    async def run(self, handle: Handler) -> None:
        """Round after round; a damaged recording is played up to the damage."""
        while True:
            try:
                await self._round(handle)
            except WireError as error:
                self.status.errors += 1
                log.warning("%s: %s; starting again", self._path, error)
            await asyncio.sleep(_PAUSE_S)

    async def _round(self, handle: Handler) -> None:
        shift_ns: int | None = None
        for message in read_recording(self._file):
            now_ns = time.monotonic_ns()
            if shift_ns is None:
                shift_ns = now_ns - message.time_ns
            # A recording's first frames may be older than the others: a gap is not worth waiting for.
            await asyncio.sleep(min(max(message.time_ns + shift_ns - now_ns, 0) / 1e9, 5))
            if message.kind is not Kind.BYE:
                self.status.connected = True
                self.status.data_ns = time.monotonic_ns()
                handle(shifted(message, shift_ns))


def shifted(message: Message, shift_ns: int) -> Message:
    """The message as if it had been made shift_ns later."""
    meta = dict(message.meta)
    if message.kind is Kind.HELLO and isinstance(meta.get("started_ns"), int):
        meta["started_ns"] += shift_ns
    if message.kind is Kind.MIGRATION and isinstance(meta.get("at_ns"), int):
        meta["at_ns"] += shift_ns
    arrays = {name: _shift(array, SHIFTED.get(name, ()), shift_ns) for name, array in message.arrays.items()}
    return replace(message, time_ns=message.time_ns + shift_ns, meta=meta, arrays=arrays)


def _shift(array: npt.NDArray[Any], fields: tuple[str, ...], shift_ns: int) -> npt.NDArray[Any]:
    if not fields:
        return array
    moved = array.copy()
    for name in fields:
        moments = moved[name].astype(np.int64)
        moved[name] = np.where(moments > 0, moments + shift_ns, 0).astype(np.uint64)
    return moved
