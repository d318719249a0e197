"""What is said of one migration: in the API, in live frames (without samples), and in a recording's metadata."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..models import NO_LATENCY, Latency

Kind = Literal["postcopy", "precopy", "page-in"]
Role = Literal["destination", "source"]
How = Literal["qmp", "kernel"]
State = Literal["active", "completed", "failed", "ended"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Phase(_Model):
    """A part of a migration; phases follow each other without a gap."""

    name: str = Field(
        description="setup, precopy, postcopy, …: QEMU's status by its common name, from its answers over QMP; paging: "
        "pages are filled in, as the kernel shows."
    )
    from_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    to_ns: int | None = Field(default=None, description="Its end, the same clock, ns; null: it goes on.")


class MigrationFills(_Model):
    """Pages that were placed."""

    demand: int = Field(default=0, description="Fills of a page that somebody waited for; a count.")
    background: int = Field(default=0, description="Fills ahead of need; a count.")
    woken: int = Field(
        default=0,
        description="Faults answered by UFFDIO_WAKE alone: their pages were placed otherwise, such as by a write into "
        "a memfd; a count.",
    )


class VcpuStall(_Model):
    """How long one vCPU stood still."""

    vcpu: int = Field(description="Number of the vCPU as KVM knows it (vcpu_id).")
    stall_ns: int = Field(description="Time that it stood still in faults since missing_from_ns, ns; an open one too.")


class Brownout(_Model):
    """How many vCPUs stood still at once, since missing_from_ns."""

    mean: float = Field(default=0, description="On average over the time, exact: all stall by all time.")
    peak: int = Field(default=0, description="Most seen at once.")
    vcpus: int = Field(default=0, description="vCPUs that the VM has.")


class Standstill(_Model):
    """How long the vCPUs stood still while pages were missing: the same figure wherever it is shown."""

    from_ns: int = Field(
        description="Begin of the postcopy phase, as QEMU names it, or of the paging; CLOCK_MONOTONIC ns."
    )
    length_ns: int = Field(description="From then to its end, or until now, ns.")
    vcpus: int = Field(description="vCPUs of the destination.")
    stall_ns: int = Field(description="Time that they stood still in it, all together, ns.")
    share: float = Field(description="Their stall by their time, 0 to 1.")


class Sample(_Model):
    """What QEMU said at one moment."""

    at_ns: int = Field(description="When it answered, CLOCK_MONOTONIC ns.")
    status: str | None = Field(default=None, description="QEMU's MigrationStatus.")
    remaining_bytes: int | None = Field(default=None, description="Guest memory left to be sent, bytes.")
    transferred_bytes: int | None = Field(default=None, description="Bytes sent so far.")
    bytes_per_s: float | None = Field(default=None, description="Throughput as QEMU says it, bytes per second.")
    postcopy_requests: int | None = Field(
        default=None, description="Pages that the destination has asked for; a count."
    )


class Migration(_Model):
    """One migration, or another paging-in of a VM's memory, seen from one side of it."""

    id: str = Field(description="Its id.")
    vm: str = Field(description="Id of the VM, as in /vms.")
    vm_name: str = Field(description="Name of the VM for a person.")
    kind: Kind = Field(
        description="postcopy: the VM runs before its memory is there; precopy: after (so far); page-in: its memory is "
        "filled in while it runs, as from a snapshot, by whatever VMM."
    )
    role: Role = Field(description="destination: the VM's memory comes; source: it goes.")
    how: How = Field(description="qmp: QEMU says so itself; kernel: recognised from what the kernel shows, inferred.")
    evidence: list[str] = Field(default=[], description="Why it is thought to be one, and to have ended; sentences.")
    ending: list[str] = Field(default=[], description="Those of the evidence that say how it ended.")
    state: State = Field(
        description="active; completed; failed: also cancelled; ended: it stopped, and nobody said that it is complete."
    )
    from_ns: int = Field(description="First sign of it, CLOCK_MONOTONIC ns of the traced host.")
    to_ns: int | None = Field(default=None, description="Last sign of it (the last fill), ns; null while it goes on.")
    wall_ms: int = Field(default=0, description="Wall clock of from_ns, ms since 1970.")
    missing_from_ns: int | None = Field(
        default=None, description="When pages were first filled or missed, ns; stall and brownout count from then on."
    )
    phases: list[Phase] = Field(default=[], description="Oldest first.")
    faults: dict[str, int] = Field(default={}, description="Mode -> faults of its vCPUs during the migration; counts.")
    latency_ns: Latency = Field(default=NO_LATENCY, description="Whole faults in ns, without mode kernel.")
    stages_ns: dict[str, dict[str, Latency]] = Field(
        default={},
        description="Family (uffd, exit, async) -> stage -> its length, ns; families without a fault left out.",
    )
    fills: MigrationFills = Field(default=MigrationFills(), description="Pages placed during the migration.")
    stall: list[VcpuStall] = Field(default=[], description="By vCPU.")
    brownout: Brownout = Field(default=Brownout(), description="How many vCPUs stood still at once.")
    standstill: Standstill | None = Field(
        default=None, description="How long they stood still, of all their time; null of a source."
    )
    qmp: dict[str, Any] | None = Field(
        default=None, description="QEMU's newest answer, as the collector passes it on; null if it is not asked."
    )
    samples: list[Sample] = Field(
        default=[], description="QEMU's answers, oldest first, at most 900 over the whole migration; empty in lists."
    )
    recording: str | None = Field(default=None, description="Id of the recording that was made of it by itself.")
    other: str | None = Field(default=None, description="Id of the migration that is the other side, on this host.")


class MigrationList(_Model):
    """All migrations."""

    migrations: list[Migration] = Field(description="Newest first, without samples.")
