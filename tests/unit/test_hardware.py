"""Hardware exits from the kernel's array to the API: sparse, exact, over windows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exitscope.aggregate import Aggregate
from exitscope.frame import select
from exitscope.hardware import state_of
from exitscope.view import View
from exitscope.vms import ALL
from exitscope.window import WINDOWS
from exitscope_probes.exit_reasons import BEYOND, DIRECT, ISA_NONE, ISA_SVM, ISA_VMX
from exitscope_probes.hardware import HardwareReader
from exitscope_probes.records import HARDWARE_DTYPE

from .fakes import FakeProbes
from .frames import Feeder, S

NPF, HLT, IO = DIRECT, 0x78, 0x7B
ATTACHED = [{"hook": "hardware_exits", "status": "attached"}]


@pytest.fixture
def probes() -> Iterator[FakeProbes]:
    fake = FakeProbes()
    yield fake
    fake.close()


def rows(cells: npt.NDArray[Any]) -> list[tuple[int, ...]]:
    """(slot, isa, cell, count, sum, max) of each cell."""
    assert cells.dtype == HARDWARE_DTYPE
    return [tuple(map(int, cell)) for cell in cells]


def test_only_cells_that_changed_are_read_with_their_whole_count(probes: FakeProbes) -> None:
    reader = HardwareReader(probes.hardware)
    slots = np.array([2, 5])
    assert rows(reader.poll(slots)) == []
    probes.hardware_exit(2, NPF, 4_000)
    probes.hardware_exit(2, NPF, 6_000)
    probes.hardware_exit(5, IO, 900)
    assert rows(reader.poll(slots)) == [(2, ISA_SVM, NPF, 2, 10_000, 6_000), (5, ISA_SVM, IO, 1, 900, 900)]
    assert rows(reader.poll(slots)) == []
    probes.hardware_exit(5, HLT, 1 << 40)
    assert rows(reader.poll(slots)) == [(5, ISA_SVM, HLT, 1, 1 << 40, 1 << 40)]
    assert rows(reader.all_cells(slots)) == [
        (2, ISA_SVM, NPF, 2, 10_000, 6_000),
        (5, ISA_SVM, HLT, 1, 1 << 40, 1 << 40),
        (5, ISA_SVM, IO, 1, 900, 900),
    ]


def test_an_exit_that_goes_on_is_counted_and_timed_when_it_ends(probes: FakeProbes) -> None:
    reader = HardwareReader(probes.hardware)
    slots = np.array([0])
    probes.hardware_exit(0, HLT, 0)
    assert rows(reader.poll(slots)) == [(0, ISA_SVM, HLT, 1, 0, 0)]
    row = probes.hardware[0]
    row["exit"][HLT]["sum_ns"] = row["exit"][HLT]["max_ns"] = 5 * S
    row["moved"] += np.uint64(1)
    assert rows(reader.poll(slots)) == [(0, ISA_SVM, HLT, 1, 5 * S, 5 * S)]


def test_a_cell_written_after_its_mark_was_seen_is_read_the_next_time(probes: FakeProbes) -> None:
    reader = HardwareReader(probes.hardware)
    slots = np.array([0])
    probes.hardware["moved"][0] = 1
    assert rows(reader.poll(slots)) == []
    probes.hardware["isa"][0] = ISA_VMX
    probes.hardware["exit"]["count"][0, 12] = 1
    assert rows(reader.poll(slots)) == [(0, ISA_VMX, 12, 1, 0, 0)]


def test_a_cleared_slot_starts_from_zero(probes: FakeProbes) -> None:
    reader = HardwareReader(probes.hardware)
    probes.hardware_exit(1, BEYOND, 10)
    reader.poll(np.array([1]))
    reader.clear(1)
    assert not probes.hardware[1:2].view(np.uint8).any()
    assert rows(reader.all_cells(np.array([1]))) == rows(reader.poll(np.array([1]))) == []
    probes.hardware_exit(1, BEYOND, 10)
    assert rows(reader.poll(np.array([1]))) == [(1, ISA_SVM, BEYOND, 1, 10, 10)]


def seen(feeder: Feeder) -> Aggregate:
    aggregate = Aggregate()
    for message in feeder.welcome():
        aggregate.handle(message)
    return aggregate


def view(aggregate: Aggregate, window: str = "1s") -> View:
    selection = select(aggregate, ALL)
    assert selection is not None
    return View(aggregate, selection.rows, WINDOWS[window])


def test_windows_totals_and_single_vcpus() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    feeder.hardware_exit(vm, 0, NPF, 7_000, 3)  # before anybody looked
    aggregate = seen(feeder)
    assert view(aggregate).hardware_exits() == {}
    feeder.hardware_exit(vm, 0, NPF, 5_000, 2)
    feeder.hardware_exit(vm, 1, IO, 1_000, 4)
    aggregate.handle(feeder.totals())
    assert view(aggregate).hardware_exits() == {
        "io": {"count": 4, "sum_ns": 4_000, "max_ns": 1_000},
        "npf": {"count": 2, "sum_ns": 10_000, "max_ns": 7_000},
    }
    assert list(view(aggregate).hardware_exits()) == ["io", "npf"], "most frequent first"
    assert view(aggregate).hardware_exits_per_row() == [{"npf": 2}, {"io": 4}]
    for _ in range(10):
        aggregate.handle(feeder.totals())
    assert view(aggregate).hardware_exits() == {}
    assert view(aggregate, "10s").hardware_exits()["npf"]["count"] == 2
    named = aggregate.vms.get(vm.id)
    assert named and aggregate.hardware.ever(named.vcpu_rows())["npf"] == {
        "count": 5,
        "sum_ns": 31_000,
        "max_ns": 7_000,
    }


def test_a_slot_with_a_new_owner_and_skipped_frames() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = seen(feeder)
    feeder.hardware_exit(vm, 0, NPF, 1_000, 100)
    feeder.totals(lost=True)
    feeder.hardware_exit(vm, 0, NPF, 1_000, 1)
    aggregate.handle(feeder.totals())
    assert view(aggregate).hardware_exits()["npf"]["count"] == 101
    slot = vm.slots[0]
    feeder.remove_vm(1)
    other = feeder.add_vm(2, 1, first_slot=slot)
    aggregate.handle(feeder.vms_message())
    feeder.hardware_exit(other, 0, HLT, 50, 2)
    aggregate.handle(feeder.totals())
    assert view(aggregate).hardware_exits() == {"hlt": {"count": 2, "sum_ns": 100, "max_ns": 50}}


def test_names_follow_what_the_tracepoint_said() -> None:
    feeder = Feeder()
    feeder.isa = ISA_VMX
    vm = feeder.add_vm(1, 1)
    aggregate = seen(feeder)
    feeder.hardware_exit(vm, 0, 48, 2_000)
    aggregate.handle(feeder.totals())
    assert list(view(aggregate).hardware_exits()) == ["EPT_VIOLATION"]


def test_frames_of_before_and_nonsense_are_taken() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = seen(feeder)
    old = feeder.totals()
    del old.arrays["hardware"]
    aggregate.handle(old)
    feeder.hardware_exit(vm, 0, NPF, 1)
    for field, value in (("slot", 0xFFFF_FFFF), ("cell", 0xFFFF), ("isa", 77), ("isa", 0)):
        wild = feeder.totals()
        wild.arrays["hardware"][field] = value
        aggregate.handle(wild)
    assert view(aggregate).hardware_exits() == {}


def test_whether_this_host_shows_any() -> None:
    assert state_of(ATTACHED, ISA_VMX) == "counted"
    assert state_of(ATTACHED, ISA_NONE) == "silent"
    assert state_of([], ISA_NONE) == state_of([{"hook": "hardware_exits", "status": "missing"}], 0) == "unattached"
