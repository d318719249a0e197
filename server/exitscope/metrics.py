"""The totals in Prometheus's text format. No guest address is in it."""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from exitscope_probes.histogram import BUCKETS, bucket_floor_ns
from exitscope_probes.records import MODES, RESOLVERS, STAGE_SERIES, VCPU_OTHER

from . import __version__, frame
from .aggregate import Aggregate
from .alarms.alarms import Alarms
from .hub import Hub
from .metrics_now import alarm_metrics, migration_metrics, waiting_metrics
from .scalars import BACKGROUND, DEMAND, FAILED, HISTOGRAM_WIDTH, STALL_NS
from .scrapes import CONTENT_TYPE, rendered
from .source import Status
from .view import named_exits
from .vms import Vm
from .window import NS_PER_S

_OCTAVE: Final = 16  # buckets per power of two
_FIRST: Final = 5 * _OCTAVE  # bucket that begins at 1.024 µs
_BOUNDS: Final = tuple(range(_FIRST, BUCKETS, _OCTAVE))
_EDGES_S: Final = bucket_floor_ns().astype(np.float64) / 1e9


def exposition(aggregate: Aggregate, status: Status, hub: Hub, alarms: Alarms) -> tuple[bytes, str]:
    """The text, and its content type."""
    return rendered(collected(aggregate, status, hub, alarms)), CONTENT_TYPE


def collected(aggregate: Aggregate, status: Status, hub: Hub, alarms: Alarms) -> Iterable[Metric]:
    """Every metric, from the state as it is while they are taken."""
    return _Totals(aggregate, status, hub, alarms).collect()


class _Totals:
    def __init__(self, aggregate: Aggregate, status: Status, hub: Hub, alarms: Alarms) -> None:
        self._aggregate = aggregate
        self._status = status
        self._hub = hub
        self._alarms = alarms

    def collect(self) -> Iterable[Metric]:
        """Every metric, from the state as it is now."""
        source = frame.source(self._aggregate, self._status)
        up = GaugeMetricFamily(
            "exitscope_source_up", "1 if data of this host come from the source; a replay's do not.", labels=["kind"]
        )
        replayed = source["kind"] == "replay"
        up.add_metric([source["kind"]], float(source["state"] == "connected" and not replayed))
        yield up
        told = {"version": __version__, **{name: source[name] or "" for name in ("host", "kernel", "only")}}
        if replayed:  # another host's VMs at another time: nothing of them may pass for this host's
            told |= {"host": "", "kernel": ""}
        yield InfoMetricFamily("exitscope", "This server, and the host that is traced.", told)
        if replayed:
            return
        lost = CounterMetricFamily("exitscope_loss", "The loss ledger: data lost, by place.", labels=["where"])
        for where, count in frame.loss(self._aggregate, self._hub.skipped).items():
            lost.add_metric([where], count)
        yield lost
        yield GaugeMetricFamily("exitscope_clients", "Pages connected now.", len(self._hub.clients))
        listed, running = list(self._aggregate.vms), self._aggregate.vms.running()
        yield from self._vms(listed)
        yield from alarm_metrics(self._alarms, listed)
        yield from waiting_metrics(self._aggregate, self._alarms, running)
        yield from migration_metrics(self._aggregate, running)

    def _vms(self, vms: list[Vm]) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "exitscope_vm_running", "1 if the VM runs, 0 if it has ended.", labels=["vm", "name"]
        )
        named = InfoMetricFamily("exitscope_vm", "What the VM is called.", labels=["vm"])
        stages = SummaryMetricFamily(
            "exitscope_fault_stage_seconds",
            "Time that faults spent in each stage, by the stages' family: uffd, exit or async.",
            labels=["vm", "family", "stage"],
        )
        faults = CounterMetricFamily(
            "exitscope_faults", "Missing-page faults of the VM's vCPUs.", labels=["vm", "mode"]
        )
        latency = HistogramMetricFamily(
            "exitscope_fault_latency_seconds",
            "From the access until the vCPU runs again.",
            labels=["vm", "mode"],
        )
        stall = CounterMetricFamily(
            "exitscope_stall_seconds", "Time that the vCPU stood still in faults.", labels=["vm", "vcpu"]
        )
        exits = CounterMetricFamily(
            "exitscope_exits",
            "Returns of KVM_RUN to userspace, by exit reason or error.",
            labels=["vm", "reason"],
        )
        hardware = CounterMetricFamily(
            "exitscope_hardware_exits", "Times that the processor left guest code, by reason.", labels=["vm", "reason"]
        )
        hardware_time = CounterMetricFamily(
            "exitscope_hardware_exit_seconds",
            "Time from leaving guest code until it ran again, by reason.",
            labels=["vm", "reason"],
        )
        fills = CounterMetricFamily(
            "exitscope_fills",
            "Fills, on demand or ahead of need; each places pages, but those by WAKE.",
            labels=["vm", "kind", "resolver"],
        )
        failed = CounterMetricFamily("exitscope_fills_failed", "Fills that returned an error.", labels=["vm"])
        for vm in vms:
            running.add_metric([vm.id, vm.peer.name or ""], float(vm.gone_ns is None))
            named.add_metric([vm.id], _called(vm))
            totals = vm.totals(self._aggregate.rows)
            for number, (family, stage) in enumerate(STAGE_SERIES, len(MODES)):
                if times := int(totals["series"]["count"][:, number].sum()):
                    spent_s = int(totals["series"]["sum_ns"][:, number].sum()) / NS_PER_S
                    stages.add_metric([vm.id, family, stage], times, spent_s)
            for mode, count in vm.faults(self._aggregate.rows).items():
                faults.add_metric([vm.id, mode], count)
            for reason, count in named_exits(totals["exits"].sum(axis=0)).items():
                exits.add_metric([vm.id, reason], count)
            for reason, exited in self._aggregate.hardware.ever(vm.vcpu_rows()).items():
                hardware.add_metric([vm.id, reason], exited["count"])
                hardware_time.add_metric([vm.id, reason], exited["sum_ns"] / NS_PER_S)
            for vcpu, row in sorted(vm.rows.items()):
                if vcpu != VCPU_OTHER:
                    stood = int(self._aggregate.scalars.now[row, STALL_NS])
                    stall.add_metric([vm.id, str(vcpu)], stood / NS_PER_S)
            filled = self._aggregate.fills.now[vm.row]
            for kind, cells in (("demand", filled[DEMAND]), ("background", filled[BACKGROUND])):
                for resolver, count in zip(RESOLVERS, cells.tolist(), strict=True):
                    if count:
                        fills.add_metric([vm.id, kind, resolver], count)
            failed.add_metric([vm.id], int(filled[FAILED]))
            self._latency(latency, vm, totals)
        yield from (running, named, faults, latency, stages, stall, exits, hardware, hardware_time, fills, failed)

    def _latency(self, family: HistogramMetricFamily, vm: Vm, totals: npt.NDArray[np.void]) -> None:
        rows = [row for vcpu, row in vm.rows.items() if vcpu != VCPU_OTHER]
        for number, mode in enumerate(MODES):
            count = int(totals["series"]["count"][:, number].sum())
            if not count or not rows:
                continue
            columns = slice(number * BUCKETS, (number + 1) * BUCKETS)
            histogram = self._aggregate.histograms.now[rows, columns].sum(axis=0, dtype=np.int64)
            for cell, times in self._aggregate.wrapped.items():
                column = cell % HISTOGRAM_WIDTH - number * BUCKETS
                if cell // HISTOGRAM_WIDTH in rows and 0 <= column < BUCKETS:
                    histogram[column] += times << 32
            below = np.cumsum(histogram)
            bounds = [(f"{_EDGES_S[bound]:.9g}", float(below[bound - 1])) for bound in _BOUNDS]
            # Counts and buckets are read one after the other: +Inf must not be below the last bound.
            bounds.append(("+Inf", float(max(count, below[-1]))))
            sum_s = int(totals["series"]["sum_ns"][:, number].sum()) / NS_PER_S
            family.add_metric([vm.id, mode], bounds, sum_value=sum_s)


def _called(vm: Vm) -> dict[str, str]:
    peer = vm.peer
    return {"name": peer.name or "", "vmm": peer.vmm or "", "domain": peer.domain or "", "uuid": peer.uuid or ""}
