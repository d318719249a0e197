"""The ring reader on rings in memory, written as the kernel writes them."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope_probes.errors import RingError
from exitscope_probes.records import FAULT_DTYPE
from exitscope_probes.ring import RingReader
from tests.unit.fakes import PAGE, FakeRing, fault_records

LENGTH = FAULT_DTYPE.itemsize
WHOLE = LENGTH + 8
MakeRing = Callable[..., FakeRing]


@pytest.fixture
def make_ring() -> Iterator[MakeRing]:
    rings = []

    def make(size_bytes: int = 4 * PAGE, start: int = 0) -> FakeRing:
        rings.append(FakeRing(size_bytes, start))
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


def reader_of(ring: FakeRing) -> RingReader:
    return RingReader(ring.fd, ring.size_bytes, FAULT_DTYPE)


def put_faults(ring: FakeRing, begin: int, count: int) -> None:
    for record in fault_records(begin + count)[begin:]:
        assert ring.put(record.tobytes()) is not None


def begins(reader: RingReader, limit: int = 1000) -> list[int]:
    return [int(value) for value in reader.read(limit)["begin_ns"]]


def test_an_empty_ring_gives_an_empty_batch_of_the_dtype(make_ring: MakeRing) -> None:
    batch = reader_of(make_ring()).read(10)
    assert batch.dtype == FAULT_DTYPE and len(batch) == 0


def test_every_field_arrives_and_room_is_given_back(make_ring: MakeRing) -> None:
    ring = make_ring()
    reader = reader_of(ring)
    sent = fault_records(5, hva=0x7FFF_1234_5000, exit_errno=-14, vcpu=3, exit_size=1 << 60)
    for record in sent:
        ring.put(record.tobytes())
    assert reader.fill == 5 * WHOLE / ring.size_bytes
    batch = reader.read(100)
    assert np.array_equal(batch, sent)
    assert int(ring.consumer[0]) == int(ring.producer[0])
    assert reader.fill == 0


def test_a_batch_is_a_copy_that_later_records_do_not_change(make_ring: MakeRing) -> None:
    ring = make_ring(PAGE)
    reader = reader_of(ring)
    put_faults(ring, 0, 20)
    batch = reader.read(100)
    put_faults(ring, 100, 30)
    assert batch["begin_ns"].tolist() == list(range(20))


def test_max_records_bounds_a_batch(make_ring: MakeRing) -> None:
    ring = make_ring()
    reader = reader_of(ring)
    put_faults(ring, 0, 10)
    assert begins(reader, 4) == [0, 1, 2, 3]
    assert begins(reader, 0) == []
    assert begins(reader) == [4, 5, 6, 7, 8, 9]


def test_a_busy_record_holds_back_everything_after_it(make_ring: MakeRing) -> None:
    ring = make_ring()
    reader = reader_of(ring)
    first, late, last = fault_records(3)
    ring.put(first.tobytes())
    position = ring.put(late.tobytes(), busy=True)
    ring.put(last.tobytes())
    assert position is not None
    assert begins(reader) == [0]
    assert begins(reader) == []
    assert int(ring.consumer[0]) == position, "a busy record must not be given back"
    ring.finish(position, LENGTH)
    assert begins(reader) == [1, 2]


def test_discarded_records_of_any_length_are_skipped(make_ring: MakeRing) -> None:
    ring = make_ring()
    reader = reader_of(ring)
    ring.put(b"\xff" * 3, discarded=True)
    put_faults(ring, 0, 2)
    ring.put(b"\xff" * LENGTH, discarded=True)
    ring.put(b"\xff" * 1000, discarded=True)
    put_faults(ring, 2, 1)
    ring.put(b"", discarded=True)
    assert begins(reader) == [0, 1, 2]
    assert reader.fill == 0


def test_a_ring_goes_round_many_times(make_ring: MakeRing) -> None:
    ring = make_ring(PAGE, start=(1 << 40) // WHOLE * 8)
    reader = reader_of(ring)
    seen: list[int] = []
    for round_number in range(50):
        put_faults(ring, round_number * 23, 23)
        seen += begins(reader)
    assert seen == list(range(50 * 23))


def test_a_new_reader_goes_on_where_the_last_one_stopped(make_ring: MakeRing) -> None:
    ring = make_ring()
    put_faults(ring, 0, 4)
    assert begins(reader_of(ring), 3) == [0, 1, 2]
    assert begins(reader_of(ring)) == [3]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (fault_records(1, type=7).tobytes(), ["type 7", "type 1"]),
        (fault_records(1).tobytes() + bytes(8), [f"{LENGTH + 8} bytes", f"{LENGTH} bytes"]),
        (fault_records(1).tobytes()[:-16], [f"{LENGTH - 16} bytes", f"{LENGTH} bytes"]),
        (fault_records(1, size=96).tobytes(), ["96", f"{LENGTH} bytes"]),
    ],
)
def test_a_record_that_does_not_fit_is_an_error_naming_both(
    make_ring: MakeRing, payload: bytes, words: list[str]
) -> None:
    ring = make_ring()
    reader = reader_of(ring)
    put_faults(ring, 0, 2)
    ring.put(payload)
    put_faults(ring, 2, 1)
    assert begins(reader) == [0, 1], "the records before it are good"
    with pytest.raises(RingError) as caught:
        reader.read(10)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(RingError):  # it does not go away by itself
        reader.read(10)
    assert reader.skip_bad() == 8 + (len(payload) + 7 & ~7)
    assert begins(reader) == [2], "the records after it are good again"


@pytest.mark.parametrize("discarded", [False, True])
def test_a_garbled_length_beyond_the_producer_is_an_error(make_ring: MakeRing, discarded: bool) -> None:
    ring = make_ring()
    reader = reader_of(ring)
    position = ring.put(fault_records(1)[0].tobytes())
    assert position is not None
    ring.finish(position, 5000, discarded=discarded)
    with pytest.raises(RingError, match="5000 bytes"):
        reader.read(10)
    assert int(ring.consumer[0]) == 0
    assert reader.skip_bad() == WHOLE, "all that there is, and no more"
    put_faults(ring, 5, 1)
    assert begins(reader) == [5]


STEP = st.one_of(
    st.tuples(st.just("fault"), st.integers(1, 9)),
    st.tuples(st.just("busy"), st.just(0)),
    st.tuples(st.just("finish"), st.integers(0, 3)),
    st.tuples(st.just("finish discarded"), st.integers(0, 3)),
    st.tuples(st.just("discarded"), st.integers(0, 300)),
    st.tuples(st.just("read"), st.integers(0, 40)),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=60), start=st.integers(0, 1000))
def test_any_order_of_events_gives_the_finished_records_in_order(steps: list[tuple[str, int]], start: int) -> None:
    """Against a model: a list of (begin_ns or None for discarded, busy)."""
    ring = FakeRing(PAGE, start * 8)
    reader = reader_of(ring)
    model: list[list[object]] = []  # [position, begin_ns or None, busy]
    records = iter(fault_records(1000))
    try:
        for action, number in [*steps, ("read", 1000)]:
            busy = [entry for entry in model if entry[2]]
            if action in ("fault", "busy"):
                for _ in range(number or 1):
                    record = next(records)
                    position = ring.put(record.tobytes(), busy=action == "busy")
                    if position is not None:
                        model.append([position, int(record["begin_ns"]), action == "busy"])
            elif action == "discarded":
                position = ring.put(b"\xaa" * number, discarded=True)
                if position is not None:
                    model.append([position, None, False])
            elif action.startswith("finish") and number < len(busy):
                discarded = action.endswith("discarded")
                begin = busy[number][0]
                assert isinstance(begin, int)
                ring.finish(begin, LENGTH, discarded=discarded)
                busy[number][2] = False
                if discarded:
                    busy[number][1] = None
            elif action == "read":
                expected: list[object] = []
                while model and not model[0][2] and len(expected) < number:
                    expected += [value for value in model.pop(0)[1:2] if value is not None]
                assert begins(reader, number) == expected
                # Discarded ones right behind a full batch may or may not be gone already: align the model.
                while model and not model[0][2] and model[0][1] is None and model[0][0] != int(ring.consumer[0]):
                    model.pop(0)
    finally:
        ring.close()
