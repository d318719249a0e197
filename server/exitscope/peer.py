"""What the collector says in JSON, checked before anything believes it."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from exitscope_probes.layouts import VCPU_NUMBERS
from exitscope_probes.untrusted import cleaned
from exitscope_probes.wire import Message, WireError


def _short(name: object) -> object:
    return cleaned(name, 256) if isinstance(name, str) else name


Name = Annotated[str, BeforeValidator(_short)]
"""Cut where it is longer than anybody reads; wire.py has cleaned it."""

Id = Annotated[str, Field(max_length=256)]
Bytes = Annotated[int, Field(ge=0, lt=1 << 62)]
Ns = Annotated[int, Field(ge=0, lt=1 << 62)]
Count = Annotated[int, Field(ge=0, lt=1 << 48)]
Word = Annotated[int, Field(ge=0, lt=1 << 32)]
"""Of 32 bits: numbers of VMs and vCPUs, process and thread ids."""
_M = TypeVar("_M", bound="_Model")


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PeerVcpu(_Model):
    """One vCPU that discovery found."""

    vcpu: Annotated[int, Field(ge=0, lt=VCPU_NUMBERS)]
    tid: Word = 0
    name: Name | None = None


class PeerUffd(_Model):
    """Queue of one userfaultfd, from fdinfo."""

    pending: Count = 0
    total: Count = 0


class PeerThread(_Model):
    """A thread that is no vCPU. role: what its name says that it is for; cpu_ns: CPU time so far, None if it has ended.

    reads: it was seen to read the VM's events. pid, process, lives: of a handler, the process that it belongs to, its
    name, and whether it is still there; None if that is not known.
    """

    tid: Annotated[int, Field(gt=0, lt=1 << 32)]
    name: Name | None = None
    role: Name | None = None
    cpu_ns: Ns | None = None
    pid: Word | None = None
    process: Name | None = None
    lives: bool | None = None
    reads: bool = False


class PeerVm(_Model):
    """One VM that discovery found. threads: those with a role; handlers: those that resolved faults, of any process.

    unreadable: why its process cannot be looked at now; what is known of it is from before.
    """

    vm: Annotated[int, Field(gt=0, lt=1 << 32)]
    id: Id
    pid: Word
    name: Name | None = None
    vmm: Name | None = None
    state: Literal["running", "gone"] = "running"
    vcpus: Annotated[list[PeerVcpu], Field(max_length=4096)] = []
    user: int | None = None
    not_counted: Word = 0  # vCPUs
    unreadable: Name | None = None
    uffds: Annotated[list[PeerUffd], Field(max_length=4096)] = []
    backing: Name | None = None
    memory_bytes: Bytes | None = None
    uuid: Name | None = None
    domain: Name | None = None
    threads: Annotated[list[PeerThread], Field(max_length=4096)] = []
    handlers: Annotated[list[PeerThread], Field(max_length=4096)] = []
    command: Annotated[str, Field(max_length=4096)] | None = None
    uffd_features: Annotated[list[Name], Field(max_length=64)] | None = None


class PeerUser(_Model):
    """Room that one user's VMs take. not_counted: VMs and vCPUs that found none, since the collector's start."""

    user: Word
    vms: Word = 0
    vcpus: Word = 0
    not_counted: Word = 0


class PeerVms(_Model):
    """Meta of a VMS frame."""

    vms: Annotated[list[PeerVm], Field(max_length=4096)]
    users: Annotated[list[PeerUser], Field(max_length=4096)] = []


class Hello(_Model):
    """Meta of a HELLO frame. started_ns tells one run of the collector from another."""

    version: Name | None = None
    host: Name | None = None
    kernel: Name | None = None
    cpus: Word | None = None
    started_ns: Ns = 0
    capabilities: list[dict[str, Any]] | dict[str, Any] | None = None
    max_vcpus: Word | None = None
    max_vms: Word | None = None
    only: Name | None = None
    migrations: Annotated[list[dict[str, Any]], Field(max_length=4096)] | None = None  # of a recording, told in advance
    queues: bool = True  # False: of a recording, which does not hold what was in the userfaultfds' queues

    @property
    def hooks(self) -> list[dict[str, Any]]:
        """The hook plan; empty if it was not told."""
        said = self.capabilities or []
        found = said.get("hooks", []) if isinstance(said, dict) else said
        return [hook for hook in found if isinstance(hook, dict)] if isinstance(found, list) else []

    def lacks(self, name: str) -> bool:
        """Whether a logical hook is said not to be attached."""
        return any(hook.get("hook") == name and hook.get("status") != "attached" for hook in self.hooks)


class PeerMigration(_Model):
    """Meta of a MIGRATION frame: what a VMM says of a migration of its VM. None: it does not say."""

    vm: Annotated[int, Field(gt=0, lt=1 << 32)]
    follow: Name
    reason: Name | None = None
    at_ns: Ns | None = None
    status: Name | None = None
    role: Literal["source", "destination"] | None = None
    capabilities: Annotated[list[Name], Field(max_length=256)] | None = None
    remaining_bytes: Bytes | None = None
    transferred_bytes: Bytes | None = None
    postcopy_requests: Bytes | None = None
    bytes_per_s: Annotated[float, Field(ge=0)] | None = None
    total_ns: Ns | None = None


def checked(model: type[_M], message: Message) -> _M:
    """The message's meta as this model. Raises WireError naming the first field that does not fit."""
    try:
        return model.model_validate(message.meta)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "meta"
        raise WireError(f"{message.kind.name} frame: {where}: {first['msg']}") from None
