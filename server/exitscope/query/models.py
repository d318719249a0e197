"""What the summary of a recording and the list of its faults answer: the meaning and the unit of every field."""

from typing import Literal

from pydantic import BaseModel, Field

from ..hardware import State
from ..models import Latency, Vcpu, Vm


class ModeLatency(Latency):
    """Faults of one mode."""

    rate_per_s: float = Field(description="Faults per second of the part.")


class Fills(BaseModel):
    """Pages made present."""

    demand: dict[str, int] = Field(description="Resolver -> pages that somebody waited for; counts.")
    background: dict[str, int] = Field(description="Resolver -> pages filled ahead of need; counts.")
    failed: int = Field(description="Resolving ioctls that returned an error; a count.")


class SlowFault(BaseModel):
    """One of the slowest faults."""

    time_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    vm: str = Field(description="Id of its VM.")
    vcpu: int = Field(description="Number of the vCPU.")
    mode: str = Field(description="How it surfaced.")
    latency_ns: int = Field(description="The whole fault, ns.")
    stages_ns: dict[str, int] = Field(description="Stage -> length in ns; 0 where its ends were not seen.")
    resolver: str = Field(description="What made the page present.")
    handler_tid: int = Field(description="Thread that filled the page, 0 if not seen.")
    tid: int = Field(description="Thread that waited.")
    access: int = Field(description="What the guest wanted: 1 read, 2 write, 4 fetch, together; 0: not seen.")
    presence: str = Field(description="Whether the host had the page when the guest asked for it.")
    memslot: int | None = Field(description="Number of the memory slot; null if not known.")
    gpa: str | None = Field(description="Guest physical address of the page, hexadecimal; null if not known.")
    hva: str | None = Field(description="Host virtual address of the page, hexadecimal; null if not known.")


class TickMode(BaseModel):
    """One mode in one column of time."""

    rate_per_s: float = Field(description="Faults that began in it, per second.")
    p50: int = Field(description="Median in ns, within 3.2 %.")
    p90: int = Field(description="90th percentile in ns, within 3.2 %.")
    p99: int = Field(description="99th percentile in ns, within 3.2 %.")
    max: int = Field(description="Longest in ns, at most 6.3 % too high.")


class RecordedHardwareExit(BaseModel):
    """Hardware exits of one reason."""

    count: int = Field(description="Exits; a count.")
    sum_ns: int = Field(description="Time until the vCPU ran guest code again, ns.")
    max_ns: None = Field(description="Longest, ns: null, for recordings do not hold it.")


class RecordingVcpu(Vcpu):
    """One vCPU of a recording; what it counts is of the part."""

    hardware_exits: dict[str, int] = Field(
        description="Why the processor left guest code -> count in the part: the exit reason by the kernel's name."
    )


class Stalled(BaseModel):
    """How many vCPUs stood still in one column of time."""

    mean: float = Field(description="On average: the time stood still of all vCPUs, by the column's length.")
    peak: int = Field(description="Most at once. Async faults are in neither: records do not say if they halted.")
    vcpus: int = Field(description="vCPUs that there are.")


class TickFills(BaseModel):
    """Pages made present in one column of time; spread evenly where it is shorter than a second."""

    demand: int = Field(description="Pages that somebody waited for; a count.")
    background: int = Field(description="Pages filled ahead of need; a count.")


class GpaFaults(BaseModel):
    """Where in guest memory the faults of one column of time were; those without a known address are left out."""

    bin_bytes: int = Field(description="Length of a bin of guest physical addresses, bytes, a power of two.")
    cells: list[tuple[int, int]] = Field(
        description="Bins with faults, by address: gpa // bin_bytes, and the faults in it."
    )


class RecordingTick(BaseModel):
    """One column of time."""

    time_ns: int = Field(description="Its middle, CLOCK_MONOTONIC ns of the traced host.")
    modes: dict[str, TickMode] = Field(description="Mode -> rate and latencies; modes without a fault are left out.")
    heat: list[int | None] = Field(
        description="p99 of each vCPU's faults that began there, or for how long it has stood at least in one that "
        "began earlier, ns; in the order of vcpus; null: no fault."
    )
    stall: list[float] = Field(description="Share of the column that each vCPU stood still, 0 to 1.")
    stalled: Stalled = Field(description="How many vCPUs stood still.")
    fills: TickFills | None = Field(description="Pages made present; null if the recording does not hold it.")
    gpa: GpaFaults | None = Field(description="Where in guest memory the faults were; null: of more than one VM.")


class StallTick(BaseModel):
    """Stall of every vCPU in one column of time."""

    from_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    stall: list[float] = Field(description="Share of the column, 0 to 1, in the order of vcpus.")


class RecordingSummary(BaseModel):
    """All that happened in a recording, or in a part of it."""

    id: str = Field(description="Id of the recording.")
    name: str = Field(description="Its name.")
    started_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    ended_ns: int = Field(description="Its end, ns of the same clock.")
    started_wall_ms: int = Field(description="Its begin, ms since 1970.")
    from_ns: int = Field(description="Begin of the part that this is about, ns of the same clock.")
    to_ns: int = Field(description="End of that part, ns. A fault belongs to the part in which it began.")
    window_ns: int = Field(description="Length of that part, ns.")
    source: Literal["kernel totals", "records"] = Field(
        description="kernel totals: counts, sums, stall, exits and fills are the kernel's, exact even where records "
        "were lost. records: of a part; exits and fills of it are to the second, stall without async faults."
    )
    vm: str | None = Field(description="Id of the only VM that this is about; null: all.")
    vms: list[Vm] = Field(description="The VMs.")
    modes: dict[str, ModeLatency] = Field(description="Mode -> faults of vCPUs; modes without a fault are left out.")
    other: Latency = Field(description="Faults of the VMs' other threads, ns; they are in no other figure.")
    stages: dict[str, dict[str, Latency]] = Field(description="Family (uffd, exit, async) -> stage -> length, ns.")
    vcpus: list[RecordingVcpu] = Field(description="The vCPUs, as in /vms/{vm}/vcpus; counts are of the part.")
    exits: dict[str, int] | None = Field(
        description="How KVM_RUN returned to userspace -> count; null: not known, the recording has only the whole."
    )
    hardware: dict[str, RecordedHardwareExit] | None = Field(
        description="Why the processor left guest code, by the kernel's name; null: not known."
    )
    hardware_state: State = Field(
        description="counted: the host showed some in the part; silent: its tracepoints showed none; "
        "unattached: they were not."
    )
    fills: Fills | None = Field(description="Pages made present in the part, by what did it; null: not known.")
    slowest: list[SlowFault] = Field(description="The slowest faults that vCPUs waited for, slowest first.")
    loss: dict[str, int] = Field(description="The loss ledger over the whole recording; counts.")
    complete: bool = Field(description="Whether every fault of the recording is a record.")
    note: str = Field(description="One sentence on what is special; empty if nothing is.")
    tick_ns: int = Field(description="Width of a column of time, ns; the last one may be cut.")
    ticks: list[RecordingTick] = Field(description="Columns of time, at most 300.")
    stall_over_time: list[StallTick] = Field(description="The stall of ticks once more, by itself.")


class Fault(BaseModel):
    """One fault. Numbers are exact, but above 2^53 ns (104 days of uptime) not for readers that know doubles only."""

    vm: str = Field(description="Id of its VM.")
    vcpu: int = Field(description="Number of the vCPU, -1: another thread of the VM.")
    mode: str = Field(description="How it surfaced: uffd, exit, memory_fault or async.")
    waiter: str = Field(description="Who waited: vcpu, async or other.")
    resolver: str = Field(description="What made the page present.")
    seen: str = Field(description="What was seen of it: access, sleep, read, fill, halt, range, named, joined by +.")
    tid: int = Field(description="Thread that waited.")
    handler_tid: int = Field(description="Thread that filled the page, 0 if not seen.")
    begin_ns: int = Field(description="Its begin, CLOCK_MONOTONIC ns of the traced host.")
    raise_ns: int = Field(description="Access to queued, or to KVM_RUN returned, ns.")
    notify_ns: int = Field(description="Queued to read by a handler, ns; 0 in exit modes.")
    serve_ns: int = Field(description="Read (or KVM_RUN returned) to begin of the fill, ns.")
    fill_ns: int = Field(description="The resolving ioctl, ns.")
    finish_ns: int = Field(description="Filled to running again, ns: wake or reenter.")
    hva: str | None = Field(description="Host virtual address of the page, hexadecimal; null if not known.")
    gpa: str | None = Field(description="Guest physical address of the page, hexadecimal; null if not known.")
    exit_errno: str | None = Field(description="What KVM_RUN returned, such as EFAULT; null if it did not return.")
    exit_reason: str | None = Field(description="kvm_run->exit_reason then, such as KVM_EXIT_MEMORY_FAULT.")
    exit_flags: int = Field(description="Flags of KVM_EXIT_MEMORY_FAULT.")
    exit_size: int = Field(description="Size of KVM_EXIT_MEMORY_FAULT, bytes.")
    access: str | None = Field(description="What the guest wanted: read, write, exec, joined by +; null: not seen.")
    presence: str = Field(description="Whether the host had the page when the guest asked for it.")
    memslot: int | None = Field(description="Number of the memory slot; null if not known.")
    latency_ns: int = Field(description="The whole fault, ns: the sum of its five stages.")


class Faults(BaseModel):
    """Faults of a recording by their begin."""

    faults: list[Fault] = Field(description="The faults.")
    next_offset: int | None = Field(description="The offset that goes on from here; null: there are no more.")
