"""The Prometheus text: parsed by the client library, and compared with what was fed."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exitscope import __version__
from exitscope.aggregate import Aggregate
from exitscope.alarms.alarms import OF_A_VM, OF_ALL, Alarms
from exitscope.hub import Hub
from exitscope.metrics import FEW, Detail, exposition
from exitscope.source import Status
from exitscope_probes.histogram import BUCKETS, bucket_floor_ns
from exitscope_probes.records import MODE_UFFD, MODES, STAGE_SERIES, VCPU_OTHER
from exitscope_probes.wire import Kind, Message

from .alarm_scene import MS, Scene, thread
from .frames import Feeder, S


def samples(
    aggregate: Aggregate, alarms: Alarms | None = None, detail: Detail = FEW
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status = Status("live", connected=True, data_ns=1)
    text, content_type = exposition(aggregate, status, Hub(aggregate, status), alarms or Alarms(), detail)
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def feeder() -> Iterator[Feeder]:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2, id="one")
    feeder.own(vm, VCPU_OTHER, 40)
    feeder.fault(vm, 0, 3 * MS, 10)
    feeder.fault(vm, 1, 200_000, 90)
    feeder.fault(vm, VCPU_OTHER, 200_000, 5)
    feeder.exit(vm, 0, "EFAULT", 4)
    feeder.fill(vm, "COPY", 100)
    feeder.fill(vm, "COPY", 50, demand=False)
    yield feeder


def fed(messages: list[Message]) -> Aggregate:
    aggregate = Aggregate()
    for message in messages:
        aggregate.handle(message)
    return aggregate


def test_totals_are_what_was_fed(feeder: Feeder) -> None:
    feeder.loss["map_full"] = 3
    found = samples(fed(feeder.welcome()))
    vm = ("vm", "one")
    assert found["exitscope_faults_total", (("mode", "uffd"), vm)] == 100
    assert found["exitscope_stall_seconds_total", (("vcpu", "0"), vm)] == pytest.approx(0.03)
    assert found["exitscope_exits_total", (("reason", "EFAULT"), vm)] == 4
    assert found["exitscope_fills_total", (("kind", "demand"), ("resolver", "COPY"), vm)] == 100
    assert found["exitscope_fills_total", (("kind", "background"), ("resolver", "COPY"), vm)] == 50
    assert found["exitscope_loss_total", (("where", "map_full"),)] == 3
    assert found["exitscope_vm_running", (("name", "fake"), vm)] == 1


def test_the_latency_histogram_adds_up(feeder: Feeder) -> None:
    found = samples(fed(feeder.welcome()))
    labels = (("mode", "uffd"), ("vm", "one"))
    assert found["exitscope_fault_latency_seconds_count", labels] == 100
    assert found["exitscope_fault_latency_seconds_sum", labels] == pytest.approx(0.048)
    buckets = sorted(
        (float(dict(label)["le"]), value)
        for (name, label), value in found.items()
        if name == "exitscope_fault_latency_seconds_bucket"
    )
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert all(value == sum(n for s, n in ((0.003, 10), (0.0002, 90)) if s < le) for le, value in buckets)


def test_a_bucket_beyond_32_bits_is_exact(feeder: Feeder) -> None:
    vm = feeder.vms[1]
    slot = vm.slots[0]
    feeder.buckets[slot, 0, 300] = 5 * 2**32 + 7
    feeder.vcpus[slot]["series"]["count"][0] += 5 * 2**32 + 7
    found = samples(fed(feeder.welcome()))
    labels = (("mode", "uffd"), ("vm", "one"))
    assert found["exitscope_fault_latency_seconds_count", labels] == 5 * 2**32 + 107
    assert {value for (name, _), value in found.items() if name.endswith("_bucket")} >= {5 * 2**32 + 107.0}
    below = [value for (_, label), value in found.items() if dict(label).get("le") == "68.719476735"]
    assert below == [5 * 2**32 + 107]


def test_of_a_replay_nothing_passes_for_this_host(feeder: Feeder) -> None:
    aggregate, status = fed(feeder.welcome()), Status("replay", connected=True, data_ns=1)
    text, _ = exposition(aggregate, status, Hub(aggregate, status), Alarms())
    families = text_string_to_metric_families(text.decode())
    told = {sample.name: (sample.labels, sample.value) for family in families for sample in family.samples}
    assert told == {
        "exitscope_source_up": ({"kind": "replay"}, 0),
        "exitscope_info": ({"version": __version__, "host": "", "kernel": "", "only": ""}, 1),
    }


def buckets_of(found: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[str, float]:
    return {
        dict(label)["le"]: value for (name, label), value in found.items() if name.endswith("latency_seconds_bucket")
    }


@pytest.mark.parametrize("buckets", ["few", "exact"])
def test_a_bound_is_the_last_nanosecond_of_its_bucket(buckets: str) -> None:
    """`le` is inclusive: what takes 1,024 ns belongs to the next bucket, what takes 1,023 ns does not."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 1, id="one")
    feeder.fault(vm, 0, 1023, 3)
    feeder.fault(vm, 0, 1024, 5)
    feeder.fault(vm, 0, 4095, 7)
    found = buckets_of(samples(fed(feeder.welcome()), detail=Detail(buckets=buckets)))
    assert (found["0.000001023"], found["0.000004095"], found["+Inf"]) == (3, 15, 15)


def test_exact_buckets_are_the_kernels_own_and_the_same_for_all(feeder: Feeder) -> None:
    found = buckets_of(samples(fed(feeder.welcome()), detail=Detail(buckets="exact")))
    edges_ns = [round(float(le) * 1e9) + 1 for le in found if le != "+Inf"]
    assert edges_ns == bucket_floor_ns()[1:BUCKETS].tolist()
    assert len(buckets_of(samples(fed(feeder.welcome())))) == 15
    counts = list(found.values())
    inside = [high - low for low, high in zip([0.0, *counts], counts, strict=False)]
    assert inside == feeder.buckets[[feeder.vms[1].slots[0], feeder.vms[1].slots[1]], MODE_UFFD].sum(axis=0).tolist()


def test_vcpus_may_be_left_out(feeder: Feeder) -> None:
    found = samples(fed(feeder.welcome()), detail=Detail(per="vm"))
    assert found["exitscope_stall_seconds_total", (("vm", "one"),)] == pytest.approx(0.048)
    assert not any("vcpu" in dict(labels) for _, labels in found)


def test_of_a_vm_that_has_ended_its_name_and_alarms_remain_for_a_while() -> None:
    scene = busy()
    scene.kill(scene.feeder.vms[1])
    scene.go(2)
    found = samples(scene.aggregate, scene.alarms)
    mine = {(name, dict(labels).get("alarm")) for name, labels in found if ("vm", "one") in labels}
    raised = {"oldest_fault", "vcpu_stalled", "handler_stuck", "vm_died"}
    told = {"exitscope_alarm", "exitscope_alarms_raised_total"}
    assert mine == {("exitscope_vm_running", None), ("exitscope_vm_info", None)} | {
        (a, b) for a in told for b in raised
    }
    assert found["exitscope_vm_running", (("name", "fake"), ("vm", "one"))] == 0
    assert found["exitscope_alarm", (("alarm", "vm_died"), ("vm", "one"))] == 1
    scene.feeder.remove_vm(1)
    scene.feeder.time_ns += 300 * S
    scene.go(1)
    assert not any(("vm", "one") in labels for _, labels in samples(scene.aggregate, scene.alarms))


def test_no_address_of_a_guest_is_in_the_metrics(feeder: Feeder) -> None:
    aggregate = fed([*feeder.welcome(), feeder.records(feeder.vms[1], [S], gpa=0x1234_5000)])
    text, _ = exposition(aggregate, Status("live"), Hub(aggregate, Status("live")), Alarms())
    assert b"12345000" not in text
    assert b"7f0000001000" not in text
    assert b"hva" not in text
    assert b'source_up{kind="live"} 0.0' in text


def busy() -> Scene:
    """Three vCPUs wait, one of them for 6 s; QEMU's threads are there, and a migration goes on."""
    scene = Scene()
    vm = scene.feeder.add_vm(1, 4, id="one")
    scene.feeder.add_vm(2, 1, id="two")
    vm.pending, vm.total = 2, 3
    scene.threads[1] = [thread(700, "uffd reader", "fault-default"), thread(4001, "main")]
    scene.start()
    serve = len(MODES) + STAGE_SERIES.index(("uffd", "serve"))
    scene.feeder.fault(vm, 3, 2 * MS, 5, serve)
    for vcpu in range(3):
        scene.wait(vm, vcpu)
    for _ in range(6):
        scene.threads[1][0] |= {"cpu_ns": scene.threads[1][0]["cpu_ns"] + 250 * MS}
        scene.go(1)
    return scene


def test_what_is_now() -> None:
    scene = busy()
    found = samples(scene.aggregate, scene.alarms)
    one, two = ("vm", "one"), ("vm", "two")
    assert [found["exitscope_vcpus", (vm,)] for vm in (one, two)] == [4, 1]
    assert [found["exitscope_stalled_vcpus", (vm,)] for vm in (one, two)] == [3, 0]
    assert [found["exitscope_oldest_fault_seconds", (vm,)] for vm in (one, two)] == [6, 0]
    assert found["exitscope_uffd_queue", (("state", "unread"), one)] == 2
    assert found["exitscope_uffd_queue", (("state", "read"), one)] == 1
    assert found["exitscope_handler_busy_ratio", (one,)] == pytest.approx(0.25, abs=0.01)
    assert ("exitscope_handler_busy_ratio", (two,)) not in found, "it is not known"
    stage = (("family", "uffd"), ("stage", "serve"), one)
    assert found["exitscope_fault_stage_seconds_count", stage] == 5
    assert found["exitscope_fault_stage_seconds_sum", stage] == pytest.approx(0.01)
    told = (("host", "testhost"), ("kernel", "6.0-test"), ("only", ""), ("version", __version__))
    assert found["exitscope_info", told] == 1
    info = (("domain", ""), ("name", "fake"), ("uuid", ""), one, ("vmm", "test"))
    assert found["exitscope_vm_info", info] == 1


def test_alarms_are_0_or_1_for_every_vm() -> None:
    scene = busy()
    found = samples(scene.aggregate, scene.alarms)
    active = {labels for (name, labels), value in found.items() if name == "exitscope_alarm" and value}
    assert active == {(("alarm", kind), ("vm", "one")) for kind in ("oldest_fault", "vcpu_stalled", "handler_stuck")}
    assert sum(name == "exitscope_alarm" for name, _ in found) == 2 * len(OF_A_VM) + len(OF_ALL)
    assert found["exitscope_alarm", (("alarm", "records_lost"), ("vm", ""))] == 0
    assert found["exitscope_alarms_raised_total", (("alarm", "vcpu_stalled"), ("vm", "one"))] == 1


def test_migrations() -> None:
    scene = busy()
    found = samples(scene.aggregate, scene.alarms)
    assert found["exitscope_migration_active", (("kind", "postcopy"), ("vm", "one"))] == 1
    assert found["exitscope_migration_active", (("kind", "page-in"), ("vm", "one"))] == 0
    assert found["exitscope_migrations", (("kind", "postcopy"), ("state", "active"))] == 1
    meta = {"vm": 1, "id": "one", "follow": "followed", "at_ns": scene.feeder.time_ns, "status": "postcopy-active"}
    meta |= {"role": "destination", "remaining_bytes": 4 << 20}
    scene.aggregate.handle(Message(Kind.MIGRATION, scene.feeder.time_ns, meta))
    found = samples(scene.aggregate, scene.alarms)
    assert found["exitscope_migration_remaining_bytes", (("vm", "one"),)] == 4 << 20


def test_names_and_labels_follow_the_conventions_of_prometheus() -> None:
    scene = busy()
    status = Status("live", connected=True, data_ns=1)
    text, _ = exposition(scene.aggregate, status, Hub(scene.aggregate, status), scene.alarms)
    for family in text_string_to_metric_families(text.decode()):
        assert family.name.startswith("exitscope")
        assert family.documentation
        assert not re.search(r"_(ns|ms|us|percent|kb|mb)(_|$)", family.name), "seconds, bytes and ratios only"
        endings = {sample.name.endswith("_total") for sample in family.samples}
        assert endings <= {family.type == "counter"}
        for sample in family.samples:
            assert not {"gpa", "hva", "address", "tid", "pid"} & sample.labels.keys()


def test_the_number_of_series_is_bounded_by_vms_and_vcpus() -> None:
    def lines(vms: int, vcpus: int) -> int:
        scene = Scene()
        for number in range(1, vms + 1):
            scene.feeder.add_vm(number, vcpus, id=f"vm-{number}")
        scene.start()
        return len(samples(scene.aggregate, scene.alarms))

    none, few, more, wide = lines(0, 0), lines(10, 2), lines(20, 2), lines(10, 12)
    assert more - few == few - none, "linear in VMs"
    assert wide - few == 10 * 10, "one series per vCPU: its stall"
