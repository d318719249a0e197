"""Frames of somebody who means harm: each is taken over or ends in one WireError, and what is shown stays sound."""

import gc
import json
import random
import struct
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from pydantic_core import to_json

from exitscope import frame
from exitscope.aggregate import Aggregate
from exitscope.alarms.alarms import Alarms
from exitscope.hub import Hub
from exitscope.metrics import exposition
from exitscope.source import Status
from exitscope_probes.wire import HEADER_BYTES, Kind, Message, WireError, decode_body, decode_header, encode

from .frames import Feeder, S
from .mutations import draws, examples, hostile_bytes, hostile_json

_HEADER = struct.Struct("<4sHHIIQQ")
_SAID = {
    "vm": 1, "id": "one", "follow": "followed", "reason": None, "at_ns": 5 * S, "status": "postcopy-active",
    "role": "destination", "capabilities": ["postcopy-ram"], "remaining_bytes": 5, "transferred_bytes": 6,
    "postcopy_requests": 1, "bytes_per_s": 1.0, "total_ns": 7,
}  # fmt: skip


def corpus() -> list[bytes]:
    """A connection's frames, of every kind."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 2, id="one")
    feeder.add_vm(2, 2, id="two")
    lengths = np.array([10_000, 200_000])
    messages = [*feeder.welcome(), feeder.totals(S)]
    for vcpu in range(2):
        feeder.time_ns += S
        feeder.faults(vm, vcpu, lengths)
        feeder.hardware_exit(vm, vcpu, 0x7B, 1500, 4)
        feeder.fill(vm, "COPY", 3)
        messages += [feeder.records(vm, lengths.tolist(), seen=4), feeder.vms_message(), feeder.totals(S)]
        messages.append(Message(Kind.MIGRATION, feeder.time_ns, dict(_SAID)))
    messages.append(Message(Kind.BYE, feeder.time_ns, {"reason": "over"}))
    return [encode(message) for message in messages]


CORPUS = corpus()


def hostile(data: bytes, draw: random.Random) -> bytes:
    """The frame with bytes or parts of its JSON replaced."""
    if draw.randrange(2):
        return hostile_bytes(data, draw)
    head = _HEADER.unpack_from(data)
    text = hostile_json(json.loads(data[HEADER_BYTES : HEADER_BYTES + head[3]]), draw)
    return _HEADER.pack(*head[:3], len(text), *head[4:]) + text + data[HEADER_BYTES + head[3] :]


def decode(data: bytes) -> Message:
    return decode_body(decode_header(data[:HEADER_BYTES]), data[HEADER_BYTES:])


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A sum that overflows is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@examples(40)
@given(draws())
def test_hostile_frames_end_in_a_wire_error_or_are_taken_over(draw: random.Random) -> None:
    aggregate, status = Aggregate(), Status("live")
    first = draw.randrange(len(CORPUS))
    for number, data in enumerate(CORPUS):
        try:
            aggregate.handle(decode(hostile(data, draw) if number >= first and draw.randrange(2) else data))
        except WireError as error:
            assert 0 < len(str(error)) < 500 and str(error).isprintable()
    for vm in ("", "all", "one"):
        selection = frame.select(aggregate, vm)
        to_json(frame.build(aggregate, status, selection, 10 * S, 1, 0))
        to_json(frame.history(aggregate, selection, 10 * S))
    exposition(aggregate, status, Hub(aggregate, status), Alarms())
    del aggregate
    gc.collect()  # one has 100 MB
