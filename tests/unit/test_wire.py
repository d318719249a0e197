"""The frames across the privilege boundary: round trips, and every way in which one may not fit."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exitscope
from exitscope.aggregate import Aggregate
from exitscope.replay import open_recording, read_recording
from exitscope_probes import layouts
from exitscope_probes.records import FAULT_DTYPE, HARDWARE_DTYPE, MODES, PRESENCES, RESOLVERS, WAITERS
from exitscope_probes.wire import (
    HEADER_BYTES,
    MAX_BODY_BYTES,
    MAX_META_BYTES,
    VERSION,
    Kind,
    Message,
    WireError,
    decode_body,
    decode_header,
    encode,
)

from .frames import Feeder

CODES = {"mode": MODES, "waiter": WAITERS, "resolver": RESOLVERS, "presence": PRESENCES}
"""Fields of a record that are numbers of names: the first number that has none is refused."""


def decode(data: bytes) -> Message:
    return decode_body(decode_header(data[:HEADER_BYTES]), data[HEADER_BYTES:])


def frame() -> bytes:
    feeder = Feeder()
    return encode(feeder.records(feeder.add_vm(1, 1), [5, 6, 7]))


def test_a_frame_comes_back_as_it_was() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(3, 2)
    feeder.fault(vm, 1, 12_345, 9)
    message = feeder.totals()
    again = decode(encode(message))
    assert (again.kind, again.time_ns, again.meta) == (message.kind, message.time_ns, message.meta)
    assert {name: array.tobytes() for name, array in again.arrays.items()} == {
        name: array.tobytes() for name, array in message.arrays.items()
    }
    assert again.arrays["vcpus"]["series"]["count"].sum() == 9


def test_arrays_of_a_decoded_frame_are_views_that_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode(frame()).arrays["records"]["vm"][0] = 1


@settings(deadline=None)
@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_garbage_is_a_wire_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_header(data)


@settings(deadline=None)
@given(st.integers(0, len(frame()) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_a_wire_error_or_another_message_never_a_crash(at: int, flip: int) -> None:
    data = bytearray(frame())
    data[at] ^= flip
    try:
        decode(bytes(data))
    except WireError as error:
        assert str(error)


@settings(deadline=None)
@given(st.integers(0, len(frame()) - 1))
def test_a_truncated_frame_names_both_sizes(length: int) -> None:
    data = frame()[:length]
    expected = "32" if length < HEADER_BYTES else str(len(frame()) - HEADER_BYTES)
    with pytest.raises(WireError, match=expected):
        decode(data)


@pytest.mark.parametrize(
    ("offset", "value", "complaint"),
    [(0, b"EVIL", "EVIL"), (4, b"\x09\0", "version 9"), (6, b"\x63\0", "kind 99")],
)
def test_the_header_says_what_is_wrong(offset: int, value: bytes, complaint: str) -> None:
    data = bytearray(frame())
    data[offset : offset + len(value)] = value
    with pytest.raises(WireError, match=complaint):
        decode_header(bytes(data[:HEADER_BYTES]))


@pytest.mark.parametrize(("meta", "body"), [(MAX_META_BYTES + 1, 0), (0, MAX_BODY_BYTES + 1), (2**32 - 1, 2**32 - 1)])
def test_excessive_lengths_are_refused_before_anything_is_read(meta: int, body: int) -> None:
    with pytest.raises(WireError, match="allowed"):
        decode_header(struct.pack("<4sHHIIQQ", b"XSCP", 1, Kind.FAULTS, meta, body, 0, 0))


def _with_meta(text: bytes) -> bytes:
    return struct.pack("<4sHHIIQQ", b"XSCP", 1, Kind.FAULTS, len(text), 0, 0, 0) + text


@pytest.mark.parametrize(
    ("meta", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "None items"),
        (b'{"counts":{"records":-1}}', "-1 items"),
        (b'{"counts":{"records":1}}', f"1 items of {FAULT_DTYPE.itemsize} bytes do not fit into the 0"),
        (b'{"counts":{"records":"x"}}', "x items"),
        (b'{"counts":7}', "None items"),
    ],
)
def test_counts_must_fit_the_body(meta: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode(_with_meta(meta))


def test_what_does_not_fit_the_schema_is_not_encoded() -> None:
    with pytest.raises(WireError, match="records"):
        encode(Message(Kind.FAULTS, 0))
    with pytest.raises(WireError, match="records"):
        encode(Message(Kind.FAULTS, 0, {}, {"records": np.zeros(1, "<u4")}))


def of_version(version: int, message: Message) -> bytes:
    """TOTALS as that version said it: its arrays, without the fields that it did not have."""
    arrays = {}
    for name, dtype in layouts.of(layouts.TOTALS, version).items():
        arrays[name] = np.zeros(len(message.arrays[name]), dtype)
        for field in set(dtype.names or ()) - {"reserved"}:
            arrays[name][field] = message.arrays[name][field]
        if dtype.names is None:
            arrays[name] = message.arrays[name]
    meta = message.meta | {"counts": {name: len(array) for name, array in arrays.items()}}
    text, body = json.dumps(meta).encode(), b"".join(array.tobytes() for array in arrays.values())
    return struct.pack("<4sHHIIQQ", b"XSCP", version, message.kind, len(text), len(body), 1, 2) + text + body


@pytest.mark.parametrize("version", range(1, VERSION))
def test_totals_of_earlier_versions_come_in_the_newest_layout(version: int) -> None:
    """Their records: test_old_recordings.py."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    feeder.fault(vm, 0, 1000)
    vm.totals["fills_failed"] = 3
    message = decode(of_version(version, feeder.totals()))
    assert message.arrays["hardware"].dtype == HARDWARE_DTYPE and not len(message.arrays["hardware"])
    assert len(message.arrays["cells"]) == 1
    assert message.arrays["vms"]["fills_failed"].tolist() == [3] and not message.arrays["vms"]["failed_by"].any()
    assert message.arrays["vcpus"]["tid"].tolist() == [9000, 9001]


def test_a_migration_has_no_arrays_and_version_2_is_still_read() -> None:
    meta = {"vm": 1, "id": "a", "follow": "followed", "reason": None, "vcpu_blocktime_ns": [1, None]}
    data = bytearray(encode(Message(Kind.MIGRATION, 7, meta)))
    again = decode(bytes(data))
    assert (again.kind, again.time_ns, again.meta, again.arrays) == (Kind.MIGRATION, 7, meta, {})
    old = bytearray(frame())
    assert struct.unpack_from("<H", old, 4) == (VERSION,)
    struct.pack_into("<H", old, 4, 2)
    assert decode(bytes(old)).meta == decode(frame()).meta


def test_the_bundled_recording_is_of_this_version_and_counts_what_it_holds() -> None:
    aggregate, kinds, faults = Aggregate(), [], 0
    with open_recording(str(Path(exitscope.__file__).parent / "data/demo.frames.gz")) as file:
        file.seek(0)
        assert decode_header(gzip.GzipFile(fileobj=file).read(HEADER_BYTES)).version == VERSION
        for message in read_recording(file):
            aggregate.handle(message)
            kinds.append(message.kind)
            faults += len(message.arrays.get("records", ()))
    assert kinds[0] is Kind.HELLO and kinds.count(Kind.TOTALS) > 100
    counted = sum(sum(vm.faults(aggregate.rows).values()) - vm.faults(aggregate.rows)["kernel"] for vm in aggregate.vms)
    assert 0 <= faults - counted <= 64, "records are sent a moment before the totals that count them"
    assert {vm.name for vm in aggregate.vms} >= {"demo-uffd", "demo-exit"} and not any(aggregate.ledger.values())


HOSTILE = {
    "deep": b'{"a":' + b"[" * 200_000,
    "deep enough to be read": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    "many values": b'{"a":[' + b"[]," * 2_700_000 + b"1]}",
    "no number": b'{"a":NaN}',
    "infinite": b'{"a":1e999}',
    "beyond 63 bits": b'{"a":9223372036854775808}',
    "thousands of digits": b'{"a":' + b"9" * 5000 + b"}",
    "a key that is no word": b'{"\\ud800":1}',
    "no UTF-8": b'{"a":"\xed\xa0\x80"}',
}


@pytest.mark.parametrize("meta", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_not_believed_of_json(meta: bytes) -> None:
    with pytest.raises(WireError, match="FAULTS frame: meta: "):
        decode(_with_meta(meta))


def test_names_are_cleaned_where_they_enter() -> None:
    name = "a\x1b[31m\u202eb\nc\ud800\u200dd\u2028" + "x" * 20_000
    again = decode(encode(Message(Kind.BYE, 1, {"reason": name, "list": [{"deep": [name]}]})))
    assert (
        again.meta["reason"].startswith("a\ufffd[31m\ufffdb c\ufffd\u200dd\ufffdxxx")
        and len(again.meta["reason"]) == 16_384
    )
    assert again.meta["list"][0]["deep"][0] == again.meta["reason"]
    again.meta["reason"].encode()


@pytest.mark.parametrize(
    ("array", "field", "value", "complaint"),
    [
        ("records", "begin_ns", 1 << 63, "begin_ns"), ("records", "finish_ns", (1 << 64) - 1, "finish_ns"),
        *(("records", field, len(names), f"{field} {len(names)}") for field, names in CODES.items()),
    ],
)  # fmt: skip
def test_records_out_of_range_are_refused(array: str, field: str, value: int, complaint: str) -> None:
    feeder = Feeder()
    message = feeder.records(feeder.add_vm(1, 1), [5, 6, 7])
    message.arrays[array][field][1] = value
    with pytest.raises(WireError, match=complaint):
        decode(encode(message))


@pytest.mark.parametrize("field", ["stall_ns", "open_since_ns", "exits", "series"])
def test_counters_whose_sum_overflows_are_refused(field: str) -> None:
    feeder = Feeder()
    feeder.add_vm(1, 4)
    message = feeder.totals()
    if field == "series":
        message.arrays["vcpus"]["series"]["sum_ns"] = 1 << 57
    else:
        message.arrays["vcpus"][field] = 1 << 60
    with pytest.raises(WireError, match=field):
        decode(encode(message))


def test_a_moment_beyond_63_bits_is_refused() -> None:
    with pytest.raises(WireError, match="CLOCK_MONOTONIC"):
        decode(encode(Message(Kind.BYE, 1 << 63, {"reason": ""})))
