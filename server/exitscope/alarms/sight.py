"""What the rules look at: the state at one moment, and who waits in it."""

from dataclasses import dataclass

from exitscope_probes.records import VCPU_OTHER

from ..aggregate import Aggregate
from ..migrations.course import Course
from ..vms import Vm
from .finding import Limits


@dataclass(frozen=True, slots=True)
class Wait:
    """A vCPU of a running VM that is in a fault. age_ns: of the fault, when the collector looked."""

    vm: Vm
    vcpu: int
    open_since_ns: int
    age_ns: int


class Sight:
    """One look at a state. waits: VM id -> its vCPUs that are in a fault, the longest first; only VMs that have one."""

    def __init__(self, aggregate: Aggregate, limits: Limits) -> None:
        self.aggregate = aggregate
        self.limits = limits
        self.time_ns = aggregate.time_ns
        self.running = aggregate.vms.running()
        self._courses = {course.vm: course for course in aggregate.migrations.courses()}
        self.waits: dict[str, list[Wait]] = {}
        open_since_ns = aggregate.rows.open_since_ns.tolist()
        for vm in self.running:
            waits = [
                Wait(vm, vcpu, open_since_ns[row], max(self.time_ns - open_since_ns[row], 0))
                for vcpu, row in vm.rows.items()
                if open_since_ns[row] and vcpu != VCPU_OTHER
            ]
            if waits:
                self.waits[vm.id] = sorted(waits, key=lambda wait: (wait.open_since_ns, wait.vcpu))

    def migration(self, vm: Vm) -> Course | None:
        """The newest migration of the VM; None if there was none."""
        return self._courses.get(vm.id)
