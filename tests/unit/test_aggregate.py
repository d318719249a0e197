"""The aggregate: from frames to totals, windows, stall and the list of VMs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope import rows as rows_module
from exitscope import vms as vms_module
from exitscope.aggregate import Aggregate
from exitscope.frame import select, vm_list
from exitscope.view import View
from exitscope.vms import ALL
from exitscope.window import WINDOWS
from exitscope_probes.records import EXIT_NAMES, MODE_ASYNC, MODE_EXIT, MODE_KERNEL, VCPU_OTHER
from exitscope_probes.settings import MAX_VCPUS
from exitscope_probes.wire import Kind, Message, WireError, decode_body, decode_header, encode

from .frames import FakeVm, Feeder, S

MS = 1_000_000


def aggregate_of(feeder: Feeder) -> Aggregate:
    aggregate = Aggregate()
    for message in feeder.welcome():
        aggregate.handle(message)
    return aggregate


def view(aggregate: Aggregate, vm_id: str = ALL, window: str = "10s") -> View:
    selection = select(aggregate, vm_id)
    assert selection is not None
    return View(aggregate, selection.rows, WINDOWS[window])


def faults(aggregate: Aggregate, vm_id: str) -> dict[str, int]:
    vm = aggregate.vms.get(vm_id)
    assert vm is not None
    return vm.faults(aggregate.rows)


def test_what_was_there_before_counts_in_totals_and_in_no_window() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    feeder.fault(vm, 0, 100_000, 40)
    aggregate = aggregate_of(feeder)
    feeder.fault(vm, 1, 200_000, 2)
    aggregate.handle(feeder.totals())
    assert faults(aggregate, vm.id)["uffd"] == 42
    assert view(aggregate).modes()["uffd"]["count"] == 2
    assert [row["count"] for row in view(aggregate).latency_per_row()] == [0, 2]


def test_a_vm_that_comes_later_counts_from_its_first_fault() -> None:
    feeder = Feeder()
    aggregate = aggregate_of(feeder)
    aggregate.handle(feeder.totals())
    vm = feeder.add_vm(1, 1)
    feeder.fault(vm, 0, 100_000, 7)
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals())
    assert view(aggregate, vm.id).modes()["uffd"]["count"] == 7


def test_counts_that_come_before_the_vm_is_named_are_kept() -> None:
    feeder = Feeder()
    aggregate = aggregate_of(feeder)
    vm = feeder.add_vm(1, 1)
    feeder.fault(vm, 0, 100_000, 7)
    aggregate.handle(feeder.totals())
    assert vm_list(aggregate) == []
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals())
    assert faults(aggregate, vm.id)["uffd"] == 7
    assert view(aggregate, vm.id).latency_per_row()[0]["p50"] == pytest.approx(100_000, rel=0.04)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(64, 10**9), st.booleans()), max_size=25))
def test_frames_may_be_skipped_or_come_twice(steps: list[tuple[int, int, bool]]) -> None:
    """Counts are cumulative: what matters is only that the last frame comes."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 3)
    every, some = aggregate_of(feeder), aggregate_of(feeder)
    for vcpu, latency_ns, skipped in steps:
        feeder.fault(vm, vcpu, latency_ns)
        message = feeder.totals(lost=True)
        every.handle(message)
        every.handle(message)
        if not skipped:
            some.handle(message)
    last = feeder.totals()
    every.handle(last)
    some.handle(last)
    assert view(every).latency_per_row() == view(some).latency_per_row()
    counts = [row["count"] for row in view(every).latency_per_row()]
    assert counts == [sum(vcpu == n for vcpu, _, _ in steps) for n in range(3)]
    assert sum(row["sum"] for row in view(every).latency_per_row()) == sum(ns for _, ns, _ in steps)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(64, 2**41), max_size=30), min_size=1, max_size=12), st.data())
def test_percentiles_of_a_window_are_within_five_percent(batches: list[list[int]], data: st.DataObject) -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    window = data.draw(st.sampled_from(["1s", "5s"]))
    arrived: list[tuple[int, list[int]]] = []
    for batch in batches:
        feeder.faults(vm, 0, np.array(batch, np.int64))
        aggregate.handle(feeder.totals(S // 2))
        arrived.append((feeder.time_ns, batch))
    found = view(aggregate, window=window)
    edge_ns = aggregate.time_ns - found.filled_ns
    inside = sorted(ns for time_ns, batch in arrived if time_ns > edge_ns for ns in batch)
    row = found.latency_per_row()[0]
    assert row["count"] == len(inside)
    assert row["sum"] == sum(inside)
    if inside:
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            exact = inside[max(int(np.ceil(quantile * len(inside))), 1) - 1]
            assert row[name] == pytest.approx(exact, rel=0.05)
        assert inside[-1] <= row["max"] <= inside[-1] * 1.07
        assert row["p50"] <= row["p90"] <= row["p99"] <= row["max"]


def test_a_slot_with_a_new_owner_starts_from_zero_and_the_old_one_keeps_its_counts() -> None:
    feeder = Feeder()
    old = feeder.add_vm(1, 1, first_slot=5)
    aggregate = aggregate_of(feeder)
    feeder.fault(old, 0, 100_000, 50)
    aggregate.handle(feeder.totals())
    feeder.remove_vm(1)
    new = feeder.add_vm(2, 1, first_slot=5)
    feeder.fault(new, 0, 900_000, 3)
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals())
    assert faults(aggregate, old.id)["uffd"] == 50
    assert faults(aggregate, new.id)["uffd"] == 3
    assert view(aggregate, new.id).latency_per_row()[0]["p50"] == pytest.approx(900_000, rel=0.04)
    assert view(aggregate, old.id).latency_per_row()[0]["count"] == 50


def test_counts_that_fall_start_the_row_again() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    feeder.fault(vm, 0, 100_000, 50)
    aggregate = aggregate_of(feeder)
    feeder.own(vm, 0, vm.slots[0])
    feeder.fault(vm, 0, 100_000, 4)
    aggregate.handle(feeder.totals())
    found = view(aggregate).modes()["uffd"]
    assert found["count"] == 4
    assert found["p50"] == pytest.approx(100_000, rel=0.04)


def test_a_restarted_collector_gives_no_negative_and_no_old_count() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2, id="77-1")
    aggregate = aggregate_of(feeder)
    feeder.fault(vm, 0, 100_000, 500)
    aggregate.handle(feeder.totals())
    again = Feeder(feeder.time_ns + S)
    same = again.add_vm(9, 2, id="77-1")
    again.fault(same, 1, 100_000, 20)
    for message in again.welcome():
        aggregate.handle(message)
    assert view(aggregate, "77-1").modes() == {}
    again.fault(same, 1, 100_000, 5)
    aggregate.handle(again.totals())
    assert faults(aggregate, "77-1")["uffd"] == 25
    assert [row["count"] for row in view(aggregate, "77-1").latency_per_row()] == [0, 5]
    assert [vm.id for vm in aggregate.vms] == ["77-1"]


def test_a_lost_connection_to_the_same_collector_loses_nothing() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    feeder.fault(vm, 0, 100_000, 3)
    aggregate.handle(feeder.totals())
    feeder.fault(vm, 0, 100_000, 4)
    for message in feeder.welcome():
        aggregate.handle(message)
    assert view(aggregate).modes()["uffd"]["count"] == 7


def test_stall_is_the_share_of_the_window_spent_in_faults_open_ones_included() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    aggregate = aggregate_of(feeder)
    for _ in range(50):  # vCPU 0: half of the time
        feeder.fault(vm, 0, 100 * MS)
        aggregate.handle(feeder.totals(200 * MS))
    assert view(aggregate).stall_per_row() == pytest.approx([0.5, 0], abs=0.02)
    feeder.vcpus[vm.slots[1]]["open_since_ns"] = feeder.time_ns
    for _ in range(25):
        aggregate.handle(feeder.totals(200 * MS))
    assert view(aggregate, window="10s").stall_per_row()[1] == pytest.approx(0.5, abs=0.06)
    assert view(aggregate, window="1s").stall_per_row()[1] == 1


def test_a_fault_longer_than_the_window_stalls_no_more_than_all_of_it_and_ends_when_it_ends() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    feeder.vcpus[vm.slots[0]]["open_since_ns"] = feeder.time_ns
    for _ in range(60 * 5):
        aggregate.handle(feeder.totals())
        assert view(aggregate).stall_per_row()[0] in (0, 1)
    feeder.vcpus[vm.slots[0]]["open_since_ns"] = 0
    feeder.fault(vm, 0, 60 * S)
    for _ in range(5 * 5):
        aggregate.handle(feeder.totals())
    assert view(aggregate).stall_per_row()[0] == pytest.approx(0.5, abs=0.06)
    assert view(aggregate).latency_per_row()[0]["count"] == 1
    for _ in range(8 * 5):
        aggregate.handle(feeder.totals())
    assert view(aggregate).stall_per_row()[0] == 0


def test_modes_and_waiter_classes_are_never_mixed() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    feeder.own(vm, VCPU_OTHER, 40)
    aggregate = aggregate_of(feeder)
    feeder.fault(vm, 0, 1 * MS, 1)
    feeder.fault(vm, 0, 2 * MS, 2, MODE_EXIT)
    feeder.fault(vm, 0, 3 * MS, 3, MODE_ASYNC)
    feeder.fault(vm, 0, 1_000, 400, MODE_KERNEL)
    feeder.fault(vm, VCPU_OTHER, 900 * MS, 50)
    aggregate.handle(feeder.totals())
    modes = view(aggregate).modes()
    assert {mode: values["count"] for mode, values in modes.items()} == {
        "uffd": 1, "exit": 2, "async": 3, "kernel": 400}  # fmt: skip
    assert view(aggregate).latency_per_row()[0]["count"] == 6  # without mode kernel
    assert faults(aggregate, vm.id)["uffd"] == 1
    selection = select(aggregate, vm.id)
    assert selection is not None
    assert [vcpu for _, vcpu in selection.vcpus] == [0]
    assert View(aggregate, selection.other_rows, 10 * S).everything()["count"] == 50


def test_all_is_the_sum_over_running_vms() -> None:
    feeder = Feeder()
    one, two = feeder.add_vm(1, 2), feeder.add_vm(2, 3)
    aggregate = aggregate_of(feeder)
    feeder.fault(one, 1, 1 * MS, 10)
    feeder.fault(two, 2, 2 * MS, 5)
    feeder.exit(one, 0, "EFAULT", 3)
    aggregate.handle(feeder.totals())
    selection = select(aggregate, "")
    assert selection is not None
    assert selection.id == ALL
    assert selection.layout == ((one.id, 0), (one.id, 1), (two.id, 0), (two.id, 1), (two.id, 2))
    assert view(aggregate).modes()["uffd"]["count"] == 15
    assert view(aggregate).exits() == {"EFAULT": 3}


def test_exits_are_named() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    for name in EXIT_NAMES:
        feeder.exit(vm, 0, name, 2)
    aggregate.handle(feeder.totals())
    assert view(aggregate).exits() == dict.fromkeys(EXIT_NAMES, 2)


def _end(feeder: Feeder, aggregate: Aggregate, vm: FakeVm) -> None:
    feeder.vms[vm.number].state = "gone"
    aggregate.handle(feeder.vms_message())


def test_a_vm_that_ended_stays_for_ten_minutes_with_its_last_totals() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    aggregate = aggregate_of(feeder)
    feeder.fault(vm, 0, 1 * MS, 9)
    aggregate.handle(feeder.totals())
    _end(feeder, aggregate, vm)
    feeder.fault(vm, 1, 1 * MS, 1)  # counted before the end, told after it
    aggregate.handle(feeder.totals())
    feeder.remove_vm(1)
    for _ in range(599):
        aggregate.handle(feeder.vms_message())
        aggregate.handle(feeder.totals(S))
    (listed,) = vm_list(aggregate)
    assert (listed["state"], listed["vcpus"], listed["faults"]["uffd"]) == ("gone", 2, 10)
    assert view(aggregate, vm.id, "15m").modes()["uffd"]["count"] == 10
    for _ in range(2):
        aggregate.handle(feeder.totals(S))
        aggregate.handle(feeder.vms_message())
    assert vm_list(aggregate) == []
    assert aggregate.rows.free == rows_module.MAX_ROWS - 1


def test_a_vm_that_is_killed_amid_a_fault_stalls_no_longer() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    feeder.vcpus[vm.slots[0]]["open_since_ns"] = feeder.time_ns
    for _ in range(10):
        aggregate.handle(feeder.totals())
    _end(feeder, aggregate, vm)
    for _ in range(30):
        aggregate.handle(feeder.totals())
    assert view(aggregate, vm.id, "30s").stall_per_row()[0] == pytest.approx(0.25)


def test_hundreds_of_vms_come_and_go_and_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vms_module, "MAX_VMS", 20)
    feeder = Feeder()
    aggregate = aggregate_of(feeder)
    aggregate.vms._free = list(range(20, 0, -1))
    for number in range(1, 301):
        vm = feeder.add_vm(number, 8)
        aggregate.handle(feeder.vms_message())
        feeder.fault(vm, 3, 1 * MS, number)
        aggregate.handle(feeder.totals())
        _end(feeder, aggregate, vm)
        feeder.remove_vm(number)
    listed = vm_list(aggregate)
    assert [entry["faults"]["uffd"] for entry in listed] == list(range(281, 301))
    assert aggregate.ledger["server_full"] == 0


def test_gone_vms_give_their_rows_to_running_ones_and_keep_their_totals() -> None:
    feeder = Feeder(max_vcpus=1024)
    aggregate = aggregate_of(feeder)
    for number in range(1, 6):
        vm = feeder.add_vm(number, 256)
        feeder.fault(vm, 255, 1 * MS, 5)
        aggregate.handle(feeder.vms_message())
        aggregate.handle(feeder.totals())
        _end(feeder, aggregate, vm)
        feeder.remove_vm(number)
    assert aggregate.ledger["server_full"] == 0
    assert aggregate.rows.resting <= rows_module.MAX_RESTING
    assert [entry["faults"]["uffd"] for entry in vm_list(aggregate)] == [5] * 5
    assert [entry["vcpus"] for entry in vm_list(aggregate)] == [256] * 5


def test_more_vcpus_than_rows_are_refused_and_each_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_ROWS", 101)
    feeder = Feeder(max_vcpus=1024)
    feeder.add_vm(1, 1000)
    aggregate = aggregate_of(feeder)
    for _ in range(3):
        aggregate.handle(feeder.totals())
    assert aggregate.ledger["server_full"] == 900


def test_as_many_vcpus_as_a_collector_follows_have_room() -> None:
    feeder = Feeder(max_vcpus=MAX_VCPUS)
    for number in range(1, 601):
        feeder.add_vm(number, 3)
    aggregate = aggregate_of(feeder)
    feeder.fault(feeder.vms[600], 2, 1 * MS, 7)
    aggregate.handle(feeder.totals())
    assert aggregate.ledger["server_full"] == 0
    listed = vm_list(aggregate)
    assert len(listed) == 600 and {entry["vcpus"] for entry in listed} == {3}
    assert listed[-1]["faults"]["uffd"] == 7


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"vms": 5},
        {"vms": [{"vm": 0, "id": "x", "pid": 1}]},
        {"vms": [{"vm": 1, "id": "x" * 999, "pid": 1}]},
    ],
)
def test_a_vms_frame_that_does_not_fit_is_a_wire_error(meta: dict[str, object]) -> None:
    with pytest.raises(WireError, match="VMS frame: vms"):
        Aggregate().handle(Message(Kind.VMS, 1, meta))


def test_slots_and_cells_out_of_range_do_no_harm() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    message = feeder.totals()
    cells = np.zeros(2, message.arrays["cells"].dtype)
    cells["cell"], cells["count"] = [0xFFFF_FFFF, 300 * 19 * 592], 7
    wild = message.arrays | {"cells": cells, "slots": message.arrays["slots"] + np.uint32(0xFFFF_0000)}
    aggregate.handle(Message(Kind.TOTALS, message.time_ns, {"loss": {"ring_full": -1, "x": "y"}}, wild))
    assert faults(aggregate, vm.id)["uffd"] == 0
    assert aggregate.losses["ring_full"] == 0


def test_frames_survive_the_wire() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 4)
    feeder.fault(vm, 2, 5 * MS, 3)
    for message in [*feeder.welcome(), feeder.records(vm, [1, 2])]:
        data = encode(message)
        header = decode_header(data[:32])
        again = decode_body(header, data[32:])
        assert again.meta == message.meta
        assert again.arrays.keys() == message.arrays.keys()
        assert all((again.arrays[name] == array).all() for name, array in message.arrays.items())


def test_the_slowest_faults_of_a_window_come_first_and_leave_with_it() -> None:
    feeder = Feeder()
    one, two = feeder.add_vm(1, 1), feeder.add_vm(2, 1)
    aggregate = aggregate_of(feeder)
    aggregate.handle(feeder.records(one, [9 * S]))
    for number in range(40):
        aggregate.handle(feeder.records(one, [n * MS + number for n in range(30)]))
        aggregate.handle(feeder.records(two, [S]))
        aggregate.handle(feeder.records(one, [5 * S], waiter=2))
        aggregate.handle(feeder.totals(S // 2))
    slowest = aggregate.slowest.over(10 * S, feeder.time_ns, [1])
    assert len(slowest) == 10
    assert slowest["serve_ns"].max() < 30 * MS
    assert (np.diff(slowest["serve_ns"].astype(np.int64)) <= 0).all()
    assert aggregate.slowest.over(60 * S, feeder.time_ns, [1])["serve_ns"][0] == 9 * S
    assert aggregate.slowest.over(900 * S, feeder.time_ns, [1, 2])["serve_ns"].tolist() == [9 * S] + [S] * 9


def test_ticks_are_one_per_second_with_a_heat_row_per_vcpu() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    aggregate = aggregate_of(feeder)
    for _ in range(10 * 5):
        feeder.fault(vm, 1, 2 * MS, 4)
        aggregate.handle(feeder.totals())
    selection = select(aggregate, vm.id)
    assert selection is not None
    ticks = aggregate.series.ticks(selection.series_row, selection.rows)
    assert len(ticks) == 10
    assert np.diff([tick["time_ns"] for tick in ticks]).tolist() == [S] * 9
    assert ticks[5]["modes"]["uffd"]["rate_per_s"] == pytest.approx(20)
    assert ticks[5]["heat"][0] is None
    assert ticks[5]["heat"][1] == pytest.approx(2 * MS, rel=0.04)
