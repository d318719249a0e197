"""/metrics of many VMs: the event loop goes on after each of them, and what it changes is told of rightly."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from exitscope.aggregate import Aggregate
from exitscope.alarms.alarms import Alarms
from exitscope.hub import Hub
from exitscope.metrics import collected
from exitscope.scrapes import Scrapes
from exitscope.source import Status
from exitscope.vms import GONE_KEPT_NS
from exitscope_probes.wire import Kind, Message

from .frames import Feeder, S

VMS = 120


def of_many_vms() -> tuple[Feeder, Aggregate]:
    feeder, aggregate = Feeder(), Aggregate()
    for number in range(1, VMS + 1):
        feeder.fault(feeder.add_vm(number, 2), 0, 100_000, number)
    for message in feeder.welcome():
        aggregate.handle(message)
    return feeder, aggregate


def faults_by_vm(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    faults = next(family for family in families if family.name == "exitscope_faults")
    return {one.labels["vm"]: one.value for one in faults.samples if one.labels["mode"] == "uffd"}


def families(aggregate: Aggregate) -> object:
    status = Status("live", connected=True, data_ns=1)
    return collected(aggregate, status, Hub(aggregate, status), Alarms())


def test_the_event_loop_goes_on_after_each_vm() -> None:
    _, aggregate = of_many_vms()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scraped() -> tuple[bytes, bytes]:
        scrapes, ticking = Scrapes(), asyncio.create_task(others())
        texts = await asyncio.gather(*(scrapes.text(families(aggregate)) for _ in range(2)))  # type: ignore[arg-type]
        ticking.cancel()
        return texts[0], texts[1]

    first, second = asyncio.run(scraped())
    assert first is second, "whoever asks meanwhile gets the same"
    assert faults_by_vm(first) == {f"{4000 + number}-1": number for number in range(1, VMS + 1)}
    assert turns > 3 * VMS, "in faults, alarms and queues"


def test_a_vm_that_is_forgotten_amid_a_scrape_is_not_told_with_anothers_numbers() -> None:
    feeder, aggregate = of_many_vms()
    told = iter(families(aggregate))  # type: ignore[call-overload]
    found = []
    for family in told:
        found.append(family)
        if family is None:
            break
    last = aggregate.vms.get(f"{4000 + VMS}-1")
    assert last is not None
    for number in range(2, VMS + 1):
        feeder.remove_vm(number)
    aggregate.handle(feeder.vms_message())
    feeder.time_ns += GONE_KEPT_NS + S
    aggregate.handle(feeder.totals())
    aggregate.handle(Message(Kind.VMS, feeder.time_ns, feeder.vms_message().meta))
    assert aggregate.vms.get(last.id) is None
    found += told
    faults = next(family for family in found if family is not None and family.name == "exitscope_faults")
    assert {one.labels["vm"] for one in faults.samples} == {"4001-1"}
