"""The HTTP API of alarms."""

from fastapi import APIRouter, Request

from . import models
from .alarms.models import Alarms
from .switch import Switch

router = APIRouter(prefix="/api/v1", tags=["alarms"], responses=models.answers(413, 422, 500))


@router.get("/alarms")
async def alarms(request: Request) -> Alarms:
    """What is wrong now, what was in the last ten minutes, and the oldest open fault of each VM; as shown."""
    switch: Switch = request.app.state.switch
    return switch.alarms.listed()
