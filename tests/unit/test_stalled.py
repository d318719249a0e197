"""How many vCPUs stand still at once: from records, from looks at open faults, and their column over time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.aggregate import Aggregate
from exitscope.frame import select
from exitscope.stalled import ALL_VMS, Stalled, most_at_once
from exitscope.vms import ALL
from exitscope_probes.records import FAULT_DTYPE, WAITER_ASYNC, WAITER_OTHER, WAITER_VCPU

from .frames import FakeVm, Feeder, S
from .test_aggregate import aggregate_of

MS = 1_000_000


def brute_force(spans: list[tuple[int, int, int]], owner: int | None = None) -> int:
    mine = [(begin, end) for one, begin, end in spans if owner in (None, one)]
    return max((sum(begin <= at < end for begin, end in mine) for at, _ in mine), default=0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30), st.integers(1, 12)), max_size=40))
def test_the_most_at_once_is_what_brute_force_counts(drawn: list[tuple[int, int, int]]) -> None:
    """Many begins and ends coincide: a fault that ends just when another begins is not at once with it."""
    spans = [(owner, begin, begin + length) for owner, begin, length in drawn]
    owners, begins, ends = np.array(spans, np.int64).reshape(-1, 3).T
    found = most_at_once(owners, begins, ends)
    assert found == ({ALL_VMS: brute_force(spans)} if spans else {}) | {
        owner: brute_force(spans, owner) for owner in {owner for owner, _, _ in spans}
    }


def records(vm: int, spans: list[tuple[int, int]], waiter: int = WAITER_VCPU) -> Any:
    made = np.zeros(len(spans), FAULT_DTYPE)
    made["vm"], made["waiter"], made["vcpu"] = vm, waiter, np.arange(len(spans))
    made["begin_ns"] = [begin for begin, _ in spans]
    made["serve_ns"] = [end - begin for begin, end in spans]
    return made


def test_only_what_vcpus_waited_for_counts_and_only_within_the_tick() -> None:
    stalled = Stalled()
    stalled.add(records(1, [(0, 50), (90, 300), (95, 110), (105, 120)]))
    stalled.add(records(1, [(100, 200)] * 5, WAITER_ASYNC))
    stalled.add(records(1, [(100, 200)] * 5, WAITER_OTHER))
    stalled.add(records(2, [(100, 101)]))
    assert stalled.tick(100, 200) == {1: 3, 2: 1, ALL_VMS: 3}
    assert stalled.tick(200, 300) == {}  # a tick begins with nothing


def test_open_faults_count_and_one_whose_record_came_does_not_count_twice() -> None:
    stalled = Stalled()
    stalled.add(records(1, [(140, 190)]))
    stalled.look(np.array([1, 1, 1], np.uint32), np.array([10, 140, 150]))
    stalled.look(np.array([1, 1], np.uint32), np.array([10, 140]))  # 140 is over by now, says its record
    assert stalled.tick(100, 200) == {1: 3, ALL_VMS: 3}
    stalled.add(records(1, [(140, 190)]))
    stalled.look(np.array([1, 1], np.uint32), np.array([10, 140]))
    assert stalled.tick(100, 200) == {1: 2, ALL_VMS: 2}


def test_more_faults_than_are_kept_make_the_number_no_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exitscope.stalled.MAX_SPANS", 10)
    stalled = Stalled()
    for _ in range(5):
        stalled.add(records(1, [(0, 100)] * 4))
    assert stalled.tick(0, 100) == {1: 10, ALL_VMS: 10}


def column(aggregate: Aggregate, vm_id: str) -> dict[str, Any]:
    selection = select(aggregate, vm_id)
    assert selection is not None
    (newest,) = aggregate.series.ticks(selection.series_row, selection.rows, 1)
    return newest


def second(feeder: Feeder, aggregate: Aggregate, *batches: tuple[FakeVm, int, int]) -> None:
    """A second of five looks; (VM, vCPU, length in ns): faults that end in the middle of it, all at once."""
    for step in range(5):
        if step == 2:
            for vm, vcpu, length_ns in batches:
                feeder.fault(vm, vcpu, length_ns)
                aggregate.handle(feeder.records(vm, [length_ns], vcpu))
        aggregate.handle(feeder.totals())


def test_a_column_says_how_many_stood_still_on_average_and_at_once_and_who() -> None:
    feeder = Feeder()
    one, two = feeder.add_vm(1, 4), feeder.add_vm(2, 1)
    aggregate = aggregate_of(feeder)
    second(feeder, aggregate, (one, 0, 100 * MS), (one, 1, 50 * MS), (two, 0, 20 * MS))
    found = column(aggregate, one.id)
    assert found["stalled"] == {"mean": 0.15, "peak": 2, "vcpus": 4}  # no look saw them, but records did
    assert found["stall"] == [0.1, 0.05, 0, 0]
    assert column(aggregate, two.id)["stalled"] == {"mean": 0.02, "peak": 1, "vcpus": 1}
    everything = column(aggregate, ALL)
    assert everything["stalled"] == {"mean": 0.17, "peak": 3, "vcpus": 5}
    assert everything["stall"] == [0.1, 0.05, 0, 0, 0.02]
    second(feeder, aggregate)
    assert column(aggregate, one.id)["stalled"] == {"mean": 0, "peak": 0, "vcpus": 4}


def test_an_open_fault_stalls_each_column_that_it_lasts_wholly() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    aggregate = aggregate_of(feeder)
    feeder.vcpus[vm.slots[1]]["open_since_ns"] = feeder.time_ns
    for _ in range(3):
        second(feeder, aggregate)
        assert column(aggregate, vm.id)["stalled"] == {"mean": 1, "peak": 1, "vcpus": 2}
        assert column(aggregate, vm.id)["stall"] == [0, 1]


def test_an_open_fault_colours_the_heat_map_by_its_age_until_it_ends() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 3)
    aggregate = aggregate_of(feeder)
    feeder.vcpus[vm.slots[1]]["open_since_ns"] = begin_ns = feeder.time_ns
    for age_s in (1, 2, 3):
        second(feeder, aggregate, (vm, 0, 2 * MS), (vm, 1, 5 * MS))
        heat = column(aggregate, vm.id)["heat"]
        assert heat[0] == pytest.approx(2 * MS, rel=0.04)
        assert heat[1] == pytest.approx(age_s * S, rel=0.001)  # longer than any that ended
        assert heat[2] is None
        assert column(aggregate, ALL)["heat"] == heat
    feeder.vcpus[vm.slots[1]]["open_since_ns"] = 0
    feeder.fault(vm, 1, feeder.time_ns - begin_ns)
    second(feeder, aggregate)
    assert column(aggregate, vm.id)["heat"][1] == pytest.approx(3 * S, rel=0.04)
    second(feeder, aggregate)
    assert column(aggregate, vm.id)["heat"] == [None] * 3


def test_vcpus_of_a_vm_that_has_gone_are_not_among_all() -> None:
    feeder = Feeder()
    one, two = feeder.add_vm(1, 4), feeder.add_vm(2, 2)
    aggregate = aggregate_of(feeder)
    second(feeder, aggregate, (one, 0, 100 * MS), (two, 0, 200 * MS))
    assert column(aggregate, ALL)["stalled"] == {"mean": 0.3, "peak": 2, "vcpus": 6}
    two.state = "gone"
    for step in range(5):
        if step == 3:  # in the middle of the second
            feeder.fault(one, 0, 100 * MS)
            aggregate.handle(feeder.vms_message())
        aggregate.handle(feeder.totals())
    assert column(aggregate, ALL)["stalled"] == {"mean": 0.1, "peak": 1, "vcpus": 4}
    assert column(aggregate, two.id)["stalled"]["vcpus"] == 2


def test_without_records_the_peak_is_at_least_the_average() -> None:
    """The ring overflowed, and no look fell into a fault: 2.4 on average means that there was a moment with three."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 4)
    aggregate = aggregate_of(feeder)
    for vcpu in range(4):
        feeder.fault(vm, vcpu, 6 * MS, 100)
    aggregate.handle(feeder.totals(S))
    assert column(aggregate, vm.id)["stalled"] == {"mean": 2.4, "peak": 3, "vcpus": 4}


def test_a_vm_that_ended_in_mid_fault_stands_still_no_longer() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    aggregate = aggregate_of(feeder)
    feeder.vcpus[vm.slots[0]]["open_since_ns"] = feeder.time_ns
    second(feeder, aggregate)
    vm.state = "gone"
    aggregate.handle(feeder.vms_message())
    second(feeder, aggregate)
    second(feeder, aggregate)
    assert column(aggregate, vm.id)["stalled"]["peak"] == 0


def test_a_vm_that_lived_for_less_than_a_column_has_one() -> None:
    feeder = Feeder()
    aggregate = aggregate_of(feeder)
    vm = feeder.add_vm(1, 2)
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals())
    feeder.fault(vm, 0, 100 * MS)
    feeder.fill(vm, "COPY", 3)
    aggregate.handle(feeder.records(vm, [100 * MS]))
    aggregate.handle(feeder.totals())
    vm.state = "gone"
    aggregate.handle(feeder.vms_message())
    for _ in range(3):
        aggregate.handle(feeder.totals())
    found = column(aggregate, vm.id)
    assert found["stalled"] == {"mean": 0.1, "peak": 1, "vcpus": 2}
    assert found["fills"]["demand"] == 3
    assert found["modes"]["uffd"]["rate_per_s"] == 1
    second(feeder, aggregate)
    assert column(aggregate, vm.id)["stalled"] == {"mean": 0, "peak": 0, "vcpus": 0}


def test_pages_placed_are_of_their_column() -> None:
    feeder = Feeder()
    one, two = feeder.add_vm(1, 1), feeder.add_vm(2, 1)
    feeder.fill(one, "COPY", 1000)
    aggregate = aggregate_of(feeder)
    feeder.fill(one, "COPY", 5)
    feeder.fill(one, "CONTINUE", 2)
    feeder.fill(one, "COPY", 70, demand=False)
    feeder.fill(two, "ZEROPAGE", 1)
    second(feeder, aggregate)
    assert column(aggregate, one.id)["fills"] == {"demand": 7, "background": 70}
    assert column(aggregate, ALL)["fills"] == {"demand": 8, "background": 70}
    second(feeder, aggregate)
    assert column(aggregate, one.id)["fills"] == {"demand": 0, "background": 0}
