"""The threads that serve a VM: who is listed, how busy they are, what they served, and who is named at a slow fault."""

from typing import Any

import numpy as np
import pytest

from exitscope import threads as threads_module
from exitscope.aggregate import Aggregate
from exitscope.frame import build, select, vm_list
from exitscope.models import Vms
from exitscope.source import Status
from exitscope.vms import ALL
from exitscope_probes.wire import Message, WireError

from .frames import Feeder, S
from .test_aggregate import aggregate_of

MS = 1_000_000


class Told(Feeder):
    """A feeder that tells threads. told: VM number -> fields of its VMS entry."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[int, dict[str, Any]] = {}

    def vms_message(self) -> Message:
        message = super().vms_message()
        for vm in message.meta["vms"]:
            vm.update(self.told.get(vm["vm"], {}))
        return message


def thread(tid: int, name: str, role: str | None = None, cpu_ns: int | None = None) -> dict[str, Any]:
    return {"tid": tid, "name": name, "cpu_ns": cpu_ns} | ({"role": role} if role else {})


def shown(aggregate: Aggregate, vm_id: str = "", length_ns: int = 10 * S) -> dict[str, Any]:
    return build(aggregate, Status("live"), select(aggregate, vm_id), length_ns, 1, 0)


def seconds(feeder: Told, aggregate: Aggregate, count: int, **busy_ns: int) -> None:
    """Discovery once a second; busy_ns: name of a thread -> CPU time that it takes in each second."""
    for _ in range(count):
        for _ in range(5):
            aggregate.handle(feeder.totals())
        for told in feeder.told.values():
            for one in (*told.get("threads", ()), *told.get("handlers", ())):
                one["cpu_ns"] = (one["cpu_ns"] or 0) + busy_ns.get(one["name"].replace("/", "_"), 0)
        aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals(0))


def test_a_thread_is_as_busy_as_its_cpu_time_grew() -> None:
    feeder = Told()
    vm = feeder.add_vm(1, 1)
    feeder.told[1] = {
        "threads": [thread(500, "mig/dst/fault", "uffd reader", 7 * S), thread(501, "fault-fast", "page copier", 0),
                    thread(4001, "qemu", "main")],
    }  # fmt: skip
    aggregate = aggregate_of(feeder)
    assert [one["busy"] for one in shown(aggregate)["threads"]] == [None, None, None]
    seconds(feeder, aggregate, 20, mig_dst_fault=750 * MS)
    feeder.told[1]["threads"][2]["cpu_ns"] = None  # could not be read
    aggregate.handle(feeder.vms_message())
    for length_ns in (S, 10 * S, 60 * S):
        assert shown(aggregate, length_ns=length_ns)["threads"] == [
            {"tid": 500, "vm": vm.id, "name": "mig/dst/fault", "role": "uffd reader",
             "busy": pytest.approx(0.75, abs=0.01), "served": 0},
            {"tid": 501, "vm": vm.id, "name": "fault-fast", "role": "page copier", "busy": 0, "served": 0},
            {"tid": 4001, "vm": vm.id, "name": "qemu", "role": "main", "busy": pytest.approx(0, abs=0.01), "served": 0},
        ]  # fmt: skip


def test_share_is_of_the_time_between_samples_however_they_fall_into_the_window() -> None:
    feeder = Told()
    feeder.add_vm(1, 1)
    feeder.told[1] = {"threads": [thread(500, "reader", "uffd reader", 0)]}
    aggregate = aggregate_of(feeder)
    for number in range(40):
        frames = 3 + number % 7  # every 0.6 to 1.8 s
        feeder.told[1]["threads"][0]["cpu_ns"] += frames * 200 * MS
        for _ in range(frames):
            aggregate.handle(feeder.totals())
        aggregate.handle(feeder.vms_message())
        aggregate.handle(feeder.totals())
        feeder.told[1]["threads"][0]["cpu_ns"] += 200 * MS
        aggregate.handle(feeder.vms_message())  # too soon for a sample
        if number:
            for length_ns in (S, 5 * S, 60 * S):
                busy = shown(aggregate, length_ns=length_ns)["threads"][0]["busy"]
                assert busy == pytest.approx(1, abs=0.001)


def test_another_thread_with_the_id_of_one_that_ended_is_not_busier_than_time_allows() -> None:
    feeder = Told()
    feeder.add_vm(1, 1)
    feeder.told[1] = {"threads": [thread(500, "reader", "uffd reader", 500 * S)]}
    aggregate = aggregate_of(feeder)
    seconds(feeder, aggregate, 3)
    feeder.told[1]["threads"] = [thread(500, "copier", "page copier", 0)]
    seconds(feeder, aggregate, 3, copier=S)
    (only,) = shown(aggregate, length_ns=S)["threads"]
    assert (only["name"], only["busy"]) == ("copier", 1)


def test_handlers_are_counted_by_what_they_served_and_vcpus_that_serve_themselves_are_no_handlers() -> None:
    feeder = Told()
    vm = feeder.add_vm(1, 2)
    feeder.told[1] = {
        "threads": [thread(500, "fault-default", "uffd reader"), thread(501, "CPU 7/KVM", "vCPU 7")],
        "handlers": [thread(600, "pager"), thread(9000, "CPU 0/KVM")],
    }
    aggregate = aggregate_of(feeder)
    tids = np.array([500] * 3 + [600] * 2 + [700] + [9000] * 4 + [0])
    message = feeder.records(vm, [1000] * len(tids), handler_tid=tids, tid=np.where(tids == 9000, 9000, 9001))
    aggregate.handle(message)
    aggregate.handle(feeder.totals())
    listed = {one["tid"]: (one["name"], one["role"], one["served"]) for one in shown(aggregate)["threads"]}
    assert listed == {
        500: ("fault-default", "uffd reader", 3),
        600: ("pager", "handler", 2),
        700: ("thread 700", "handler", 1),  # discovery has not named it yet
    }
    seconds(feeder, aggregate, 12)
    assert [(one["tid"], one["served"]) for one in shown(aggregate)["threads"]] == [(500, 0)]
    assert [(one["tid"], one["served"]) for one in shown(aggregate, length_ns=60 * S)["threads"]] == [
        (500, 3), (600, 2), (700, 1)]  # fmt: skip


def test_what_was_served_before_the_vm_was_named_counts_when_it_is() -> None:
    feeder = Told()
    aggregate = aggregate_of(feeder)
    vm = feeder.add_vm(1, 1)
    aggregate.handle(feeder.records(vm, [1000] * 4, handler_tid=500, tid=9000))
    aggregate.handle(feeder.totals())
    aggregate.handle(feeder.records(vm, [1000], handler_tid=500, tid=9000))
    aggregate.handle(feeder.vms_message())  # it lived for a moment, and there is no fault any more
    aggregate.handle(feeder.totals())
    assert [(one["tid"], one["served"]) for one in shown(aggregate)["threads"]] == [(500, 5)]


def test_a_handler_that_comes_without_a_role_has_the_one_that_its_name_says() -> None:
    feeder = Told()
    vm = feeder.add_vm(1, 1)
    feeder.told[1] = {"handlers": [thread(600, "uffd-handler-3"), thread(601, "mig/dst/preempt"), thread(602, "")]}
    aggregate = aggregate_of(feeder)
    aggregate.handle(feeder.records(vm, [1000] * 3, handler_tid=np.array([600, 601, 602]), tid=9000))
    aggregate.handle(feeder.totals())
    roles = ["uffd handler", "page copier", "handler"]
    assert [one["role"] for one in shown(aggregate)["threads"]] == roles
    assert [one["role"] for one in vm_list(aggregate)[0]["threads"]] == roles


def test_a_slow_fault_names_the_thread_that_served() -> None:
    feeder = Told()
    vm = feeder.add_vm(1, 1)
    feeder.told[1] = {"threads": [thread(500, "fault-fast", "page copier")], "handlers": [thread(600, "pager")]}
    aggregate = aggregate_of(feeder)
    for latency_ns, tid in ((5, 500), (4, 600), (3, 9000), (2, 777), (1, 0)):
        aggregate.handle(feeder.records(vm, [latency_ns * MS], handler_tid=tid))
    aggregate.handle(feeder.totals())
    assert [one["handler"] for one in shown(aggregate)["slowest"]] == [
        {"name": "fault-fast", "role": "page copier"},
        {"name": "pager", "role": "handler"},
        {"name": "CPU 0/KVM", "role": "vCPU 0"},
        None,
        None,
    ]


def test_a_vm_tells_who_it_is_and_what_its_threads_are_for() -> None:
    feeder = Told()
    one, two = feeder.add_vm(1, 1), feeder.add_vm(2, 1)
    feeder.told[1] = {
        "uuid": "d2b1f1a0-0000-4000-8000-000000000001", "domain": "db-3",
        "threads": [thread(501, "vhost-4001", "vhost"), thread(4001, "qemu", "main"), thread(7, "vcpu3", "vCPU 3")],
        "handlers": [thread(600, "pager"), thread(9000, "CPU 0/KVM")],
    }  # fmt: skip
    aggregate = aggregate_of(feeder)
    first, second = vm_list(aggregate)
    assert (first["uuid"], first["domain"]) == ("d2b1f1a0-0000-4000-8000-000000000001", "db-3")
    assert first["threads"] == [
        {"tid": 501, "name": "vhost-4001", "role": "vhost"},
        {"tid": 600, "name": "pager", "role": "handler"},
        {"tid": 4001, "name": "qemu", "role": "main"},
    ]
    assert (second["uuid"], second["domain"], second["threads"]) == (None, None, [])
    Vms.model_validate({"vms": [first, second]})
    assert [vm["id"] for vm in shown(aggregate, ALL)["vms"]] == [one.id, two.id]
    assert "threads" not in shown(aggregate)["vms"][0]


def test_threads_are_bounded_and_the_ones_not_seen_for_longest_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "MAX_THREADS", 8)
    feeder = Told()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    for tid in range(1, 101):
        aggregate.handle(feeder.records(vm, [1000], handler_tid=tid, tid=999))
        aggregate.handle(feeder.totals(MS))
    assert [one["tid"] for one in shown(aggregate, length_ns=900 * S)["threads"]] == list(range(1, 9))
    seconds(feeder, aggregate, 10)
    aggregate.handle(feeder.records(vm, [1000], handler_tid=500, tid=999))
    aggregate.handle(feeder.totals())
    assert {one["tid"]: one["served"] for one in shown(aggregate, length_ns=900 * S)["threads"]}[500] == 1
    feeder.remove_vm(1)
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals(601 * S))
    aggregate.handle(feeder.vms_message())
    assert len(aggregate.threads._free) == 8


@pytest.mark.parametrize(
    "fields",
    [
        {"threads": [{"tid": 0}]},
        {"threads": [{"tid": 1, "cpu_ns": -1}]},
        {"threads": [{"tid": 1, "cpu_ns": 1 << 63}]},
        {"handlers": [{"tid": 1}] * 5000},
    ],
)
def test_what_does_not_fit_is_a_wire_error(fields: dict[str, Any]) -> None:
    feeder = Told()
    feeder.add_vm(1, 1)
    feeder.told[1] = fields
    with pytest.raises(WireError, match="VMS frame: vms"):
        Aggregate().handle(feeder.vms_message())


def test_names_that_are_too_long_are_cut() -> None:
    feeder = Told()
    feeder.add_vm(1, 1, id="one")
    feeder.told[1] = {"uuid": "x" * 300, "threads": [{"tid": 1, "name": "y" * 300, "role": "main"}]}
    aggregate = Aggregate()
    aggregate.handle(feeder.vms_message())
    vm = aggregate.vms.get("one")
    assert vm is not None and vm.peer.uuid == "x" * 255 + "…" and vm.peer.threads[0].name == "y" * 255 + "…"
