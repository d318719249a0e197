"""The API's part about replay: every page shows a recording in place of the live host."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from . import models
from .api_recordings import library
from .errors import ApiError
from .hub import MAX_ID
from .recordings.player import MAX_SPEED, MIN_SPEED, Player
from .switch import Switch

router = APIRouter(prefix="/api/v1", tags=["recordings"], responses=models.answers(413, 422, 500))


class Replay(BaseModel):
    """What is played, and where it is; all null while the source is live."""

    model_config = ConfigDict(from_attributes=True)

    id: str | None = Field(
        default=None, description="Id of the recording that is shown; null: none, the source is live."
    )
    at_ns: int | None = Field(default=None, description="Moment that is shown, CLOCK_MONOTONIC ns of the traced host.")
    from_ns: int | None = Field(default=None, description="Begin of the recording, the same clock, ns.")
    to_ns: int | None = Field(default=None, description="End of the recording, the same clock, ns.")
    speed: float | None = Field(default=None, description="Seconds of the recording per second.")
    paused: bool | None = Field(default=None, description="Whether time stands still; so it does at the end.")
    error: str | None = Field(default=None, description="Why the last replay ended by itself; null if it did not.")
    host_alarms: int = Field(default=0, description="Active alarms of this host, which a replay hides; a count.")


class WantedReplay(BaseModel):
    """What to play, and how; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=MAX_ID, description="Id of a finished recording.")]
    at_ns: int | None = Field(
        default=None, ge=0, lt=1 << 63, description="Moment to go to, CLOCK_MONOTONIC ns of the traced host."
    )
    speed: float | None = Field(
        default=None, ge=MIN_SPEED, le=MAX_SPEED, description="Seconds of the recording per second."
    )
    paused: bool | None = Field(default=None, description="Whether time stands still.")


def _switch(request: Request) -> Switch:
    found: Switch = request.app.state.switch
    return found


def _shown(switch: Switch, player: Player | None) -> Replay:
    shown = Replay.model_validate(player.position()) if player else Replay()
    shown.error = switch.replay_error
    shown.host_alarms = len(switch.live_alarms.active) if switch.live_status.kind == "live" else 0
    return shown


@router.get("/replay")
async def replay(request: Request) -> Replay:
    """What is played now."""
    switch = _switch(request)
    return _shown(switch, switch.player)


@router.post("/replay", responses=models.answers(404, 409))
async def play(request: Request, wanted: WantedReplay) -> Replay:
    """Play a recording, on every page; or change how it is played."""
    switch = _switch(request)
    player = switch.player
    another = player is None or player.file.meta.id != wanted.id
    if player is None or another:
        file = library(request).open(wanted.id)
        if file.meta.ended_ns <= file.meta.started_ns:
            raise ApiError(409, "empty", f"recording {wanted.id} has no length", "There is nothing to play.")
        player = await switch.play(file)
    if wanted.at_ns is not None:
        player.seek(wanted.at_ns)
    player.play(wanted.speed, wanted.paused)
    if another:
        await switch.begun(player)
        if switch.replay_error is not None:
            raise ApiError(409, "cannot_be_played", switch.replay_error, "Delete the recording, or make it anew.", "id")
    return _shown(switch, player)


@router.delete("/replay", status_code=204, response_class=Response)
async def end(request: Request) -> Response:
    """Back to what the server was started with."""
    await _switch(request).back()
    return Response(status_code=204)
