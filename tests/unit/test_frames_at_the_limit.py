"""The largest frames that are believed: what they may hold, and the memory that they take."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from exitscope.aggregate import MAX_WRAPPED, Aggregate
from exitscope.pages import Pages
from exitscope.peer import PeerVms, checked
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.layouts import MOST
from exitscope_probes.records import CELL_DTYPE, FAULT_DTYPE, MODES, SERIES, VCPU_DTYPE, VCPU_OTHER, VM_DTYPE
from exitscope_probes.settings import MOST_VMS
from exitscope_probes.wire import HEADER_BYTES, Kind, Message, WireError, decode_body, decode_header, encode

from .frames import T0, Feeder, S

MB = 1 << 20
ABOVE = 64 * MB
VCPUS, VMS = 4096, 1024
"""As many as a collector follows by default."""


def sent(message: Message) -> Message:
    """As it comes out of the socket."""
    data = encode(message)
    return decode_body(decode_header(data[:HEADER_BYTES]), data[HEADER_BYTES:])


def vms(count: int, time_ns: int) -> Message:
    said = [{"vm": number, "id": f"{number}-1", "pid": number, "vcpus": []} for number in range(1, count + 1)]
    return Message(Kind.VMS, time_ns, {"vms": said})


def totals(time_ns: int, vcpus: int, vm_count: int, faults: int, cells: int = 0) -> Message:
    """Every vCPU has had so many faults in every mode; the first cells of each series hold them."""
    rows = np.zeros(vcpus, VCPU_DTYPE)
    rows["vm"], rows["vcpu"] = np.arange(vcpus) % vm_count + 1, np.arange(vcpus) // vm_count
    rows["series"]["count"], rows["series"]["max_ns"], rows["exits"] = faults, 4_000, faults
    found = np.zeros(cells, CELL_DTYPE)
    found["cell"] = np.arange(cells) * (vcpus * SERIES * BUCKETS // max(cells, 1))
    found["count"] = faults
    numbers = np.zeros(vm_count, VM_DTYPE)
    numbers["vm"] = np.arange(vm_count) + 1
    arrays = {"slots": np.arange(vcpus, dtype="<u4"), "vcpus": rows, "vms": numbers, "cells": found}
    return Message(Kind.TOTALS, time_ns, {"snapshot": faults == 1, "loss": {}}, arrays)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
def test_each_frame_of_as_many_vcpus_and_vms_as_there_can_be_takes_little_memory() -> None:
    aggregate = Aggregate()
    aggregate.handle(Feeder().hello())
    frames = [vms(MOST_VMS, T0)] + [
        totals(T0 + number * S, VCPUS, VMS, 1 + number, cells=20_000) for number in range(3)
    ]
    for frame in frames:
        data = encode(frame)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        aggregate.handle(decode_body(decode_header(data[:HEADER_BYTES]), data[HEADER_BYTES:]))
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < ABOVE, frame.kind
    assert aggregate.series.count == 2
    (newest,) = aggregate.series.ticks(aggregate.vms.running()[0].row, np.array([1]), 1)
    assert set(newest["modes"]) == set(MODES)


def test_more_records_than_a_collector_sends_at_once_are_refused() -> None:
    most = np.zeros(MOST["records"], FAULT_DTYPE)
    assert len(sent(Message(Kind.FAULTS, T0, {}, {"records": most})).arrays["records"]) == len(most)
    with pytest.raises(WireError, match="allowed 16384"):
        sent(Message(Kind.FAULTS, T0, {}, {"records": np.zeros(len(most) + 1, FAULT_DTYPE)}))


def beyond(time_ns: int, first: int, count: int) -> Message:
    """Buckets that have passed 2^32."""
    message = totals(time_ns, 16, 1, 1)
    cells = np.zeros(count, CELL_DTYPE)
    cells["cell"], cells["count"] = np.arange(first, first + count), 1 << 32 | 5
    message.arrays["cells"] = cells
    return message


def test_so_many_buckets_beyond_32_bits_are_believed_as_a_host_can_have() -> None:
    aggregate = Aggregate()
    for message in (Feeder().hello(), vms(1, T0), totals(T0, 16, 1, 1)):
        aggregate.handle(message)
    with pytest.raises(WireError, match=r"sum beyond 2\^48"):
        sent(beyond(T0 + S, 0, MAX_WRAPPED))
    each = MAX_WRAPPED - 100
    for number in range(2):
        aggregate.handle(sent(beyond(T0 + S, number * each, each)))
    with pytest.raises(WireError, match="buckets are beyond"):
        aggregate.handle(sent(beyond(T0 + S, 2 * each, each)))
    assert sum(map(len, aggregate.wrapped.values())) <= 2 * MAX_WRAPPED
    row = aggregate.vms.running()[0].rows[0]
    assert aggregate.wrapped[row][0] == 1
    less = totals(T0 + 2 * S, 16, 1, 0)
    aggregate.handle(less)  # other vCPUs have the slots
    assert aggregate.wrapped == {}


def test_many_pages_given_at_once_are_the_same_as_one_after_the_other() -> None:
    random = np.random.default_rng(3)
    cells = random.choice(600 * 700, 60_000, replace=False)
    at_once, by_turns = Pages(600, 700), Pages(600, 700)
    for pages in (at_once, by_turns):
        pages.place(random.choice(700, 300))
        pages.give_back(0)
    for piece in np.split(cells, 60):
        by_turns.place(piece)
    for pages, where in ((at_once, at_once.place(cells)), (by_turns, by_turns.place(cells))):
        assert len(np.unique(where)) == len(cells) and pages.used <= pages.capacity
        assert (pages.find(cells) == where).all() and (where // 16 > 0).all()
    assert at_once.used == by_turns.used


@pytest.mark.parametrize(("vcpu", "fits"), [(65_535, True), (VCPU_OTHER, True), (65_536, False)])
def test_a_vcpu_has_a_number_that_a_recording_can_hold(vcpu: int, fits: bool) -> None:
    counted = totals(T0, 1, 1, 1)
    counted.arrays["vcpus"]["vcpu"] = vcpu
    record = np.zeros(1, FAULT_DTYPE)
    record["vcpu"] = vcpu
    for message in (counted, Message(Kind.FAULTS, T0, {}, {"records": record})):
        if fits:
            sent(message)
        else:
            with pytest.raises(WireError, match="vCPU 65536"):
                sent(message)
    named = Message(Kind.VMS, T0, {"vms": [{"vm": 1, "id": "1-1", "pid": 1, "vcpus": [{"vcpu": 65_536}]}]})
    with pytest.raises(WireError, match="vcpu"):
        checked(PeerVms, named)
