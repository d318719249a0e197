"""The API's part about recordings: start, stop, list, look at one, delete."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from . import frame, models
from .api import services
from .errors import ApiError
from .hub import MAX_ID
from .recordings.library import MAX_NAME, Entry, Library
from .recordings.meta import RecordingMeta
from .switch import Switch
from .vms import ALL

router = APIRouter(prefix="/api/v1", tags=["recordings"], responses=models.answers(413, 422, 500))

RecordingId = Annotated[str, Path(max_length=MAX_ID, description="Id of a recording.")]


class RecordingEntry(BaseModel):
    """One recording."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="Id of the recording.")
    name: str = Field(description="What it was called when it was started; may be empty.")
    state: Literal["recording", "finished", "failed"] = Field(
        description="failed: it ended early or could not be kept, see note; what was written by then is usable."
    )
    started_wall_ms: int = Field(description="When it began, ms since 1970.")
    duration_ns: int = Field(description="How long it is, ns.")
    records: int = Field(description="Fault records in it, so far; a count.")
    bytes: int = Field(description="Bytes on disk, so far.")
    vms: list[str] = Field(description="Names of the VMs in it; while it runs, the id of the only VM that it is about.")
    note: str = Field(description="One sentence on what is special; empty if nothing is.")
    migrations: int = Field(default=0, description="Migrations in it, each with a report; 0 while it runs. A count.")
    made_here: bool = Field(
        default=False,
        description="A server made it in this folder: the limits are about it. What was copied here is never deleted.",
    )


class RecordingLimits(BaseModel):
    """When recordings made here are deleted, oldest first; one that runs ends when it alone exceeds max_bytes."""

    max_bytes: int = Field(description="Bytes of all recordings made here together; 0: no limit.")
    max_age_ns: int = Field(description="Age of a recording by the folder's own clock, ns; 0: no limit.")
    used_bytes: int = Field(description="Bytes that those made here take now.")
    directory: str = Field(description="Where they are kept.")


class DeletedRecording(BaseModel):
    """A recording that was deleted to keep the limits."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="Its id.")
    name: str = Field(description="What it was called; may be empty.")
    started_wall_ms: int = Field(description="When it began, ms since 1970.")
    bytes: int = Field(description="Bytes that it took.")
    deleted_wall_ms: int = Field(description="When it was deleted, ms since 1970.")
    why: str = Field(description="Why, in one sentence.")


class Recordings(BaseModel):
    """All recordings."""

    recordings: list[RecordingEntry] = Field(description="Newest first.")
    limits: RecordingLimits = Field(description="What is kept, and for how long.")
    deleted: list[DeletedRecording] = Field(
        default=[], description="The last that were deleted by themselves since the server started, newest first."
    )


class NewRecording(BaseModel):
    """What to record."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=MAX_NAME, description="What to call it.")
    vm: str | None = Field(
        default=None, max_length=MAX_ID, description="Id of the only VM to record; null or all: all."
    )


class RecordingStarted(BaseModel):
    """A recording that runs now."""

    id: str = Field(description="Its id.")


def library(request: Request) -> Library:
    """The app's library."""
    found: Library = request.app.state.library
    return found


@router.get("/recordings")
async def recordings(request: Request) -> Recordings:
    """Every recording that is kept, and the limits."""
    at = library(request)
    listed = at.entries()
    return Recordings(
        recordings=[_shown(entry) for entry in listed],
        limits=RecordingLimits(
            max_bytes=at.limits.max_bytes,
            max_age_ns=at.limits.max_age_ns,
            used_bytes=sum(entry.bytes for entry in listed if entry.made_here),
            directory=str(at.shelf.directory),
        ),
        deleted=[DeletedRecording.model_validate(one) for one in reversed(at.deleted)],
    )


@router.post("/recordings", responses=models.answers(409))
async def start(request: Request, wanted: NewRecording | None = None) -> RecordingStarted:
    """Begin a recording of one VM or of all. It records when this answers."""
    wanted = wanted or NewRecording()
    vm = None if wanted.vm in (None, "", ALL) else wanted.vm
    aggregate = services(request).live
    if vm is not None and frame.select(aggregate, vm) is None:
        known = ", ".join(one.id for one in list(aggregate.vms)[-10:]) or "none yet"
        raise ApiError(422, "unknown_vm", f"vm: no VM {vm!r}", f"VMs seen: {known}.", "vm")
    return RecordingStarted(id=await library(request).start(wanted.name, vm))


@router.post("/recordings/{id}/stop", responses=models.answers(404))
async def stop(request: Request, id: RecordingId) -> RecordingEntry:
    """End a recording and make its file; if that takes more than a minute, it is still `recording` then."""
    return _shown(await library(request).stop(id))


@router.get("/recordings/{id}", responses=models.answers(404))
async def recording(request: Request, id: RecordingId) -> RecordingMeta:
    """All that a recording says of itself: conditions, hook plan, exact totals, losses. It names command lines."""
    return library(request).meta(id)


@router.delete("/recordings/{id}", status_code=204, response_class=Response, responses=models.answers(404))
async def delete(request: Request, id: RecordingId) -> Response:
    """Delete a recording for good; one that runs is ended first, and so is its replay."""
    await library(request).delete(id)
    switch: Switch = request.app.state.switch
    if switch.player is not None and switch.player.file.meta.id == id:
        await switch.back()
    return Response(status_code=204)


def _shown(entry: Entry) -> RecordingEntry:
    return RecordingEntry.model_validate(entry)
