"""What the API says of alarms."""

from typing import Literal

from pydantic import BaseModel, Field

Kind = Literal[
    "oldest_fault",
    "handler_gone",
    "handler_stuck",
    "vcpu_stalled",
    "vm_stalled",
    "async_livelock",
    "records_lost",
    "vm_died",
    "source_lost",
    "not_recorded",
]
Severity = Literal["warning", "critical"]


class Alarm(BaseModel):
    """Something that is wrong, or was in the last ten minutes. Moments are CLOCK_MONOTONIC ns of the host."""

    id: str = Field(description="Name of this alarm, the same for as long as it is listed.")
    kind: Kind = Field(
        description="oldest_fault: a fault is unresolved for longer than --alarm-fault; handler_gone: who resolves a "
        "VM's faults has vanished, or its userfaultfd was closed under a waiter; handler_stuck: faults wait, and "
        "nothing was read or filled for longer than --alarm-handler; vcpu_stalled: vCPUs stand still for longer than "
        "--alarm-stall; vm_stalled: all vCPUs of a VM together stand still for more of their time than "
        "--alarm-vm-stall, however short each fault is; async_livelock: async page faults are tried again and again, "
        "and no page comes; records_lost: data are being lost (see /loss); vm_died: a VM ended amid a fault or a "
        "migration; source_lost: the collector says nothing any more; not_recorded: --auto-record is on, and no "
        "recording can be written."
    )
    vm: str | None = Field(description="Id of the VM; null if it is about all of them.")
    vm_name: str | None = Field(description="Name of the VM for a person.")
    vcpu: int | None = Field(description="Number of the vCPU that is worst off; null if it is about none.")
    severity: Severity = Field(description="critical: a VM hangs or has died, or nothing is known any more.")
    message: str = Field(description="What is wrong, one sentence with the numbers.")
    hint: str = Field(description="What to do about it.")
    since_ns: int = Field(description="When it was raised, ns.")
    value_ns: int | None = Field(description="The length of time that it is about, ns; the worst of several.")
    limit_ns: int | None = Field(description="The limit that this is beyond, ns.")
    active: bool = Field(description="Whether it goes on.")
    ended_ns: int | None = Field(description="When it ended, ns; null while it goes on.")


class OldestFault(BaseModel):
    """The fault of a running VM that has been unresolved for longest."""

    vm: str = Field(description="Id of the VM.")
    vcpu: int = Field(description="Number of the vCPU that waits for it.")
    open_since_ns: int = Field(description="When it began, CLOCK_MONOTONIC ns of the host.")
    age_ns: int = Field(description="How long it had been open when the collector last looked, ns.")


class Alarms(BaseModel):
    """What is wrong, and what was."""

    alarms: list[Alarm] = Field(
        description="Active ones first, the critical before the others; then those that ended in the last ten minutes."
    )
    oldest_faults: list[OldestFault] = Field(
        description="Of each running VM that has an open fault, the longest first."
    )
