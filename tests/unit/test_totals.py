"""The totals reader on mapped arrays that a test writes as the kernel does."""

from collections.abc import Iterator

import numpy as np
import pytest

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import SERIES
from exitscope_probes.totals import Totals, TotalsReader
from tests.unit.fakes import FakeProbes


@pytest.fixture
def probes() -> Iterator[FakeProbes]:
    fake = FakeProbes()
    yield fake
    fake.close()


def cells_of(totals: Totals) -> dict[int, int]:
    return dict(totals.cells.tolist())


def cell(slot: int, series: int, bucket: int) -> int:
    return (slot * SERIES + series) * BUCKETS + bucket


def test_only_rows_in_use_are_read_and_the_kernels_addresses_stay_here(probes: FakeProbes) -> None:
    probes.add_vm(7, 100, {2: 101, 5: 102}, vm_slot=3)
    probes.vcpus["stall_ns"][5] = 1 << 50
    totals = TotalsReader(probes).poll()
    assert totals.slots.tolist() == [2, 5] and totals.slots.dtype == np.uint32
    assert totals.vcpus["tid"].tolist() == [101, 102]
    assert totals.vcpus["stall_ns"].tolist() == [0, 1 << 50]
    assert totals.vm_slots.tolist() == [3]
    assert totals.vms[["vm", "tgid", "kvm", "mm"]].tolist() == [(7, 100, 0, 0)]
    assert probes.vms["kvm"][3] and probes.vms["mm"][3], "the kernel's own row must keep them"


def test_only_cells_that_changed_are_reported_with_their_whole_count(probes: FakeProbes) -> None:
    probes.add_vm(1, 100, {0: 101, 3: 102})
    reader = TotalsReader(probes)
    probes.fault(0, 0, 200, 5)
    probes.fault(3, 18, 591, 2)
    assert cells_of(reader.poll()) == {cell(0, 0, 200): 5, cell(3, 18, 591): 2}
    assert cells_of(reader.poll()) == {}
    probes.fault(0, 0, 200)
    probes.fault(0, 0, 0)
    assert cells_of(reader.poll()) == {cell(0, 0, 200): 6, cell(0, 0, 0): 1}
    assert dict(reader.all_cells(np.array([0, 3])).tolist()) == {
        cell(0, 0, 0): 1,
        cell(0, 0, 200): 6,
        cell(3, 18, 591): 2,
    }
    assert dict(reader.all_cells(np.array([3])).tolist()) == {cell(3, 18, 591): 2}
    assert len(reader.all_cells(np.array([], np.int64))) == 0


@pytest.mark.parametrize("count_first", [True, False])
def test_a_count_and_its_bucket_may_be_written_on_both_sides_of_a_poll(probes: FakeProbes, count_first: bool) -> None:
    probes.add_vm(1, 100, {0: 101})
    reader = TotalsReader(probes)
    seen: dict[int, int] = {}
    for step in (count_first, not count_first):
        if step:
            probes.vcpus["series"]["count"][0, 4] += np.uint64(1)
        else:
            probes.histograms[0, 4, 77] += np.uint32(1)
        seen |= cells_of(reader.poll())
    seen |= cells_of(reader.poll())
    assert seen == {cell(0, 4, 77): 1}


def test_buckets_go_on_counting_beyond_32_bits(probes: FakeProbes) -> None:
    probes.add_vm(1, 100, {0: 101})
    reader = TotalsReader(probes)
    total = 0
    for step in (0xFFFF_FFFF, 5, 0xFFFF_FFF0, 0x8000_0000, 0x8000_0001):
        total += step
        probes.histograms[0, 0, 9] = total & 0xFFFF_FFFF
        probes.vcpus["series"]["count"][0, 0] = total
        assert cells_of(reader.poll()) == {cell(0, 0, 9): total}
    assert dict(reader.all_cells(np.array([0])).tolist()) == {cell(0, 0, 9): total}


def test_a_cleared_slot_starts_from_nothing(probes: FakeProbes) -> None:
    probes.add_vm(1, 100, {0: 101, 1: 102})
    reader = TotalsReader(probes)
    probes.fault(0, 0, 9, 50)
    probes.fault(1, 2, 9, 60)
    reader.poll()
    reader.clear_vcpu(0)
    reader.clear_vm(0)
    assert not probes.histograms[0].any() and not probes.vcpus[0:1].view(np.uint8).any()
    assert probes.histograms[1].any(), "its neighbour's stay"
    assert not probes.vms["vm"].any()
    assert reader.poll().slots.tolist() == [1]
    probes.add_vm(2, 200, {0: 201})
    probes.fault(0, 0, 9, 50)  # the same numbers as before: still a change
    assert cells_of(reader.poll()) == {cell(0, 0, 9): 50}


def test_rows_changed_tells_of_a_new_row_until_the_next_poll(probes: FakeProbes) -> None:
    reader = TotalsReader(probes)
    assert not reader.rows_changed()
    probes.add_vm(1, 100, {4: 101})
    assert reader.rows_changed()
    reader.poll()
    assert not reader.rows_changed()
    probes.fault(4, 0, 1)
    assert not reader.rows_changed()
    reader.clear_vcpu(4)
    assert not reader.rows_changed()


def test_losses_by_name(probes: FakeProbes) -> None:
    probes.loss[:] = [1, 2, 3, 4, 1 << 40, 6]
    assert TotalsReader(probes).loss() == {
        "ring_full": 1,
        "map_full": 2,
        "unmatched_begin": 3,
        "unmatched_end": 4,
        "unreadable": 1 << 40,
        "not_counted": 6,
    }
