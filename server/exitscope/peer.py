"""What the collector says in JSON, checked before anything believes it."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from exitscope_probes.wire import Message, WireError

Name = Annotated[str, Field(max_length=256)]
_M = TypeVar("_M", bound="_Model")


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PeerVcpu(_Model):
    """One vCPU that discovery found."""

    vcpu: NonNegativeInt
    slot: int | None = None
    tid: NonNegativeInt = 0
    name: Name | None = None


class PeerUffd(_Model):
    """Queue of one userfaultfd, from fdinfo."""

    fd: int = -1
    pending: NonNegativeInt = 0
    total: NonNegativeInt = 0


class PeerVm(_Model):
    """One VM that discovery found."""

    vm: Annotated[int, Field(gt=0)]
    id: Name
    pid: NonNegativeInt
    name: Name | None = None
    vmm: Name | None = None
    state: Literal["running", "gone"] = "running"
    vcpus: Annotated[list[PeerVcpu], Field(max_length=4096)] = []
    uffds: Annotated[list[PeerUffd], Field(max_length=4096)] = []


class PeerVms(_Model):
    """Meta of a VMS frame."""

    vms: Annotated[list[PeerVm], Field(max_length=4096)]


class Hello(_Model):
    """Meta of a HELLO frame. started_ns tells one run of the collector from another."""

    version: Name | None = None
    host: Name | None = None
    kernel: Name | None = None
    cpus: NonNegativeInt | None = None
    started_ns: int = 0
    capabilities: list[dict[str, Any]] | dict[str, Any] | None = None
    max_vcpus: NonNegativeInt | None = None


def checked(model: type[_M], message: Message) -> _M:
    """The message's meta as this model. Raises WireError naming the first field that does not fit."""
    try:
        return model.model_validate(message.meta)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "meta"
        raise WireError(f"{message.kind.name} frame: {where}: {first['msg']}") from None
