"""The Prometheus text: parsed by the client library, and compared with what was fed."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exitscope.aggregate import Aggregate
from exitscope.hub import Hub
from exitscope.metrics import exposition
from exitscope.source import Status
from exitscope_probes.records import VCPU_OTHER
from exitscope_probes.wire import Message

from .frames import Feeder, S

MS = 1_000_000


def samples(aggregate: Aggregate) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status = Status("live", connected=True, data_ns=1)
    text, content_type = exposition(aggregate, status, Hub(aggregate, status))
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
    below = [value for (_, label), value in found.items() if dict(label).get("le") == "68.7194767"]
    assert below == [5 * 2**32 + 107]


def test_no_address_of_a_guest_is_in_the_metrics(feeder: Feeder) -> None:
    aggregate = fed([*feeder.welcome(), feeder.records(feeder.vms[1], [S], gpa=0x1234_5000)])
    text, _ = exposition(aggregate, Status("live"), Hub(aggregate, Status("live")))
    assert b"12345000" not in text
    assert b"7f0000001000" not in text
    assert b"hva" not in text
    assert b'source_up{kind="live"} 0.0' in text
