"""Rules: a vCPU that stands still for long, and a fault that may never be resolved."""

from collections.abc import Iterator

from ..words import counted
from .finding import Finding, beyond
from .sight import Sight
from .words import age


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
