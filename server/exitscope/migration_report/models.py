"""What the report of a migration answers: the meaning and the unit of every field.

Moments are CLOCK_MONOTONIC ns of the traced host.
"""

from typing import Literal

from pydantic import BaseModel, Field

from ..migrations.models import How, Kind, Role, Sample, Standstill, State
from ..models import Latency
from ..query.models import SlowFault

StageGroup = Literal["kernel", "handler_wait", "serve", "wake"]


class ReportPhase(BaseModel):
    """A part of the migration."""

    name: str = Field(description="setup, precopy, postcopy, paging, …")
    from_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    to_ns: int = Field(description="Its end, same clock, ns; that of the recording if the phase went on.")
    length_ns: int = Field(description="How long it took, ns.")
    ended: bool = Field(description="Whether its end was seen.")


class ReportBrownout(BaseModel):
    """How many vCPUs stood still at once, exactly: from the begin and the end of every recorded fault.

    A vCPU stands still while at least one of its faults is open. Async faults count if their vCPU was halted.
    """

    from_ns: int = Field(description="Begin of what is looked at, the phase in which pages were missing, ns.")
    to_ns: int = Field(description="Its end, same clock, ns.")
    vcpus: int = Field(description="Number of vCPUs.")
    mean: float = Field(description="Average number of vCPUs that stood still.")
    share: float = Field(description="The same as a share of all vCPUs, 0 to 1.")
    peak: int = Field(description="Most that stood still at once.")
    time_at_ns: list[int] = Field(description="[k]: time in which exactly k vCPUs stood still, ns.")
    all_ns: int = Field(description="The longest time in which all stood still together, ns.")
    all_from_ns: int | None = Field(description="When that began, same clock, ns; null if it never was so.")
    tick_ns: int = Field(description="Width of a column of time, ns; the last one may be cut.")
    mean_over_time: list[float] = Field(description="Average number that stood still, of each column.")
    peak_over_time: list[int] = Field(description="Most that stood still at once, of each column.")
    stall_over_time: list[list[float]] = Field(
        description="[vCPU, in the order of vcpus][column]: share of the column in which it stood still, 0 to 1."
    )


class ReportStage(BaseModel):
    """A part of the faults' time, as an operator would divide it."""

    group: StageGroup = Field(description="kernel: raise and fill; handler_wait: notify; serve; wake: wake or reenter.")
    title: str = Field(description="What it is, for a person.")
    inferred: bool = Field(description="Whether what it was spent on is inferred, not seen.")
    share: float = Field(description="Share of the time of all faults of this family, 0 to 1.")
    latency_ns: Latency = Field(description="Its length in ns, of the faults of which it was seen.")


class ReportMoment(BaseModel):
    """One of the worst moments."""

    from_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    to_ns: int = Field(description="Its end, same clock, ns.")
    mean: float = Field(description="Average number of vCPUs that stood still.")
    peak: int = Field(description="Most at once.")
    faults: int = Field(description="Faults that were open in it; a count.")
    longest: "ReportFault" = Field(description="The slowest fault that was open in it.")


class ReportFault(SlowFault):
    """A slow fault, and who served it."""

    handler_name: str = Field(description="Name of the thread that filled the page; empty if not known.")
    handler_role: str | None = Field(description="What that thread is for; null if its name does not say.")


class ReportHandler(BaseModel):
    """A thread that filled pages that somebody waited for."""

    tid: int = Field(description="Thread id on the host.")
    name: str = Field(description="Its name; empty if it had ended.")
    role: str | None = Field(description="What it is for; null if its name does not say.")
    faults: int = Field(description="Faults of the migration that it resolved; a count.")
    serve_ns: Latency = Field(description="From read to the begin of the fill in ns, of these.")


class ReportFills(BaseModel):
    """Pages made present, as the kernel counted them: exact, in columns of a second or more."""

    from_ns: int = Field(description="Begin of the first column, CLOCK_MONOTONIC ns.")
    tick_ns: int = Field(description="Width of a column, ns.")
    demand: list[int] = Field(description="Pages that somebody waited for, of each column; counts.")
    background: list[int] = Field(description="Pages that were filled ahead of need, of each column; counts.")
    demand_total: int = Field(description="All of the migration; a count.")
    background_total: int = Field(description="All of the migration; a count.")


class ReportMemslot(BaseModel):
    """A slot of guest memory that was asked for."""

    memslot: int = Field(description="Number of the slot.")
    from_gpa: str = Field(description="Lowest guest physical address that was asked for, hexadecimal.")
    to_gpa: str = Field(description="Highest one, hexadecimal.")
    faults: int = Field(description="Faults in it; a count.")


class ReportMemory(BaseModel):
    """Which guest memory was asked for, and when."""

    bin_bytes: int = Field(description="Size of a row, bytes: a power of two.")
    rows: list[str] = Field(
        description="Guest physical address at which each row begins, hexadecimal, rising; stretches of more than "
        "256 MiB that nobody asked for are left out."
    )
    tick_ns: int = Field(description="Width of a column, ns, from the brownout's from_ns on.")
    ticks: int = Field(description="Number of columns.")
    cells: list[tuple[int, int, int]] = Field(description="Column, row, faults; those without a fault are left out.")
    memslots: list[ReportMemslot] = Field(description="By number.")
    unknown: int = Field(description="Faults whose guest physical address is not known; a count.")


class ReportVcpu(BaseModel):
    """One vCPU: what it suffered, and QEMU's account of it beside ours.

    same_ns + before_ns + after_ns + unread_ns - overlap_ns = stall_ns.
    """

    vcpu: int = Field(description="Number of the vCPU as KVM knows it (vcpu_id).")
    tid: int = Field(description="Its thread; 0 if not known.")
    latency_ns: Latency = Field(description="Lengths in ns of its faults that a handler or the VMM had to resolve.")
    stall_ns: int = Field(description="Time that it stood still for these, ns: ours in full.")
    share: float = Field(description="The same as a share of the time that the brownout looks at, 0 to 1.")
    kernel_stall_ns: int | None = Field(
        description="What the kernel counted, ns: with faults that it solved alone, and of records that were lost; "
        "null if the migration does not say."
    )
    qemu_ns: int | None = Field(description="QEMU's vcpu-blocktime, ns, a multiple of 1 ms; null if it keeps none.")
    same_ns: int = Field(description="Ours counted as QEMU does: event read to page placed, one at a time, ns.")
    before_ns: int = Field(description="raise and notify: before QEMU's count begins, ns.")
    after_ns: int = Field(description="wake: after it ends, ns.")
    unread_ns: int = Field(description="Faults without an event that was read: QEMU knows nothing of them, ns.")
    overlap_ns: int = Field(description="Faults of this vCPU at the same time, which are one standstill, ns.")


class ReportAccount(BaseModel):
    """QEMU's postcopy-blocktime beside ours."""

    known: bool = Field(description="Whether QEMU keeps such an account, and told it.")
    qemu_ns: int | None = Field(description="Its sum over the vCPUs, ns.")
    same_ns: int = Field(description="Ours counted the same way, ns.")
    stall_ns: int = Field(description="Ours in full, ns.")
    before_ns: int = Field(description="raise and notify, ns.")
    after_ns: int = Field(description="wake, ns.")
    unread_ns: int = Field(description="Faults without an event, ns.")
    overlap_ns: int = Field(description="Faults of one vCPU at the same time, ns.")
    rounding_ns: int = Field(description="What rounding to 1 ms at either end may have made of QEMU's sum, 95 %, ns.")
    qemu_all_ns: int | None = Field(description="QEMU's time in which all vCPUs were blocked, ns.")
    same_all_ns: int = Field(description="Ours counted the same way, ns.")
    all_ns: int = Field(description="Ours in full: time in which all stood still, ns.")
    why: list[str] = Field(description="Why they differ, in sentences.")


class ReportRequests(BaseModel):
    """Pages that the source was asked for, beside the faults that asked for them."""

    requests: int | None = Field(description="QEMU's postcopy-requests, of the source; null if not known.")
    faults: int = Field(
        description="Recorded faults that slept in userfaultfd, those of other threads of the VMM too; a count."
    )
    events: int = Field(description="Of these: with an event that a handler has read; a count.")
    pages: int = Field(description="Different pages among those; a count.")
    vcpus_at_one: int = Field(description="Most vCPUs that waited for one page; a count.")
    why: list[str] = Field(description="Why they differ, in sentences.")


class MigrationReport(BaseModel):
    """What happened in one migration of a recording."""

    recording: str = Field(description="Id of the recording.")
    recording_name: str = Field(description="Its name.")
    migration: int = Field(description="Number of the migration in the recording, from 0.")
    id: str = Field(description="Id of the migration.")
    vm: str = Field(description="Id of the VM.")
    vm_name: str = Field(description="Its name.")
    host: str | None = Field(description="Name of the traced host.")
    kind: Kind = Field(description="What it was.")
    role: Role = Field(description="Which side this host is.")
    how: How = Field(description="How it is known: from QEMU's monitor, or from what KVM showed.")
    evidence: list[str] = Field(description="What speaks for it, in sentences.")
    state: State = Field(description="How it ended, as far as is known.")
    sentence: str = Field(description="The report in one sentence.")
    details: list[str] = Field(description="Further sentences.")
    unknown: list[str] = Field(description="What is not known, or not whole, in sentences.")
    from_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    to_ns: int = Field(description="Its end, same clock, ns; that of the recording if it went on.")
    length_ns: int = Field(description="How long it took, ns.")
    started_wall_ms: int = Field(description="Its begin, ms since 1970.")
    phases: list[ReportPhase] = Field(description="In their order.")
    samples: list[Sample] = Field(description="What QEMU said over time; empty if it was not asked.")
    standstill: Standstill | None = Field(
        default=None, description="How long the vCPUs stood still, as it is told everywhere; null of a source."
    )
    brownout: ReportBrownout = Field(description="How many vCPUs stood still at once.")
    modes: dict[str, Latency] = Field(description="Mode -> faults of vCPUs; modes without a fault are left out.")
    counted: dict[str, int] = Field(description="Mode -> faults as the kernel counted them, exact; counts.")
    stages: dict[str, list[ReportStage]] = Field(description="Family (uffd, exit, async) -> parts of the faults' time.")
    worst: list[ReportMoment] = Field(description="The worst moments, worst first.")
    slowest: list[ReportFault] = Field(description="The slowest faults, slowest first.")
    handlers: list[ReportHandler] = Field(description="Who filled the pages, busiest first.")
    fills: ReportFills | None = Field(description="Pages over time; null if the recording does not say.")
    memory: ReportMemory = Field(description="Which guest memory was asked for.")
    vcpus: list[ReportVcpu] = Field(description="By number.")
    account: ReportAccount = Field(description="QEMU's account beside ours.")
    requests: ReportRequests = Field(description="Requests beside faults.")
