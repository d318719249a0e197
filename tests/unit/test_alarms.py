"""Alarms of faults that stay open, of silence and of losses: raised, told with their numbers, ended, and bounded."""

import pytest

from exitscope.alarms.alarms import MAX_SHOWN
from exitscope.alarms.finding import NEVER, Limits
from exitscope.alarms.ledger import KEPT_NS, MAX_ENDED
from exitscope.alarms.words import age, names
from exitscope.source import Status
from exitscope.words import counted
from exitscope_probes.records import MODE_ASYNC, VCPU_OTHER

from .alarm_scene import MS, Scene
from .frames import S


def scene_of(vcpus: int = 2, limits: Limits | None = None) -> Scene:
    scene = Scene(limits)
    scene.feeder.add_vm(1, vcpus, id="one")
    scene.start()
    return scene


def test_all_is_well() -> None:
    scene = scene_of()
    vm = scene.feeder.vms[1]
    for _ in range(20):
        scene.wait(vm, 0)
        scene.go(0.4)
        assert [fault.vcpu for fault in scene.alarms.oldest_faults] == [0]
        scene.resolve(vm, 0)
        scene.go(0.2)
        assert scene.alarms.oldest_faults == []
    listed = scene.alarms.listed()
    assert listed.alarms == [] and scene.alarms.shown() == []


def test_a_vcpu_that_stands_still_is_told_with_its_age_and_ends_as_ended() -> None:
    scene = scene_of()
    vm = scene.feeder.vms[1]
    scene.wait(vm, 1)
    since_ns = scene.feeder.time_ns
    assert scene.go(1.0) == []
    scene.go(0.4)
    alarm = scene.one("vcpu_stalled")
    assert (alarm.vm, alarm.vm_name, alarm.vcpu, alarm.severity) == ("one", "fake", 1, "warning")
    assert (alarm.value_ns, alarm.limit_ns, alarm.ended_ns) == (1400 * MS, S, None)
    assert alarm.since_ns == since_ns + 1200 * MS
    assert alarm.message == "vCPU 1 of fake has stood still for 1.4 s in one fault." and alarm.hint
    (oldest,) = scene.alarms.oldest_faults
    assert (oldest.vm, oldest.vcpu, oldest.open_since_ns, oldest.age_ns) == ("one", 1, since_ns, 1400 * MS)
    first = alarm.id
    scene.go(4)
    assert scene.one("vcpu_stalled").id == first
    assert scene.one("oldest_fault").value_ns == 5400 * MS
    assert [alarm.kind for alarm in scene.active] == ["oldest_fault", "vcpu_stalled"], "the critical one first"
    scene.resolve(vm, 1)
    scene.go(4)
    assert scene.active == []
    assert {(alarm.kind, alarm.active) for alarm in scene.ended} == {("vcpu_stalled", False), ("oldest_fault", False)}
    assert all(alarm.ended_ns and alarm.ended_ns > alarm.since_ns for alarm in scene.ended)
    scene.go(KEPT_NS / S + 1)
    assert scene.alarms.listed().alarms == []
    assert scene.alarms.raised["vcpu_stalled", "one"] == 1


def test_many_vcpus_are_one_alarm() -> None:
    scene = scene_of(256)
    vm = scene.feeder.vms[1]
    for vcpu in range(200):
        scene.wait(vm, vcpu, scene.feeder.time_ns - vcpu * MS)
    scene.go(1.4)
    (alarm,) = scene.active
    assert alarm.message == "200 of 256 vCPUs of fake have stood still for more than 1.0 s, vCPU 199 longest: 1.6 s."
    assert alarm.vcpu == 199


def test_what_comes_and_goes_is_one_alarm() -> None:
    scene = scene_of()
    vm = scene.feeder.vms[1]
    for _ in range(10):
        scene.wait(vm, 0)
        scene.go(1.4)
        scene.resolve(vm, 0)
        scene.go(0.2)
    assert scene.alarms.raised["vcpu_stalled", "one"] == 1 and scene.ended == []


def test_limits_can_be_set_and_switched_off() -> None:
    scene = scene_of(limits=Limits(stall_ns=300 * MS, fault_ns=NEVER, handler_ns=NEVER))
    scene.wait(scene.feeder.vms[1], 0)
    scene.go(0.4)
    assert scene.kinds == ["vcpu_stalled"]
    scene.go(60)
    assert scene.kinds == ["vcpu_stalled"]


def test_other_threads_and_vms_that_are_gone_have_no_oldest_fault() -> None:
    scene = Scene()
    vm = scene.feeder.add_vm(1, 1, id="one")
    scene.feeder.own(vm, VCPU_OTHER, 40)
    scene.start()
    scene.wait(vm, VCPU_OTHER)
    scene.go(10)
    assert scene.alarms.listed().oldest_faults == [] and scene.active == []
    scene.wait(vm, 0)
    scene.go(2)
    scene.feeder.remove_vm(1)
    scene.go(0.4)
    assert scene.alarms.oldest_faults == []
    assert "vcpu_stalled" not in scene.kinds, "it ends at once"


def test_a_silent_collector_is_told_and_everything_else_stands() -> None:
    scene = scene_of()
    scene.wait(scene.feeder.vms[1], 0)
    scene.go(1.4)
    before = scene.one("vcpu_stalled")
    scene.look(later_ns=1900 * MS)
    assert scene.kinds == ["vcpu_stalled"]
    scene.look(later_ns=60 * S)
    assert scene.kinds == ["source_lost", "vcpu_stalled"]
    lost = scene.one("source_lost")
    assert (lost.vm, lost.severity, lost.value_ns) == (None, "critical", 60 * S)
    assert lost.message == ("Nothing has come from the collector for 1.0 min: the collector has said nothing for 60 s.")
    assert scene.one("vcpu_stalled") == before
    scene.feeder.time_ns += 60 * S
    scene.go(0.2)
    assert "source_lost" not in scene.kinds and scene.ended[0].kind == "source_lost"


@pytest.mark.parametrize("status", [Status("replay", connected=True, data_ns=1), Status("live")])
def test_a_replay_and_a_collector_that_was_never_there_are_not_lost(status: Status) -> None:
    scene = scene_of()
    scene.alarms.look(scene.aggregate, status, 3600 * S)
    assert scene.active == []


def test_losses_are_one_alarm_while_they_grow() -> None:
    scene = scene_of()
    scene.feeder.loss |= {"unmatched_begin": 3, "unreadable": 9}
    assert scene.go(1) == [], "these happen in ordinary runs"
    scene.feeder.loss["ring_full"] = 1200
    scene.go(0.2)
    alarm = scene.one("records_lost")
    assert (alarm.vm, alarm.vm_name, alarm.vcpu) == (None, None, None)
    assert alarm.message == "1,200 fault records found no room in the ring buffer."
    assert "--ring-bytes" in alarm.hint
    scene.feeder.loss |= {"ring_full": 1201, "map_full": 1}
    scene.go(0.4)
    assert scene.one("records_lost").message == (
        "1,201 fault records found no room in the ring buffer and 1 fault found no room in a BPF map within 400 ms."
    )
    scene.go(9)
    assert scene.kinds == ["records_lost"]
    scene.go(2)
    assert scene.kinds == []
    scene.feeder.loss["ring_full"] = 1211
    scene.go(0.2)
    assert scene.one("records_lost").message.startswith("10 fault records"), "a new burst counts from its own begin"


def test_what_another_collector_lost_is_no_alarm() -> None:
    scene = Scene()
    scene.feeder.add_vm(1, 1, id="one")
    scene.feeder.loss["ring_full"] = 500
    scene.start()
    assert scene.go(1) == []
    scene.feeder.started_ns += 1
    scene.feeder.loss["ring_full"] = 700
    scene.start()
    assert scene.go(1) == []


def livelock(scene: Scene, vcpu: int, tries: int = 4000) -> None:
    """What a SIGBUS livelock counts in 0.2 s, as measured: each try ends as an async fault, and nothing is mapped."""
    vm = scene.feeder.vms[1]
    row = scene.feeder.vcpus[vm.slots[vcpu]]
    row["async_tries"] += tries
    row["prefetch_early"] += tries
    scene.feeder.fault(vm, vcpu, 40_000, tries, MODE_ASYNC)


def test_async_faults_without_progress() -> None:
    scene = scene_of(3)
    for _ in range(12):
        livelock(scene, 1)
        livelock(scene, 2, 4500)
        scene.go(0.2)
    alarm = scene.one("async_livelock")
    assert (alarm.vm, alarm.vcpu, alarm.severity) == ("one", 2, "critical")
    assert alarm.message == (
        "vCPU 2 and 1 other of fake tried 42,500 async page faults in 1.0 s, and not one page came."
    )
    scene.go(4)
    assert scene.kinds == [] and scene.ended[0].kind == "async_livelock"


@pytest.mark.parametrize("why", ["mapped", "filled", "other faults", "repeats"])
def test_async_faults_that_make_progress(why: str) -> None:
    scene = scene_of()
    vm = scene.feeder.vms[1]
    row = scene.feeder.vcpus[vm.slots[0]]
    for _ in range(20):
        livelock(scene, 0)
        if why == "mapped":
            row["prefetch"] += 1
        elif why == "filled":
            scene.feeder.fill(vm, "COPY", 3000)
        elif why == "other faults":
            scene.feeder.fault(vm, 0, 1000)
        else:
            row["async_repeats"] += 4000
        scene.go(0.2)
    assert scene.kinds == []


def test_everything_at_once_stays_bounded() -> None:
    scene = Scene()
    for number in range(1, 129):
        scene.feeder.add_vm(number, 3, id=f"vm-{number}")
    scene.start()
    for _ in range(5):
        for vm in scene.feeder.vms.values():
            for vcpu in range(3):
                scene.wait(vm, vcpu)
        scene.go(6)
        assert len(scene.active) == 2 * 128
        for vm in scene.feeder.vms.values():
            for vcpu in range(3):
                scene.resolve(vm, vcpu)
        scene.go(4)
    assert len(scene.alarms.listed().alarms) == MAX_ENDED
    assert len(scene.alarms.shown()) == MAX_SHOWN
    for number in range(1, 129):
        scene.feeder.remove_vm(number)
    scene.go(601)
    assert scene.alarms.raised == {} and scene.alarms.listed().alarms == []


def test_words() -> None:
    said = [age(ns) for ns in (10, 850 * MS, 1_440 * MS, 12 * S, 90 * S, 600 * S, 7200 * S)]
    assert said == ["less than 1 ms", "850 ms", "1.4 s", "12 s", "1.5 min", "10 min", "2.0 h"]
    assert (counted(1, "fault"), counted(12345, "fault"), counted(2, "thread")) == (
        "1 fault", "12,345 faults", "2 threads")  # fmt: skip
    assert [names(list("abcdef"[:n])) for n in (1, 2, 3, 4, 6)] == [
        "a", "a and b", "a, b and c", "a, b, c and d", "a, b, c and 3 others"]  # fmt: skip


def test_a_vm_that_stands_still_in_many_short_faults() -> None:
    """97 % of its time, in faults of 50 ms each: none of them is long."""
    scene = scene_of(4)
    vm = scene.feeder.vms[1]
    idle = scene.feeder.add_vm(2, 2, id="two")

    def second(busy_ms: int) -> None:
        for vcpu in range(4):
            scene.feeder.fault(vm, vcpu, busy_ms * MS // 20, 20)
        scene.feeder.fault(idle, 0, 10 * MS, 10)
        scene.go(1)

    for _ in range(4):
        second(970)
    assert scene.active == [], "a short burst is none"
    for _ in range(8):
        second(970)
    alarm = scene.one("vm_stalled")
    assert (alarm.vm, alarm.severity, alarm.limit_ns) == ("one", "warning", 7500 * MS)
    assert alarm.value_ns == pytest.approx(9.7 * S, rel=0.03)
    assert alarm.message == "The 4 vCPUs of fake stood still for 97 % of the last 10 s, waiting for pages."
    assert scene.kinds == ["vm_stalled"]
    for _ in range(12):
        second(300)
    assert scene.kinds == []


@pytest.mark.parametrize(("percent", "kinds"), [(0, []), (90, []), (60, ["vm_stalled"])])
def test_the_limit_of_a_vms_stall(percent: int, kinds: list[str]) -> None:
    scene = scene_of(1, limits=Limits(vm_stall_percent=percent))
    for _ in range(12):
        scene.feeder.fault(scene.feeder.vms[1], 0, 80 * MS, 10)
        scene.go(1)
    assert scene.kinds == kinds


def test_a_vcpu_that_is_kicked_stays_in_its_fault() -> None:
    """Its signal handler runs ever again, and the same page is missing ever since."""
    scene = scene_of(1)
    vm = scene.feeder.vms[1]
    scene.wait(vm, 0)
    for _ in range(40):
        scene.feeder.exit(vm, 0, "EINTR")
        scene.go(0.2)
    assert scene.kinds == ["oldest_fault", "vcpu_stalled"]
    assert scene.one("oldest_fault").value_ns == 8 * S
