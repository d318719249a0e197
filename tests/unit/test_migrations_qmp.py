"""Migrations are recognised by what QEMU says, beside what the kernel shows."""

from itertools import pairwise
from typing import Any

import pytest

from .frames import S
from .migrating import MS, Host, valid


def test_qemu_says_it() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU", uffds=0)
    host.qmp(vm, None)
    host.totals(1)
    host.qmp(vm, "setup", "destination")  # it listens
    host.totals(1)
    assert host.listed == []
    begun_ns = host.feeder.time_ns
    host.qmp(vm, "active", "destination")
    host.totals(2)
    assert (host.only["kind"], host.only["state"], host.only["how"]) == ("precopy", "active", "qmp")
    switched_ns = host.feeder.time_ns
    host.page(vm, demand=4, background=9)
    host.totals(0.8)
    host.qmp(vm, "postcopy-active", "destination")
    host.page(vm, demand=1, background=90)
    last_ns = host.feeder.time_ns + S // 5
    host.totals(1)
    host.qmp(vm, "completed", "destination", vcpu_blocktime_ns=[5 * MS, 0])
    host.totals(1)
    one = valid(host.only)
    assert (one.kind, one.state, one.how, one.role) == ("postcopy", "completed", "qmp", "destination")
    assert (one.from_ns, one.to_ns) == (begun_ns, last_ns)
    assert [(phase.name, phase.from_ns) for phase in one.phases] == [
        ("precopy", begun_ns), ("postcopy", switched_ns - MS),
    ]  # fmt: skip
    assert one.missing_from_ns == switched_ns - MS
    assert one.qmp is not None and one.qmp["vcpu_blocktime_ns"] == [5 * MS, 0]
    assert (one.fills.demand, one.fills.background) == (5, 99)
    assert [sample.status for sample in one.samples] == ["active", "postcopy-active", "completed"]
    host.qmp(vm, "completed", "destination")
    host.totals(8)
    assert len(host.listed) == 1


def test_a_throttled_one_does_not_end_by_itself() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.qmp(vm, "postcopy-active", "destination")
    host.page(vm, demand=1)
    host.totals(1)
    host.qmp(vm, "postcopy-paused", "destination")
    host.totals(20)
    assert host.only["state"] == "active"
    assert [phase["name"] for phase in host.only["phases"]] == ["postcopy", "postcopy-paused"]
    host.qmp(vm, "postcopy-recover", "destination")
    host.qmp(vm, "postcopy-active", "destination")
    assert [phase["name"] for phase in host.only["phases"]][2:] == ["postcopy-recover", "postcopy"]
    host.qmp(vm, None, follow="lost", reason="it closed the connection.")
    host.totals(10)
    one = valid(host.only)
    assert one.state == "ended"
    assert any("does not answer any more (it closed the connection)" in sentence for sentence in one.evidence)


def test_the_kernel_is_quicker_than_qemu() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.page(vm, demand=4)
    begun_ns = host.feeder.time_ns - MS
    host.totals(0.4)
    assert host.only["how"] == "kernel"
    host.qmp(vm, "postcopy-active", "destination")
    host.totals()
    one = valid(host.only)
    assert (one.how, one.from_ns) == ("qmp", begun_ns)
    assert [(phase.name, phase.from_ns) for phase in one.phases] == [("postcopy", begun_ns)]


def test_qemus_last_word_comes_later() -> None:
    """It was all over between two answers; its account is wanted all the same."""
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.qmp(vm, None)
    host.page(vm, demand=4)
    host.totals(0.4)
    host.look(uffds=[])
    host.totals(0.6)
    assert host.only["state"] == "completed"
    host.qmp(vm, "completed", "destination", vcpu_blocktime_ns=[1])
    host.totals(1)
    one = valid(host.only)
    assert one.qmp is not None and one.qmp["vcpu_blocktime_ns"] == [1]
    assert "completed" in one.evidence[-1]


def test_one_between_two_answers() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU", uffds=0)
    host.qmp(vm, None)
    from_ns = host.feeder.time_ns
    host.totals(1)
    host.qmp(vm, "failed", "source")
    host.totals(1)
    one = valid(host.only)
    assert (one.state, one.from_ns, one.to_ns) == ("failed", from_ns, from_ns + S)
    assert "between two answers" in one.evidence[0]


def test_an_old_one_is_no_news() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU", uffds=0)
    host.qmp(vm, "completed", "source")
    host.totals(1)
    host.qmp(vm, "completed", "source")
    host.totals(1)
    assert host.listed == []


def test_when_the_source_began_and_ended() -> None:
    """It is asked from time to time; its own clock, and the other side, say it better."""
    host = Host()
    leaving, coming = host.vm(1, uffds=0, vmm="QEMU", uuid="u"), host.vm(2, vmm="QEMU", uuid="u")
    host.qmp(leaving, None)
    host.totals(2)
    host.page(coming, demand=4)
    switched_ns = host.feeder.time_ns - MS
    host.totals(0.6)
    host.qmp(leaving, "postcopy-active", "source", total_ns=900 * MS)
    began_ns = host.feeder.time_ns - 900 * MS
    host.totals(1)
    host.qmp(leaving, "completed", "source", total_ns=1700 * MS)
    host.totals(1)
    one = valid(host.listed[0])
    assert (one.role, one.from_ns, one.to_ns) == ("source", began_ns, began_ns + 1700 * MS)
    assert [(phase.name, phase.from_ns) for phase in one.phases] == [("precopy", began_ns), ("postcopy", switched_ns)]
    assert one.other == host.listed[1]["id"]


def both_sides(source: dict[str, Any], destination: dict[str, Any]) -> list[dict[str, Any]]:
    host = Host()
    leaving, coming = host.vm(1, uffds=0, vmm="QEMU", **source), host.vm(2, vmm="QEMU", **destination)
    host.qmp(leaving, "active", "source", remaining_bytes=1000)
    host.qmp(coming, "active", "destination")
    host.totals()
    return host.listed


@pytest.mark.parametrize(
    ("source", "destination", "paired"),
    [
        ({"uuid": "a", "name": "x"}, {"uuid": "a", "name": "y"}, True),
        ({"name": "x"}, {"name": "x"}, True),
        ({"uuid": "a", "name": "x"}, {"uuid": "b", "name": "x"}, False),
    ],
)
def test_both_sides_on_this_host(source: dict[str, Any], destination: dict[str, Any], paired: bool) -> None:
    first, second = both_sides(source, destination)
    assert (first["other"], second["other"]) == ((second["id"], first["id"]) if paired else (None, None))
    assert not any("inferred" in sentence for one in (first, second) for sentence in one["evidence"])


def test_both_sides_inferred() -> None:
    first, second = both_sides({"name": "x"}, {"name": "y"})
    assert (first["other"], second["other"]) == (second["id"], first["id"])
    assert "inferred" in first["evidence"][-1] and "inferred" in second["evidence"][-1]


def test_samples_are_thinned_out() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU", uffds=0)
    for i in range(3000):
        host.feeder.time_ns += S
        host.qmp(vm, "active" if i != 1501 else "device", "source", remaining_bytes=3000 - i)
    samples = host.only["samples"]
    assert 300 < len(samples) <= 900
    assert [samples[0]["remaining_bytes"], samples[-1]["remaining_bytes"]] == [3000, 1]
    assert "device" in [sample["status"] for sample in samples]
    apart = [b["at_ns"] - a["at_ns"] for a, b in pairwise(samples)]
    assert min(apart) > 0 and max(apart) <= 16 * S
    assert host.listed[0]["samples"] == []


def test_a_late_fault_is_no_further_migration() -> None:
    """QEMU has said that it is complete; the last faults are counted afterwards, its userfaultfd still open."""
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.qmp(vm, "postcopy-active", "destination")
    host.page(vm, demand=100, latency_ns=20 * MS)
    host.totals(2)
    host.qmp(vm, "completed", "destination")
    host.totals(0.6)
    before = host.only
    for _ in range(3):
        host.page(vm, demand=1, latency_ns=3 * MS)
        host.totals(2)
    host.feeder.vcpus[vm.slots[0]]["open_since_ns"] = host.feeder.time_ns
    host.totals(1)
    host.qmp(vm, None, follow="lost", reason="another client holds it")
    host.page(vm, demand=1)
    host.totals(2)
    assert host.only == before and before["state"] == "completed"


def test_a_monitor_that_vanishes_says_nothing_of_success() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.qmp(vm, "postcopy-active", "destination")
    host.page(vm, demand=4)
    host.totals(1)
    host.qmp(vm, None, follow="lost", reason="it closed the connection.")
    host.look(uffds=[])
    host.totals(1)
    assert host.only["state"] == "ended"
    host.qmp(vm, "completed", "destination")
    assert host.only["state"] == "completed", "its last word may come late"
    host.page(vm, demand=1)
    host.totals(2)
    assert len(host.listed) == 1


@pytest.mark.parametrize(("said", "state"), [(None, "failed"), ("failed", "failed"), ("completed", "completed")])
def test_a_source_that_ends_is_judged_by_its_destination(said: str | None, state: str) -> None:
    host = Host()
    source, destination = host.vm(1, vmm="QEMU", uffds=0, uuid="u"), host.vm(2, vmm="QEMU", uuid="u")
    host.qmp(source, "postcopy-active", "source")
    host.qmp(destination, "postcopy-active", "destination")
    host.page(destination, demand=3)
    host.totals(1)
    source.state = "gone"
    host.send(host.vms())
    if said:
        host.qmp(destination, said, "destination")
    host.totals(4)
    states = {one["role"]: one["state"] for one in host.listed}
    assert states["source"] == state
