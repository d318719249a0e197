"""Rules: a vCPU, or a VM, that stands still for long, and a fault that may never be resolved."""

from collections.abc import Iterator
from typing import Final

from ..scalars import STALL_NS
from ..vms import Vm
from ..words import counted, percent
from .finding import Finding, beyond
from .sight import Sight
from .words import age

OVER_NS: Final = 10_000_000_000
"""Over this time the stall of a VM is looked at: a migration that is over sooner is none of an operator's worries."""


def vcpu_stalled(sight: Sight) -> Iterator[Finding]:
    """One finding per VM, however many vCPUs stand still."""
    limit_ns = sight.limits.stall_ns
    for vm_id, waits in sight.waits.items():
        over = [wait for wait in waits if beyond(wait.age_ns, limit_ns)]
        if not over:
            continue
        worst, name = over[0], over[0].vm.name
        message = f"vCPU {worst.vcpu} of {name} has stood still for {age(worst.age_ns)} in one fault."
        if len(over) > 1:
            message = (
                f"{len(over)} of {counted(len(worst.vm.vcpus()), 'vCPU')} of {name} have stood still for more than "
                f"{age(limit_ns)}, vCPU {worst.vcpu} longest: {age(worst.age_ns)}."
            )
        yield Finding(
            "vcpu_stalled",
            "warning",
            message,
            "Its queue and stages show where the time goes: in the handler, or in the network or storage behind it.",
            vm_id,
            name,
            worst.vcpu,
            worst.age_ns,
            limit_ns,
        )


class VmStalls:
    """Remembers when a vCPU of a VM stood still for long in one fault: then vcpu_stalled tells of it."""

    def __init__(self) -> None:
        self._long_ns: dict[str, int] = {}

    def look(self, sight: Sight) -> Iterator[Finding]:
        """One finding per VM whose vCPUs stood still for most of the time, though no fault is long."""
        limit_ns = sight.limits.vm_stall_percent * OVER_NS // 100
        since_ns = sight.time_ns - OVER_NS
        self._long_ns = {vm_id: ns for vm_id, ns in self._long_ns.items() if since_ns < ns <= sight.time_ns}
        for vm_id, (oldest, *_) in sight.waits.items():
            if beyond(oldest.age_ns, sight.limits.stall_ns):
                self._long_ns[vm_id] = sight.time_ns
        for vm in sight.running if limit_ns else ():
            finding = _stalled(sight, vm, limit_ns) if vm.id not in self._long_ns else None
            if finding:
                yield finding


def _stalled(sight: Sight, vm: Vm, limit_ns: int) -> Finding | None:
    vcpus, counters = vm.vcpus(), sight.aggregate.scalars
    if not vcpus:
        return None
    stood_ns = counters.since(OVER_NS, vm.vcpu_rows(), slice(STALL_NS, STALL_NS + 1))[:, 0]
    span_ns = max(counters.filled_ns(OVER_NS), OVER_NS)
    mean_ns = min(int(stood_ns.sum()) * OVER_NS // (span_ns * len(vcpus)), OVER_NS)
    if mean_ns <= limit_ns:
        return None
    who = "The vCPU" if len(vcpus) == 1 else f"The {len(vcpus)} vCPUs"
    return Finding(
        "vm_stalled",
        "warning",
        f"{who} of {vm.name} stood still for {percent(mean_ns / OVER_NS)} of the last {age(OVER_NS)}, waiting for "
        "pages.",
        "It makes hardly any progress: see the stages for where the time of its faults goes, and whether more pages "
        "can be sent ahead of need.",
        vm.id,
        vm.name,
        vcpus[int(stood_ns.argmax())],
        mean_ns,
        limit_ns,
    )


def oldest_fault(sight: Sight) -> Iterator[Finding]:
    """A VM's oldest fault."""
    limit_ns = sight.limits.fault_ns
    for vm_id, (oldest, *_) in sight.waits.items():
        if beyond(oldest.age_ns, limit_ns):
            name = oldest.vm.name
            yield Finding(
                "oldest_fault",
                "critical",
                f"The oldest fault of {name}, of vCPU {oldest.vcpu}, has been unresolved for {age(oldest.age_ns)}.",
                "Its page may never come: see whether the handler still reads events, and whether the pages' source "
                "still answers.",
                vm_id,
                name,
                oldest.vcpu,
                oldest.age_ns,
                limit_ns,
            )
