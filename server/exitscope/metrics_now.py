"""Metrics of what is now: alarms, who waits, queues, handlers, migrations. No guest address is in them."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .aggregate import Aggregate
from .alarms.alarms import OF_A_VM, OF_ALL, Alarms
from .vms import Vm
from .window import NS_PER_S

_BUSY_NS: Final = 10 * NS_PER_S
_KINDS: Final = ("postcopy", "precopy", "page-in")


def alarm_metrics(alarms: Alarms, running: list[Vm], ended: list[Vm]) -> Iterator[Metric | None]:
    """Every alarm, 0 or 1, so that one that has ended is told from one that is not watched.

    Of VMs that have ended only those that were raised.
    """
    active, raised = alarms.active, alarms.raised
    gauge = GaugeMetricFamily(
        "exitscope_alarm", "1 while the alarm is active; vm is empty if it is about all VMs.", labels=["alarm", "vm"]
    )
    for kind in OF_ALL:
        gauge.add_metric([kind, ""], float((kind, None) in active))
    for vm in (*running, *ended):
        for kind in OF_A_VM:
            if vm.gone_ns is None or (kind, vm.id) in raised:
                gauge.add_metric([kind, vm.id], float((kind, vm.id) in active))
        yield None
    yield gauge
    told = {None, *(vm.id for vm in (*running, *ended))}
    counter = CounterMetricFamily("exitscope_alarms_raised", "Times that the alarm was raised.", labels=["alarm", "vm"])
    for (kind, vm_id), times in raised.items():
        if vm_id in told:
            counter.add_metric([kind, vm_id or ""], times)
    yield counter


def waiting_metrics(aggregate: Aggregate, alarms: Alarms, running: list[Vm]) -> Iterator[Metric | None]:
    """Of each running VM: vCPUs that stand still at this moment, the oldest fault, the userfaultfd queue, handlers."""
    vcpus = GaugeMetricFamily("exitscope_vcpus", "vCPUs of the running VM.", labels=["vm"])
    stalled = GaugeMetricFamily("exitscope_stalled_vcpus", "vCPUs that are in a fault at this moment.", labels=["vm"])
    oldest = GaugeMetricFamily(
        "exitscope_oldest_fault_seconds", "Age of the oldest unresolved fault of a vCPU, 0 if none.", labels=["vm"]
    )
    queue = GaugeMetricFamily(
        "exitscope_uffd_queue",
        "Faults with the VM's userfaultfd handler: unread events, and those that it has read and not resolved.",
        labels=["vm", "state"],
    )
    busy = GaugeMetricFamily(
        "exitscope_handler_busy_ratio",
        "CPU time of the busiest thread that resolves the VM's faults, share of the last 10 s.",
        labels=["vm"],
    )
    ages_ns = {fault.vm: fault.age_ns for fault in alarms.oldest_faults}
    for vm in running:
        vcpus.add_metric([vm.id], len(vm.vcpus()))
        stalled.add_metric([vm.id], alarms.waiting.get(vm.id, 0))
        oldest.add_metric([vm.id], ages_ns.get(vm.id, 0) / NS_PER_S)
        queue.add_metric([vm.id, "unread"], vm.pending)
        queue.add_metric([vm.id, "read"], max(vm.total - vm.pending, 0))
        yield None
    shares: dict[str, float] = {}
    for thread in aggregate.threads.shown(running, _BUSY_NS):
        if thread["busy"] is not None and (thread["served"] or thread["role"] not in ("main", "vhost")):
            shares[thread["vm"]] = max(shares.get(thread["vm"], 0.0), thread["busy"])
    for vm_id, share in shares.items():
        busy.add_metric([vm_id], share)
    yield from (vcpus, stalled, oldest, queue, busy)


def migration_metrics(aggregate: Aggregate, running: list[Vm]) -> Iterator[Metric]:
    """Which VMs migrate, and what QEMU says is left."""
    active = GaugeMetricFamily(
        "exitscope_migration_active", "1 while a migration or page-in of the VM goes on.", labels=["vm", "kind"]
    )
    remaining = GaugeMetricFamily(
        "exitscope_migration_remaining_bytes", "Guest memory left to be sent, as QEMU says.", labels=["vm"]
    )
    listed = GaugeMetricFamily(
        "exitscope_migrations", "Migrations and page-ins that are remembered.", labels=["kind", "state"]
    )
    courses = aggregate.migrations.courses()
    going_on = {(course.vm, course.kind): course for course in courses if course.state == "active"}
    for vm in running:
        for kind in _KINDS:
            active.add_metric([vm.id, kind], float((vm.id, kind) in going_on))
    for (vm_id, _), course in going_on.items():
        left = (course.answer or {}).get("remaining_bytes")
        if isinstance(left, int):
            remaining.add_metric([vm_id], left)
    counts: dict[tuple[str, str], int] = {}
    for course in courses:
        counts[course.kind, course.state] = counts.get((course.kind, course.state), 0) + 1
    for labels, count in counts.items():
        listed.add_metric(list(labels), count)
    yield from (active, remaining, listed)
