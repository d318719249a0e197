"""Alarms of handlers that vanish or stand still, and of VMs that die."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from exitscope_probes.records import EXIT_NAMES, MODE_KERNEL, MODE_UFFD, RESOLVERS, SEEN_READ
from exitscope_probes.wire import Kind, Message

from .alarm_scene import MS, Scene, thread
from .frames import FakeVm, S

READER, LISTENER = thread(700, "uffd reader", "fault-default"), thread(701, "page copier", "postcopy/listen")
PROCESS = {"tid": 900, "name": "uffd-server", "cpu_ns": 5}


def migrating(vcpus: int = 4, threads: Sequence[dict[str, Any]] = (READER, LISTENER)) -> tuple[Scene, FakeVm]:
    scene = Scene()
    vm = scene.feeder.add_vm(1, vcpus, id="one")
    scene.threads[1] = [*threads, thread(4001, "main")]
    scene.start()
    scene.go(1)
    return scene, vm


def test_a_reader_that_vanishes_while_vcpus_wait() -> None:
    scene, vm = migrating()
    scene.wait(vm, 2)
    scene.wait(vm, 3)
    scene.threads[1] = [LISTENER]
    scene.go(0.8)
    alarm = scene.one("handler_gone")
    assert (alarm.vm, alarm.vcpu, alarm.severity) == ("one", 2, "critical")
    assert alarm.message == "The uffd reader fault-default (700) vanished, and 2 vCPUs of fake wait for pages."
    scene.threads[1] = [READER, LISTENER]
    scene.resolve(vm, 2)
    scene.resolve(vm, 3)
    scene.go(4)
    assert scene.kinds == []


def test_a_migration_that_ends_in_order() -> None:
    """QEMU ends its fault thread, then closes the userfaultfd, then the thread that received the pages ends."""
    scene, vm = migrating()
    scene.wait(vm, 0)
    scene.go(0.2)
    scene.resolve(vm, 0)
    scene.threads[1] = [LISTENER]
    scene.go(2)
    scene.uffds[1] = False
    scene.go(2)
    scene.threads[1] = []
    scene.go(10)
    scene.wait(vm, 0)
    scene.go(0.8)
    assert scene.alarms.listed().alarms == []


def test_a_userfaultfd_that_outlives_its_handler() -> None:
    scene, _ = migrating()
    scene.threads[1] = []
    assert scene.go(4) == []
    scene.go(2)
    alarm = scene.one("handler_gone")
    assert (alarm.severity, alarm.vcpu) == ("warning", None)
    assert "the userfaultfd of fake is still registered" in alarm.message
    scene.uffds[1] = False
    scene.go(4)
    assert scene.kinds == []


@pytest.mark.parametrize("cpu_ns", [None, 5])
def test_a_handler_in_another_process(cpu_ns: int | None) -> None:
    """The collector remembers who filled pages; of a process that has ended it has no CPU time to tell."""
    scene, vm = migrating(threads=[])
    scene.handlers[1] = [PROCESS]
    scene.go(0.4)
    vm.total = 1
    scene.wait(vm, 1)
    scene.handlers[1] = [PROCESS | {"cpu_ns": cpu_ns}]
    scene.go(0.8)
    said = [alarm.message for alarm in scene.active]
    told = "The fault handler uffd-server (900) vanished, and 1 vCPU of fake waits for pages."
    assert said == ([told] if cpu_ns is None else [])


def test_some_of_many_handlers_may_end() -> None:
    scene, vm = migrating(threads=[])
    scene.threads[1] = [thread(700 + n, "uffd handler", f"uffd-handler-{n}") for n in range(6)]
    scene.go(0.4)
    scene.threads[1] = scene.threads[1][:1]
    scene.wait(vm, 0)
    assert scene.go(0.8) == []
    scene.threads[1] = []
    scene.go(0.4)
    assert "uffd-handler-0 (700) vanished" in scene.one("handler_gone").message


def test_events_that_nobody_reads() -> None:
    scene, vm = migrating()
    for vcpu in range(4):
        scene.wait(vm, vcpu)
    vm.pending, vm.total = 3, 4
    scene.go(1.2)
    assert "handler_stuck" not in scene.kinds
    scene.go(0.4)
    alarm = scene.one("handler_stuck")
    assert (alarm.vm, alarm.severity, alarm.value_ns, alarm.limit_ns) == ("one", "critical", 1400 * MS, S)
    assert alarm.message == (
        "3 faults of fake are queued unread, nothing has been read or filled for 1.4 s, and 4 vCPUs wait."
    )
    scene.feeder.fill(vm, "COPY", demand=False)
    scene.go(0.8)
    assert scene.one("handler_stuck") == alarm, "nothing new was found: it is held"
    for _ in range(6):
        scene.feeder.fill(vm, "COPY", demand=False)
        scene.go(0.6)
    assert "handler_stuck" not in scene.kinds
    assert "vcpu_stalled" in scene.kinds


def test_events_that_are_read_and_not_filled() -> None:
    scene, vm = migrating()
    scene.wait(vm, 1)
    vm.pending, vm.total = 0, 1
    vm.totals["events_read"] = 1
    scene.go(2)
    assert scene.one("handler_stuck").message == (
        "The fault of fake has been read, no page has been filled for 1.8 s, and 1 vCPU waits."
    )


def test_a_handler_that_reads_slowly_is_not_stuck() -> None:
    scene, vm = migrating()
    scene.wait(vm, 1)
    vm.pending, vm.total = 5, 9
    for _ in range(5):
        vm.totals["events_read"] += np.uint64(1)
        scene.go(0.8)
    assert "handler_stuck" not in scene.kinds
    for _ in range(5):
        scene.feeder.vcpus[vm.slots[0]]["named_reads"] += 1
        scene.go(0.8)
    assert "handler_stuck" not in scene.kinds


def test_faults_without_a_userfaultfd_have_no_handler() -> None:
    scene = Scene()
    vm = scene.feeder.add_vm(1, 1, id="one")
    scene.uffds[1] = False
    scene.start()
    scene.wait(vm, 0)
    scene.go(4)
    assert scene.kinds == ["vcpu_stalled"]


def test_a_destination_killed_amid_its_faults() -> None:
    scene, vm = migrating()
    scene.wait(vm, 0)
    scene.wait(vm, 3)
    vm.pending, vm.total = 1, 2
    scene.go(0.4)
    scene.kill(vm)
    scene.go(0.2, vms=False)
    alarm = scene.one("vm_died")
    assert (alarm.vm, alarm.vm_name, alarm.severity) == ("one", "fake", "critical")
    assert alarm.message == "fake ended in the middle of its postcopy migration with 2 faults unresolved."
    scene.go(0.4)
    assert scene.kinds == ["vm_died"]
    scene.feeder.remove_vm(1)
    scene.go(28)
    assert scene.kinds == ["vm_died"]
    scene.go(4)
    assert scene.kinds == []
    assert [alarm.kind for alarm in scene.ended] == ["vm_died"] and scene.ended[0].ended_ns
    assert scene.alarms.oldest_faults == []


def test_the_other_alarms_of_a_vm_that_dies_end_with_it() -> None:
    scene, vm = migrating()
    for vcpu in range(4):
        scene.wait(vm, vcpu)
    vm.pending = vm.total = 4
    scene.threads[1] = []
    scene.go(6)
    assert scene.kinds == ["handler_gone", "oldest_fault", "vcpu_stalled"]
    scene.kill(vm)
    scene.go(0.4)
    assert scene.kinds == ["vm_died"]
    assert scene.one("vm_died").message == (
        "fake ended in the middle of its postcopy migration with 4 faults unresolved, the oldest for 6.0 s."
    )
    assert {alarm.kind for alarm in scene.ended} == {"handler_gone", "oldest_fault", "vcpu_stalled"}


def test_a_vm_that_ends_in_order_between_two_looks() -> None:
    """At the last look it waited, as busy ones nearly always do; then it was served, and ended."""
    scene, vm = migrating(threads=[thread(700, "uffd handler")])
    scene.wait(vm, 0)
    scene.go(0.4)
    scene.resolve(vm, 0)
    scene.kill(vm)
    scene.go(1)
    assert scene.alarms.listed().alarms == []


def test_a_destination_killed_while_none_of_its_vcpus_waits() -> None:
    scene, vm = migrating()
    scene.wait(vm, 0)
    scene.go(0.4)
    scene.resolve(vm, 0)
    scene.go(0.4)
    scene.kill(vm)
    scene.go(0.4)
    assert scene.one("vm_died").message == "fake ended in the middle of its postcopy migration."


def test_a_source_that_ends_after_its_migration_has_not_died() -> None:
    scene = Scene()
    vm = scene.feeder.add_vm(1, 2, id="one")
    scene.uffds[1] = False
    scene.start()
    scene.go(1)
    for status in ("active", "postcopy-active"):
        meta = {"vm": 1, "id": "one", "follow": "followed", "at_ns": scene.feeder.time_ns, "status": status}
        scene.aggregate.handle(Message(Kind.MIGRATION, scene.feeder.time_ns, meta | {"role": "source"}))
        scene.go(0.4)
    assert [course.state for course in scene.aggregate.migrations.courses()] == ["active"]
    scene.kill(vm)
    scene.go(4)
    assert scene.alarms.listed().alarms == []


def test_another_vms_death_is_not_its_own() -> None:
    scene, vm = migrating()
    other = scene.feeder.add_vm(2, 2, id="two")
    scene.go(4)
    scene.wait(other, 0)
    scene.go(0.4)
    scene.kill(other)
    scene.go(0.2)
    scene.kill(vm)
    scene.go(1)
    assert [alarm.vm for alarm in scene.active] == ["two"]


def test_a_collector_that_starts_again_kills_nobody() -> None:
    scene, vm = migrating()
    scene.wait(vm, 0)
    scene.go(0.4)
    scene.feeder.started_ns += 1
    scene.feeder.loss["unmatched_begin"] = 7
    scene.start()
    scene.go(0.4)
    scene.feeder.remove_vm(1)
    scene.feeder.started_ns += 1
    scene.start()
    scene.go(2)
    assert "vm_died" not in scene.kinds


def test_a_userfaultfd_that_is_closed_under_a_waiter() -> None:
    """The handler's process held the only descriptor and is killed: the vCPU goes on with a page of zeros."""
    scene, vm = migrating(threads=[])
    scene.handlers[1] = [PROCESS | {"pid": 899, "lives": True}]
    scene.go(1)
    scene.wait(vm, 0)
    vm.total = 1
    scene.go(0.4)
    vm.total, scene.uffds[1] = 0, False
    scene.handlers[1] = [PROCESS | {"cpu_ns": None, "pid": 899, "lives": False}]
    row = scene.feeder.vcpus[vm.slots[0]]
    row["open_since_ns"] = 0
    scene.feeder.fault(vm, 0, 400 * MS, 1, MODE_KERNEL)
    scene.go(0.4)
    alarm = scene.one("handler_gone")
    assert (alarm.vm, alarm.severity) == ("one", "critical")
    assert alarm.message == (
        "The fault handler uffd-server (900) vanished, and the userfaultfd of fake was closed: 1 fault that nobody had "
        "answered ended with it, and what had not come by then reads as zeros."
    )
    scene.go(28)
    assert scene.kinds == ["handler_gone"]
    scene.go(4)
    assert scene.kinds == []


def test_a_short_wait_that_ends_with_its_userfaultfd() -> None:
    scene, vm = migrating()
    scene.uffds[1] = False
    scene.go(0.2)
    record = scene.feeder.records(vm, [3 * MS], mode=MODE_UFFD, resolver=RESOLVERS.index("other"), seen=SEEN_READ)
    scene.aggregate.handle(record)
    scene.go(0.2)
    assert scene.one("handler_gone").message.startswith("The userfaultfd of fake was closed: 1 fault that nobody")


@pytest.mark.parametrize("pid", [4001, 899], ids=["in the VMM", "in a pager"])
def test_workers_that_come_and_go_behind_a_reader(pid: int) -> None:
    """A thread for each fault, that ends with it; who reads the events is not known, but lives."""
    scene, vm = migrating(threads=[])
    for number in range(10):
        worker = {"tid": 900 + number, "name": "pf-task", "cpu_ns": 5, "pid": pid, "lives": True}
        scene.handlers[1] = [worker]
        scene.go(0.2)
        scene.wait(vm, 1)
        vm.total = 1
        scene.handlers[1] = [worker | {"cpu_ns": None}]
        scene.go(0.6)
        scene.resolve(vm, 1)
        vm.total = 0
    scene.go(10)
    assert scene.alarms.listed().alarms == [], "also while nobody waits"
    scene.wait(vm, 1)
    vm.pending = vm.total = 1
    scene.go(0.8)
    assert "pf-task (909) vanished" in scene.one("handler_gone").message, "nobody reads"


def test_workers_whose_reader_is_known_and_lives() -> None:
    """An event that waits to be read is the reader's, who is late; once it has ended, nobody's."""
    scene, vm = migrating(threads=[])
    worker = {"tid": 909, "name": "pf-task", "cpu_ns": 5, "pid": 4001, "lives": True}
    reader = {"tid": 899, "name": "uffd-loop", "cpu_ns": 5, "pid": 4001, "lives": True, "reads": True}
    reader |= {"role": "uffd reader"}
    scene.handlers[1] = [reader, worker]
    scene.go(0.4)
    scene.handlers[1] = [reader, worker | {"cpu_ns": None}]
    scene.wait(vm, 1)
    vm.pending = vm.total = 1
    scene.go(1.6)
    assert "handler_gone" not in scene.kinds
    assert "is queued unread" in scene.one("handler_stuck").message
    scene.handlers[1] = [reader | {"cpu_ns": None}, worker | {"cpu_ns": None}]
    scene.go(0.8)
    assert "pf-task (909) vanished" in scene.one("handler_gone").message


def test_a_pager_that_has_died_with_all_its_workers() -> None:
    scene, vm = migrating(threads=[])
    worker = {"tid": 900, "name": "pf-task", "cpu_ns": 5, "pid": 899, "lives": True}
    scene.handlers[1] = [worker]
    scene.go(0.4)
    scene.wait(vm, 1)
    vm.total = 1
    scene.handlers[1] = [worker | {"cpu_ns": None, "lives": False}]
    scene.go(0.8)
    assert "pf-task (900) vanished" in scene.one("handler_gone").message


def test_another_collector_finds_the_handlers_anew() -> None:
    scene, vm = migrating(threads=[])
    scene.handlers[1] = [PROCESS]
    scene.go(1)
    scene.feeder.started_ns += 1
    scene.handlers[1], scene.threads[1] = [], []
    scene.start()
    scene.wait(vm, 1)
    scene.go(0.8)
    assert scene.kinds == []


def test_a_thread_that_is_missing_from_a_full_list_may_be_there() -> None:
    """Discovery names 64 threads of a process at most; vCPUs that nobody counts are among them."""
    scene, vm = migrating()
    scene.threads[1] = [thread(800 + n, f"vCPU {n}") for n in range(64)]
    scene.wait(vm, 1)
    scene.go(0.8)
    assert scene.kinds == []


@pytest.mark.parametrize("hook", ["attached", "missing"])
def test_the_last_page_is_late_and_then_the_vmm_ends(hook: str) -> None:
    """Its vCPU had waited for 1.2 s when it was last seen; then its page came. With the hook, nothing is guessed."""
    scene = Scene()
    scene.feeder.hooks.append({"hook": "thread_exit", "status": hook})
    vm = scene.feeder.add_vm(1, 1, id="one")
    scene.handlers[1] = [PROCESS]
    scene.start()
    scene.go(1)
    scene.wait(vm, 0)
    vm.total = 1
    scene.go(0.8)
    scene.resolve(vm, 0)
    scene.kill(vm)
    scene.go(4)
    assert scene.alarms.listed().alarms == []


def test_where_the_ends_of_threads_are_not_seen_an_open_fault_stands_for_them() -> None:
    scene = Scene()
    scene.feeder.hooks.append({"hook": "thread_exit", "status": "missing"})
    vm = scene.feeder.add_vm(1, 1, id="one")
    scene.start()
    scene.wait(vm, 0)
    scene.go(0.8)
    vm.state = "gone"
    scene.go(0.4)
    assert scene.kinds == ["vm_died"]


def test_a_pager_of_several_vms_that_holds_the_fault_of_one() -> None:
    """Its userfaultfds are in one process: the events that it has read tell them apart."""
    scene = Scene()
    held, other = scene.feeder.add_vm(1, 2, id="one"), scene.feeder.add_vm(2, 2, id="two")
    scene.uffds = {1: False, 2: False}
    scene.start()
    for vm in (held, other):
        vm.totals["events_read"] = vm.totals["events_done"] = 7  # and one that nobody waits for any more
        scene.feeder.fill(vm, "COPY", 7)
    other.totals["events_read"] = 8
    scene.go(1)
    held.totals["events_read"] = 8
    scene.wait(held, 1)
    scene.go(1.6)
    alarm = scene.one("handler_stuck")
    assert (alarm.vm, alarm.vcpu) == ("one", 1)
    assert alarm.message.startswith("The fault of fake has been read, no page has been filled for 1.")
    assert [vm.total for vm in scene.aggregate.vms] == [1, 0]
    held.totals["events_done"] = 8
    scene.resolve(held, 1)
    scene.go(4)
    assert scene.kinds == [] and [vm.total for vm in scene.aggregate.vms] == [0, 0]


@pytest.mark.parametrize("lives", [True, False], ids=["stopped", "gone"])
def test_a_pager_of_several_vms_that_is_stopped_before_it_has_read_the_event(lives: bool) -> None:
    """No descriptor shows whose the queue is; the vCPU sleeps, and what has been read of its VM is done."""
    scene = Scene()
    held, other = scene.feeder.add_vm(1, 2, id="one"), scene.feeder.add_vm(2, 2, id="two")
    scene.uffds = {1: False, 2: False}
    pager = {"tid": 900, "name": "page-daemon", "cpu_ns": 5, "pid": 899, "lives": lives}
    scene.handlers = {1: [pager], 2: [pager]}
    scene.start()
    for vm in (held, other):
        vm.totals["events_read"] = vm.totals["events_done"] = 7
        scene.feeder.fill(vm, "COPY", 7)
    scene.go(1)
    scene.wait(held, 1)
    scene.go(1.6)
    assert [(vm.pending, vm.total) for vm in scene.aggregate.vms] == [(int(lives), int(lives)), (0, 0)]
    if not lives:
        assert "handler_stuck" not in scene.kinds, "a wait for the kernel's own"
        return
    alarm = scene.one("handler_stuck")
    assert (alarm.vm, alarm.vcpu) == ("one", 1)
    assert alarm.message.startswith("1 fault of fake is queued unread")
    scene.resolve(held, 1)
    scene.go(4)
    assert scene.kinds == [] and [vm.total for vm in scene.aggregate.vms] == [0, 0]


def test_a_vcpu_that_brings_its_faults_to_userspace_is_in_no_queue() -> None:
    scene = Scene()
    vm = scene.feeder.add_vm(1, 1)
    scene.uffds = {1: False}
    scene.handlers = {1: [{"tid": 900, "name": "pager", "cpu_ns": 5, "pid": 899, "lives": True}]}
    scene.start()
    vm.totals["events_read"] = vm.totals["events_done"] = 7
    scene.feeder.vcpus[vm.slots[0]]["exits"][EXIT_NAMES.index("EFAULT")] = 1
    scene.wait(vm, 0)
    scene.go(1.6)
    assert [(vm.pending, vm.total) for vm in scene.aggregate.vms] == [(0, 0)]
