"""The totals in Prometheus's text format. No guest address is in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
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
from exitscope_probes.records import FILLS, MODES, STAGE_SERIES, VCPU_OTHER

from . import __version__, frame
from .aggregate import Aggregate
from .alarms.alarms import Alarms
from .hub import Hub
from .metrics_now import alarm_metrics, migration_metrics, waiting_metrics
from .scalars import BACKGROUND, DEMAND, FAILED, STALL_NS
from .scrapes import CONTENT_TYPE, Pausing, rendered
from .source import Status
from .view import named_exits
from .vms import Vm
from .window import NS_PER_S

_OCTAVE: Final = 16  # buckets per power of two
_FIRST: Final = 5 * _OCTAVE  # bucket that begins at 1.024 µs
_LAST: Final = 31 * _OCTAVE  # at 68.7 s
_TOLD_NS: Final = 300 * NS_PER_S
"""So long a VM that has ended is told of: as far back as the rule of VMs that died looks."""


@dataclass(frozen=True, slots=True)
class Detail:
    """How much is said. buckets: of latencies, few or exact (every edge of ours); per: vcpu, or vm."""

    buckets: str = "few"
    per: str = "vcpu"

    @property
    def bounds(self) -> tuple[int, ...]:
        """Buckets whose begins are bounds, the same for every VM at all times: few are a power of four apart."""
        return tuple(range(1, BUCKETS)) if self.buckets == "exact" else tuple(range(_FIRST, _LAST + 1, 2 * _OCTAVE))


FEW: Final = Detail()


def _upper_s(bound: int) -> str:
    """`le` is inclusive, and a bucket's begin belongs to it: 1 ns less."""
    return f"{Decimal(int(_FLOOR_NS[bound]) - 1).scaleb(-9):f}".rstrip("0").rstrip(".")


_FLOOR_NS: Final = bucket_floor_ns()
_UPPER_S: Final = ("0", *(_upper_s(bound) for bound in range(1, BUCKETS)))


def exposition(
    aggregate: Aggregate, status: Status, hub: Hub, alarms: Alarms, detail: Detail = FEW
) -> tuple[bytes, str]:
    """The text, and its content type."""
    return rendered(collected(aggregate, status, hub, alarms, detail)), CONTENT_TYPE


def collected(aggregate: Aggregate, status: Status, hub: Hub, alarms: Alarms, detail: Detail = FEW) -> Pausing:
    """Every metric, from the state as it is while they are taken; it may go on between them, after each VM."""
    return _Totals(aggregate, status, hub, alarms, detail).collect()


class _Totals:
    def __init__(self, aggregate: Aggregate, status: Status, hub: Hub, alarms: Alarms, detail: Detail) -> None:
        self._detail = detail
        self._aggregate = aggregate
        self._status = status
        self._hub = hub
        self._alarms = alarms

    def collect(self) -> Pausing:
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
        running = self._aggregate.vms.running()
        ended = [vm for vm in self._aggregate.vms if vm.gone_ns and self._aggregate.time_ns - vm.gone_ns < _TOLD_NS]
        yield from self._there([*ended, *running])
        yield from self._vms(running)
        yield from alarm_metrics(self._alarms, running, ended)
        yield from waiting_metrics(self._aggregate, self._alarms, running)
        yield from migration_metrics(self._aggregate, running)

    def _known(self, vms: list[Vm]) -> Iterator[Vm]:
        """Those that have not been forgotten meanwhile, whose rows another may have."""
        return (vm for vm in vms if self._aggregate.vms.get(vm.id) is vm)

    def _there(self, vms: list[Vm]) -> Iterator[Metric]:
        """Which VMs there are, and were a moment ago."""
        running = GaugeMetricFamily(
            "exitscope_vm_running", "1 if the VM runs, 0 if it has ended.", labels=["vm", "name"]
        )
        named = InfoMetricFamily("exitscope_vm", "What the VM is called.", labels=["vm"])
        for vm in vms:
            running.add_metric([vm.id, vm.peer.name or ""], float(vm.gone_ns is None))
            named.add_metric([vm.id], _called(vm))
        yield from (running, named)

    def _vms(self, vms: list[Vm]) -> Iterator[Metric | None]:
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
        per_vcpu = self._detail.per == "vcpu"
        stall = CounterMetricFamily(
            "exitscope_stall_seconds",
            "Time that the vCPU, or all of the VM's together, stood still in faults.",
            labels=["vm", "vcpu"] if per_vcpu else ["vm"],
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
        for vm in self._known(vms):
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
            stood = {
                vcpu: int(self._aggregate.scalars.now[row, STALL_NS]) / NS_PER_S
                for vcpu, row in sorted(vm.rows.items())
                if vcpu != VCPU_OTHER
            }
            for labels, value in (
                [([str(vcpu)], value) for vcpu, value in stood.items()] if per_vcpu else [([], sum(stood.values()))]
            ):
                stall.add_metric([vm.id, *labels], value)
            filled = self._aggregate.fills.now[vm.row]
            for kind, cells in (("demand", filled[DEMAND]), ("background", filled[BACKGROUND])):
                for resolver, count in zip(FILLS, cells.tolist(), strict=True):
                    if count:
                        fills.add_metric([vm.id, kind, resolver], count)
            failed.add_metric([vm.id], int(filled[FAILED]))
            self._latency(latency, vm, totals)
            yield None
        yield from (faults, latency, stages, stall, exits, hardware, hardware_time, fills, failed)

    def _latency(self, family: HistogramMetricFamily, vm: Vm, totals: npt.NDArray[np.void]) -> None:
        rows = [row for vcpu, row in vm.rows.items() if vcpu != VCPU_OTHER]
        for number, mode in enumerate(MODES):
            count = int(totals["series"]["count"][:, number].sum())
            if not count or not rows:
                continue
            columns = slice(number * BUCKETS, (number + 1) * BUCKETS)
            histogram = self._aggregate.histograms.now[rows, columns].sum(axis=0, dtype=np.int64)
            for row in rows:
                for column, times in self._aggregate.wrapped.get(row, {}).items():
                    if columns.start <= column < columns.stop:
                        histogram[column - columns.start] += times << 32
            below = np.cumsum(histogram)
            bounds = [(_UPPER_S[bound], float(below[bound - 1])) for bound in self._detail.bounds]
            # Counts and buckets are read one after the other: +Inf must not be below the last bound.
            bounds.append(("+Inf", float(max(count, below[-1]))))
            sum_s = int(totals["series"]["sum_ns"][:, number].sum()) / NS_PER_S
            family.add_metric([vm.id, mode], bounds, sum_value=sum_s)


def _called(vm: Vm) -> dict[str, str]:
    peer = vm.peer
    return {"name": peer.name or "", "vmm": peer.vmm or "", "domain": peer.domain or "", "uuid": peer.uuid or ""}
