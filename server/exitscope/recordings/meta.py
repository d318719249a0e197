"""What a recording says about itself: the JSON in the footer of its file."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..migrations.models import Migration

FORMAT: Final = 1

State = Literal["recording", "finished", "failed"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class RecordedVcpu(_Model):
    """One vCPU."""

    vcpu: int = Field(description="Number of the vCPU as KVM knows it (vcpu_id).")
    tid: int = Field(default=0, description="Thread id of its thread on the host.")
    name: str = Field(default="", description="Name of that thread.")


class Handler(_Model):
    """A thread that resolved faults."""

    tid: int = Field(description="Thread id on the host.")
    name: str = Field(default="", description="Name of the thread; empty if it had ended.")
    fills: int = Field(default=0, description="Recorded faults that it resolved; a count.")


class RecordedVm(_Model):
    """One VM and the conditions that it ran under."""

    id: str = Field(description="Id of the VM, as in column vm.")
    pid: int = Field(default=0, description="Process id of the VMM.")
    name: str = Field(default="", description="Name for a person.")
    vmm: str | None = Field(default=None, description="Which VMM it is; null if not known.")
    uuid: str | None = Field(default=None, description="The VM's UUID; null if not known.")
    domain: str | None = Field(default=None, description="Name of libvirt's domain; null if not known.")
    command: str | None = Field(default=None, description="Command line of the VMM; null if not known.")
    vcpus: list[RecordedVcpu] = Field(default=[], description="Its vCPUs by number.")
    handlers: list[Handler] = Field(default=[], description="Threads that resolved recorded faults, busiest first.")
    uffd_features: list[str] | None = Field(
        default=None, description="Features of its userfaultfds; null if they could not be read, empty if it has none."
    )
    backing: str | None = Field(
        default=None, description="What guest memory is made of, such as anonymous or hugetlb; null if not known."
    )
    memory_bytes: int | None = Field(
        default=None, description="Size of the guest memory that was found; null if not known."
    )
    async_faults: bool = Field(default=False, description="Whether async page faults were seen.")
    memslots: list[int] = Field(default=[], description="Numbers of the memory slots that faulted; empty if not known.")


class VcpuTotals(_Model):
    """The kernel's exact totals of one vCPU, or of a VM's other threads (vcpu -1)."""

    vcpu: int = Field(description="Number of the vCPU; -1: the VM's other threads.")
    tid: int = Field(default=0, description="Thread id on the host; 0 if not known.")
    faults: dict[str, int] = Field(default={}, description="Mode -> faults; counts.")
    sum_ns: dict[str, int] = Field(default={}, description="Mode -> sum of their lengths, ns.")
    stages: dict[str, list[int]] = Field(default={}, description="family.stage, as uffd.raise -> [count, sum in ns].")
    stall_ns: int = Field(default=0, description="Time inside finished faults in which the vCPU stood still, ns.")
    exits: dict[str, int] = Field(default={}, description="How KVM_RUN returned to userspace -> count.")
    hardware: dict[str, list[int]] = Field(
        default={}, description="Hardware exit -> [count, time until guest code ran again in ns], since the start."
    )
    prefetch: int = Field(default=0, description="KVM's own mappings after an async fault; a count.")


class VmTotals(_Model):
    """The kernel's exact totals of one VM."""

    vcpus: list[VcpuTotals] = Field(default=[], description="By number; other threads (-1) first.")
    fills_demand: dict[str, int] = Field(default={}, description="Resolver -> fills that somebody waited for; counts.")
    fills_background: dict[str, int] = Field(default={}, description="Resolver -> fills ahead of need; counts.")
    fills_failed: int = Field(default=0, description="Resolving ioctls that returned an error; a count.")
    bytes_background: int = Field(default=0, description="Bytes filled ahead of need.")


class Snapshot(_Model):
    """The totals at one moment."""

    time_ns: int = Field(default=0, description="CLOCK_MONOTONIC of the traced host, ns.")
    vms: dict[str, VmTotals] = Field(default={}, description="Id of the VM -> its totals.")


class Totals(_Model):
    """The totals when the recording began and when it ended: the difference is what happened in it, exactly."""

    start: Snapshot = Field(default=Snapshot(), description="When the recording began.")
    stop: Snapshot = Field(default=Snapshot(), description="When it ended.")


class Gap(_Model):
    """A time in which no collector ran."""

    from_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns.")
    to_ns: int = Field(description="Its end, CLOCK_MONOTONIC ns.")


class Load(_Model):
    """How busy the host was at one moment."""

    average: float | None = Field(default=None, description="Load average of the last minute; null: not known.")
    vms: int | None = Field(default=None, description="VMs that ran, recorded or not; a count, null: not known.")


class RecordingMeta(_Model):
    """All that a recording knows besides its records."""

    id: str = Field(description="Id of the recording.")
    name: str = Field(default="", description="What it was called when it was started; may be empty.")
    state: State = Field(default="finished", description="recording, finished, or failed: it ended early, see note.")
    format: int = Field(default=FORMAT, description="Version of the file's layout.")
    started_ns: int = Field(default=0, description="When it began, CLOCK_MONOTONIC ns of the traced host.")
    ended_ns: int = Field(default=0, description="When it ended, the same clock, ns.")
    started_wall_ms: int = Field(default=0, description="Wall clock, ms since 1970.")
    shelf: str | None = Field(
        default=None, description="Id of the server's folder in which it was made; null: not known, or copied."
    )
    shelved_ns: int = Field(default=0, description="When it began by that folder's own clock, ns.")
    host: str | None = Field(default=None, description="Name of the traced host.")
    kernel: str | None = Field(default=None, description="Release of its kernel.")
    cpus: int | None = Field(default=None, description="Number of its processors.")
    cpu_model: str | None = Field(default=None, description="What it calls its processors.")
    load_start: Load = Field(default=Load(), description="How busy the host was when the recording began.")
    load_stop: Load = Field(default=Load(), description="How busy it was when the recording ended.")
    sampling: str = Field(default="none", description="none: every finished fault is a record.")
    hooks: list[dict[str, Any]] = Field(default=[], description="The hook plan, as in /capabilities.")
    profile: dict[str, Any] = Field(default={}, description="The kernel's series, with the names of its exit flags.")
    vms: list[RecordedVm] = Field(default=[], description="VMs that were there.")
    totals: Totals = Field(default=Totals(), description="The kernel's exact totals at start and stop.")
    loss: dict[str, int] = Field(default={}, description="Loss ledger over the recording: name -> count.")
    migrations: list[Migration] = Field(
        default=[], description="Migrations and other pagings-in of its VMs, as far as it saw them; oldest first."
    )
    lost_ns: int = Field(default=0, description="At most so much is missing at the end after a crash, ns; 0: nothing.")
    gaps: list[Gap] = Field(default=[], description="Times in which no collector ran.")
    records: int = Field(default=0, description="Number of records.")
    complete: bool = Field(default=True, description="Whether every fault between begin and end is a record.")
    note: str = Field(default="", description="One sentence on what is special; empty if nothing is.")

    @property
    def duration_ns(self) -> int:
        """Length of the recording."""
        return max(self.ended_ns - self.started_ns, 0)

    def vm(self, vm_id: str) -> RecordedVm | None:
        """The VM with this id."""
        return next((vm for vm in self.vms if vm.id == vm_id), None)


def origin(head: dict[str, Any]) -> tuple[str | None, int]:
    """RecordingMeta's shelf and shelved_ns, from the head of a spool."""
    shelf, shelved_ns = head.get("shelf"), head.get("shelved_ns")
    known = isinstance(shelf, str) and isinstance(shelved_ns, int) and shelved_ns >= 0
    return (str(shelf), int(shelved_ns or 0)) if known else (None, 0)
