"""The ring reader on a real BPF ring, with producers on other processors."""

import time

import numpy as np
import pytest

from exitscope_probes.records import FAULT_DTYPE
from exitscope_probes.ring import RingReader
from tests.kernel.producer import BURST, Producer

pytestmark = pytest.mark.needs("root", "bpf")

WHOLE = FAULT_DTYPE.itemsize + 8


@pytest.mark.parametrize("discard", [False, True])
def test_records_of_several_processors_arrive_once_and_in_order(discard: bool) -> None:
    """Busy records, wrapping and, if asked for, discarded ones come by themselves while the reader reads."""
    with Producer(1 << 20, discard) as producer:
        reader = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE)
        threads = [producer.run_paced(100_000 if discard else 400_000, 1.0) for _ in range(3)]
        batches = []
        while any(thread.is_alive() for thread in threads) or reader.fill:
            batches.append(reader.read(5000))
            if not len(batches[-1]):
                time.sleep(0.0005)
        records = np.concatenate(batches)
        submitted = producer.submitted()
        # A busy machine may let the ring run full: what went in must still come out, each once.
        assert len(records) == sum(submitted.values()) > 2 * producer.ring_bytes // WHOLE
        for processor, count in submitted.items():
            own = records[records["vcpu"] == processor]
            assert np.array_equal(own["begin_ns"], np.arange(count))
            assert np.array_equal(own["hva"], 2 * np.arange(count))
            assert np.array_equal(own["gpa"], ~np.arange(count, dtype=np.uint64))


def test_a_full_ring_refuses_and_everything_before_is_there() -> None:
    with Producer(1 << 16) as producer:
        reader = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE)
        producer.run(10_000)
        room = producer.ring_bytes // WHOLE
        assert sum(producer.submitted().values()) + producer.refused() == 10_000
        assert reader.fill > 0.99
        assert room - BURST <= len(reader.read(100_000)) <= room
        assert reader.fill == 0
        producer.run(BURST)
        assert len(reader.read(100)) == BURST, "room is given back to the kernel"


def test_a_reader_that_comes_later_goes_on_where_the_last_one_stopped() -> None:
    with Producer(1 << 16) as producer:
        producer.run(16)
        first = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE).read(10)
        rest = RingReader(producer.ring_fd, producer.ring_bytes, FAULT_DTYPE).read(10)
        assert len(np.concatenate([first, rest])) == 16
