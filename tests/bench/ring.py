"""The ring reader against bcc's callback, and at four million records per second."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from exitscope_probes.collector import NICENESS
from exitscope_probes.records import FAULT_DTYPE
from exitscope_probes.ring import RingReader
from tests.bench.figure import Effort, Row, Spread
from tests.kernel.producer import BURST, Producer

RING_BYTES = 16 << 20
ROUNDS = 5
TARGET = 10
RATE = 4_000_000
SECONDS = 3.0
_RECORDS = RING_BYTES // (FAULT_DTYPE.itemsize + 8) // BURST * BURST


class _Fault(ctypes.Structure):
    """What a bcc script would cast its data to: the fields up to the one that is summed."""

    _fields_ = (("head", ctypes.c_uint8 * 24), ("begin_ns", ctypes.c_uint64))


def rows(effort: Effort) -> Iterator[Row]:
    with Producer(RING_BYTES) as producer:
        reader = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE)
        ours, theirs = _compare(producer, reader, effort.rounds(ROUNDS))
        yield Row(
            "ring reader against bcc's callback, CPU per record, same records",
            f"{theirs.middle / ours.middle:.0f}×; {ours:.0f} ns",
            f"≥ {TARGET}×",
            theirs.middle / ours.middle >= TARGET,
            f"bcc {theirs:.0f} ns",
        )
    with Producer(RING_BYTES) as producer:
        reader = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE)
        rate, lost, busy = _sustain(producer, reader, 1.0 if effort.quick else SECONDS)
        yield Row(
            f"records lost at {rate / 1e6:.1f} M records/s (reader busy {busy:.0%} of a core)",
            str(lost),
            f"0 at {RATE / 1e6:.0f} M/s",
            lost == 0 and rate >= RATE,
        )


def _compare(producer: Producer, reader: RingReader, rounds: int) -> tuple[Spread, Spread]:
    """CPU ns per record of (reader, bcc's callback); each sums one field of a full ring."""
    total = 0

    def on_record(_context: object, data: int, _size: int) -> None:
        nonlocal total
        total += ctypes.cast(data, ctypes.POINTER(_Fault)).contents.begin_ns

    def with_bcc() -> None:
        producer.bpf.ring_buffer_consume()

    def with_reader() -> None:
        nonlocal total
        while len(records := reader.read(1 << 15)):
            total += int(records["begin_ns"].sum())

    producer.bpf[b"records"].open_ring_buffer(on_record)
    costs: dict[Callable[[], None], list[float]] = {with_reader: [], with_bcc: []}
    sums = set()
    for _ in range(rounds):
        for consume in (with_reader, with_bcc):
            before = sum(producer.submitted().values())
            producer.run(_RECORDS)
            assert sum(producer.submitted().values()) - before == _RECORDS
            total = 0
            started = time.process_time()
            consume()
            costs[consume].append((time.process_time() - started) / _RECORDS * 1e9)
            sums.add(total > 0)
            reader = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE)
    assert sums == {True}
    return Spread.of(costs[with_reader]), Spread.of(costs[with_bcc])


def _sustain(producer: Producer, reader: RingReader, seconds: float) -> tuple[float, int, float]:
    """(records per second, lost, CPU share of this process's reader) while a producer runs at RATE."""
    count = 0
    started = time.monotonic()
    busy = 0.0
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # as the collector does
    producing = producer.run_paced(RATE * 1.02, seconds)
    while producing.is_alive() or reader.fill:
        begin = time.thread_time()
        records = reader.read(1 << 15)
        count += len(records)
        assert not len(records) or bool(np.all(records["type"] == 1))
        busy += time.thread_time() - begin
        if len(records) < 1 << 14:
            time.sleep(0.001)
    passed = time.monotonic() - started
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 0)
    lost = producer.refused() + sum(producer.submitted().values()) - count
    return (count + lost) / passed, lost, busy / passed
