"""What the API answers: the meaning and the unit of every field, for the OpenAPI page and for the tests."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from .hardware import State
from .latency import EMPTY


class Faults(BaseModel):
    """Faults per mode."""

    uffd: int = Field(description="Faults whose vCPU slept until a userfaultfd handler resolved the page; a count.")
    exit: int = Field(description="Faults on which KVM_RUN returned a bare -EFAULT; a count.")
    memory_fault: int = Field(description="Faults on which KVM_RUN returned KVM_EXIT_MEMORY_FAULT; a count.")
    async_: int = Field(
        alias="async", description="Async page faults: a kworker waited, the vCPU may have run on; a count."
    )
    kernel: int = Field(description="Faults that the kernel solved without userspace; a count.")


class Latency(BaseModel):
    """Distribution of a length of time."""

    count: int = Field(description="Faults counted, exact.")
    sum: int = Field(description="Sum of their lengths in ns, exact.")
    p50: int = Field(description="Median in ns, within 3.2 %; 0 if there were none.")
    p90: int = Field(description="90th percentile in ns, within 3.2 %; 0 if there were none.")
    p99: int = Field(description="99th percentile in ns, within 3.2 %; 0 if there were none.")
    max: int = Field(description="Longest in ns: exact if it is the longest ever seen, else at most 6.3 % too high.")


NO_LATENCY: Final = Latency(**EMPTY)


class VmThread(BaseModel):
    """A thread of the VMM that is no vCPU."""

    tid: int = Field(description="Thread id on the host.")
    name: str = Field(description="Name of the thread (its comm).")
    role: str = Field(
        description="What its name says that it is for, such as main, uffd reader, page copier, migration source, "
        "vhost; handler: it resolved faults, and its name says nothing."
    )


class Vm(BaseModel):
    """One virtual machine."""

    id: str = Field(description="Stable name of the VM for this API, for as long as its process lives.")
    pid: int = Field(description="Process id of the VMM.")
    name: str = Field(description="Name for a person: what the VMM calls its VM, or the process's name.")
    vmm: str | None = Field(description="Which VMM it is, such as qemu or firecracker; null if not known.")
    uuid: str | None = Field(None, description="The VM's UUID, as the VMM was told it; null if not known.")
    domain: str | None = Field(None, description="Name of libvirt's domain; null if not known.")
    state: Literal["running", "gone"] = Field(
        description="gone: it has ended, and stays listed with its last totals for ten minutes."
    )
    user: int | None = Field(None, description="Real user id of the VMM's process; null if not known.")
    unreadable: str | None = Field(
        None,
        description="Why the VMM's process cannot be looked at now: name, threads and queues are as they were before, "
        "or not known; faults are counted all the same. null: it can be.",
    )
    vcpus: int = Field(description="Number of vCPUs.")
    not_counted: int = Field(
        0,
        description="vCPUs beyond the room that the collector has, or its user's share: nothing of them is counted.",
    )
    faults: Faults = Field(description="Faults of its vCPUs since the VM was first seen, per mode; counts.")
    threads: list[VmThread] = Field([], description="Threads that have a role, by id; empty in a recording's summary.")


class Vms(BaseModel):
    """All VMs."""

    vms: list[Vm] = Field(description="Every VM that was seen, oldest first, gone ones of the last ten minutes too.")


class Vcpu(BaseModel):
    """One vCPU."""

    vcpu: int = Field(description="Number of the vCPU as KVM knows it (vcpu_id).")
    vm: str = Field(description="Id of its VM.")
    vm_name: str = Field(description="Name of its VM for a person.")
    tid: int = Field(description="Thread id of the vCPU's thread on the host.")
    name: str = Field(description="Name of that thread.")
    faults: Faults = Field(description="Faults since the VM was first seen, per mode; counts.")
    rate_per_s: float = Field(description="Faults per second over the window, without mode kernel.")
    latency_ns: Latency = Field(
        description="Whole faults over the window in ns, from the access until the vCPU ran again; without mode kernel."
    )
    stages_ns: dict[str, Latency] = Field(
        description="Stage (raise, notify, serve, fill, wake, reenter) -> length over the window, ns. A "
        "stage that several modes have is counted together; a stage whose ends were not seen is not counted."
    )
    stall: float = Field(
        description="Share of the window that the vCPU stood still in faults, 0 to 1; open ones count, too."
    )
    open_since_ns: int = Field(
        description="Begin of the fault that the vCPU is in now, CLOCK_MONOTONIC ns of the host; 0: in none."
    )
    exits: dict[str, int] = Field(
        description="How KVM_RUN returned to userspace -> count since the VM was first seen: the exit "
        "reason by name, or the error."
    )
    hardware_exits: dict[str, int] = Field(
        default={},
        description="Why the processor left guest code -> count over the window: the exit reason by the kernel's name.",
    )


class Vcpus(BaseModel):
    """The vCPUs of a VM."""

    window_ns: int = Field(description="Length of the window asked for, ns.")
    window_filled_ns: int = Field(description="Time that the window really covers, ns: what rates and stall refer to.")
    vcpus: list[Vcpu] = Field(description="The VM's vCPUs by number.")


class HardwareExit(BaseModel):
    """Hardware exits of one reason over a window: from kvm_exit to the next kvm_entry of the vCPU."""

    count: int = Field(description="Exits, counted when they happen; a count.")
    sum_ns: int = Field(
        description="Time until the vCPU ran guest code again, of those that did, ns. What happened in between is part "
        "of it: a sleep in userfaultfd, a halt, a return of KVM_RUN to userspace."
    )
    max_ns: int = Field(description="Longest of this reason since the vCPUs were first seen, ns.")


class Exits(BaseModel):
    """Exit reasons over a window."""

    vm: str | None = Field(description="Id of the VM, `all` for all running ones, null if there is none.")
    window_ns: int = Field(description="Length of the window asked for, ns.")
    window_filled_ns: int = Field(description="Time that the window really covers, ns.")
    exits: dict[str, int] = Field(
        description="How KVM_RUN returned to userspace -> count over the window: the kvm_run exit reason by "
        "name, or the error; EFAULT is a bare -EFAULT, without any information."
    )
    hardware: dict[str, HardwareExit] = Field(
        description="Why the processor left guest code, over the window: the exit reason by the kernel's name (VMX, "
        "SVM or arm64), most frequent first."
    )
    hardware_state: State = Field(
        description="counted: this host shows hardware exits; silent: its tracepoints are attached, and this KVM never "
        "fired them; unattached: they are not attached (see /capabilities), or this recording is older than they are."
    )


class Loss(BaseModel):
    """The loss ledger: every place where data can be lost. Totals and percentiles stay right."""

    ring_full: int = Field(description="Fault records that found no room in the ring buffer; a count.")
    map_full: int = Field(description="Faults that found no room in a BPF map; a count.")
    not_counted: int = Field(
        0, description="VMs and vCPUs that the collector had no room for, or that exceeded their user's share; a count."
    )
    unmatched_begin: int = Field(description="Faults that began and never ended, e.g. their waiter died; a count.")
    unmatched_end: int = Field(description="Ends of faults whose begin was not seen; a count.")
    unreadable: int = Field(description="Times that user or kernel memory could not be read; a count.")
    hook_missing: int = Field(description="Essential hooks that are not attached on this host; a count.")
    slow_client: int = Field(
        description="Records and frames that were not sent because their reader was slow: this server as the "
        "collector's reader, and pages; a count."
    )
    server_full: int = Field(description="vCPUs and VMs beyond what the server keeps; a count.")
    ring_error: int = Field(0, description="Times that the ring held what is no record, and was skipped; a count.")
    recording_error: int = Field(0, description="Times that the collector could not write its recording; a count.")


class Source(BaseModel):
    """What feeds the server: a collector or a recording."""

    kind: Literal["live", "replay", "none"] = Field(
        description="live: a collector; replay: a recording of a real run; none: nothing yet."
    )
    state: Literal["connected", "waiting", "stale"] = Field(
        description="connected: data come; waiting: the other side is not there; stale: it says nothing."
    )
    reason: str | None = Field(description="Why there are no live data, one sentence; null if there are.")
    age_ns: int | None = Field(description="Time since the last data, ns; null if there were none.")
    errors: int = Field(description="Frames from the source that did not fit the protocol; a count.")
    host: str | None = Field(description="Name of the traced host.")
    kernel: str | None = Field(description="Release of its kernel.")
    only: str | None = Field(None, description="Which VMs alone are traced; null: every VM of the host.")


class Failure(BaseModel):
    """A part of the server that ended although it should not, and was started again."""

    model_config = ConfigDict(from_attributes=True)

    part: str = Field(description="Which part.")
    reason: str = Field(description="Why it ended the last time.")
    times: int = Field(description="How often it has ended since the server started; a count.")
    at_ns: int = Field(description="When it ended the last time, CLOCK_MONOTONIC of the server's host, ns.")


class Health(BaseModel):
    """Whether the server works, and what it is fed by."""

    status: Literal["ok", "degraded"] = Field(
        description="degraded: the server runs, but no data come, one of its parts ended within the last minute, or "
        "migrations are to be recorded and cannot be."
    )
    version: str = Field(description="Version of exitscope.")
    source: Source = Field(description="Where the data come from.")
    uptime_ns: int = Field(description="Time since the server started, ns.")
    clients: int = Field(description="Pages connected now.")
    unrecorded: str | None = Field(
        default=None, description="Why no migration is recorded, with --auto-record; null: they are, or are not to be."
    )
    failures: list[Failure] = Field(default=[], description="Parts that ended since the server started.")


class PassedOver(BaseModel):
    """An attachment that was not taken."""

    attachment: str = Field(description="Kind and place, such as fentry:handle_userfault.")
    reason: str = Field(description="Why this kernel does not allow it.")


class Hook(BaseModel):
    """One logical hook."""

    hook: str = Field(description="Name of the logical hook.")
    title: str = Field(description="What it watches, for a person.")
    status: str = Field(description="attached, missing, refused (by the kernel) or unsupported.")
    attachment: str | None = Field(description="What it is attached to, such as tracepoint:sys_enter; null if nothing.")
    passed_over: list[PassedOver] = Field(description="Better attachments that this kernel does not allow.")
    effect: str = Field(description="What cannot be shown without it.")
    essential: bool = Field(description="Whether no other hook makes up for it on this host.")


class Profile(BaseModel):
    """How the host's kernel tells userspace of a guest's fault."""

    name: str = Field(description="Short and stable name of the profile, such as memory-fault; unknown.")
    title: str = Field(description="The same for a person.")
    source: str = Field(default="", description="Where the profile's numbers are from.")
    evidence: list[str] = Field(default=[], description="What the kernel's BTF shows that tells it from all others.")
    exit_reason: int | None = Field(None, description="kvm_run->exit_reason of such a fault; null: it sets none.")
    exit_flags: dict[str, str] = Field(default={}, description="Bit number in memory_fault.flags -> its name.")
    capabilities: dict[str, str] = Field(default={}, description="Number of a KVM capability -> its name there.")
    memslot_flags: dict[str, str] = Field(
        default={}, description="Bit number of the memslot flag that asks for such exits -> its name there."
    )


class Capabilities(BaseModel):
    """What this host can show, hook by hook."""

    source: Source = Field(description="Where the data come from.")
    summary: str = Field(description="One sentence for a person.")
    capabilities: list[Hook] = Field(description="The hook plan as the collector carried it out.")
    missing: list[str] = Field(description="What cannot be shown, one sentence per hook that is not attached.")
    profile: Profile | None = Field(description="The kernel's profile; null if the collector has not told it.")
    max_vcpus: int | None = Field(description="vCPUs that the collector can follow at once; null if not known.")
    windows: list[str] = Field(description="The windows on offer.")


class ErrorDetail(BaseModel):
    """One error."""

    code: str = Field(description="Short and stable name of the error.")
    message: str = Field(description="What was wrong, one line for a person.")
    hint: str = Field(description="What to do about it; may be empty.")
    parameter: str | None = Field(None, description="Name of the parameter that was wrong, if it was one.")


class ErrorBody(BaseModel):
    """Every error's shape."""

    error: ErrorDetail = Field(description="What was wrong.")


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI `responses` for these error statuses."""
    meanings = {
        404: "There is no such thing",
        409: "Not possible in this state",
        413: "The body is too large",
        422: "A parameter is wrong",
        500: "A bug in the server",
    }
    return {status: {"model": ErrorBody, "description": meanings[status]} for status in statuses}
