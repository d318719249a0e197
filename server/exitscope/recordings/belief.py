"""What is believed of a recording's metadata: no more VMs, vCPUs and time than a host has, no number below 0."""

from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from exitscope_probes.untrusted import MAX_INTEGER, parse

from .meta import RecordingMeta, Snapshot

MAX_VALUES: Final = 1 << 20
MAX_VMS: Final = 4096
MAX_VCPUS: Final = 4096
MAX_MIGRATIONS: Final = 1024
MAX_SAMPLES: Final = 1000
_LONGEST_NS: Final = 10 * 365 * 86_400 * 1_000_000_000
_LATEST_NS: Final = 1 << 60
_LARGEST_SUM: Final = 1 << 62


def believed(text: bytes) -> RecordingMeta:
    """The metadata, strings cleaned. Raises ValueError that says what does not fit."""
    try:
        meta = RecordingMeta.model_validate(parse(text, MAX_VALUES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from None
    for complaint in _complaints(meta):
        raise ValueError(complaint)
    return meta


def _complaints(meta: RecordingMeta) -> Iterator[str]:
    if not 0 <= meta.started_ns <= _LATEST_NS or not 0 <= meta.ended_ns <= _LATEST_NS:
        yield "a moment beyond all clocks"
    if meta.duration_ns > _LONGEST_NS:
        yield f"it lasts for {meta.duration_ns} ns"
    vcpus = sum(len(vm.vcpus) for vm in meta.vms)
    counted = max(sum(len(vm.vcpus) for vm in at.vms.values()) for at in (meta.totals.start, meta.totals.stop))
    for name, count, most in (
        ("VMs", max(len(meta.vms), len(meta.totals.start.vms), len(meta.totals.stop.vms)), MAX_VMS),
        ("vCPUs", vcpus, MAX_VCPUS),
        ("counted vCPUs", counted, MAX_VCPUS + MAX_VMS),  # and a VM's other threads
        ("migrations", len(meta.migrations), MAX_MIGRATIONS),
        ("samples of a migration", max((len(one.samples) for one in meta.migrations), default=0), MAX_SAMPLES),
    ):
        if count > most:
            yield f"{count} {name}, at most {most} are read"
    for at in (meta.totals.start, meta.totals.stop):
        yield from _snapshot(at)
    for vm in meta.vms:
        for vcpu in vm.vcpus:
            if not 0 <= vcpu.vcpu < 1 << 16 or not 0 <= vcpu.tid < 1 << 32:
                yield f"vCPU {vcpu.vcpu} of thread {vcpu.tid}"
        if not 0 <= vm.pid < 1 << 32 or not 0 <= (vm.memory_bytes or 0) <= _LARGEST_SUM:
            yield f"VM {vm.id}: process {vm.pid}, {vm.memory_bytes} bytes"
    for migration in meta.migrations:
        moments = [migration.from_ns, migration.to_ns, migration.missing_from_ns]
        for phase in migration.phases:
            moments += (phase.from_ns, phase.to_ns)
        moments += [sample.at_ns for sample in migration.samples]
        if not all(0 <= moment <= _LATEST_NS for moment in moments if moment is not None):
            yield f"migration {migration.id}: a moment beyond all clocks"


def _snapshot(at: Snapshot) -> Iterator[str]:
    total = 0
    for vm in at.vms.values():
        counts: list[int] = [vm.fills_failed, vm.bytes_background]
        counts += [*vm.fills_demand.values(), *vm.fills_background.values()]
        for vcpu in vm.vcpus:
            if not -1 <= vcpu.vcpu < 1 << 16 or not 0 <= vcpu.tid < 1 << 32:
                yield f"totals of vCPU {vcpu.vcpu}, thread {vcpu.tid}"
            counts += [vcpu.stall_ns, vcpu.prefetch, *vcpu.faults.values(), *vcpu.sum_ns.values(), *vcpu.exits.values()]
            for pair in (*vcpu.stages.values(), *vcpu.hardware.values()):
                if len(pair) != 2:
                    yield "totals: a count and a sum are two numbers"
                counts += pair
        if min(counts, default=0) < 0:
            yield "totals below 0"
        total += sum(counts)
    if total > min(_LARGEST_SUM, MAX_INTEGER):
        yield "totals whose sum is beyond 2^62"
