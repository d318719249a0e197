"""The HTTP API of migration reports."""

from typing import Annotated, Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Request, Response

from . import models
from .api_faults import identity, queries
from .api_recordings import RecordingId, library
from .errors import ApiError
from .migration_report import html
from .migration_report.models import MigrationReport
from .migration_report.report import report
from .recordings.file import RecordingFile

router = APIRouter(
    prefix="/api/v1/recordings/{id}/migrations/{number}",
    tags=["recordings"],
    responses=models.answers(404, 409, 413, 422, 500),
)

MAX_NUMBER: Final = 1 << 16
Number = Annotated[int, Path(ge=0, le=MAX_NUMBER, description="Number of the migration in the recording, from 0.")]


@router.get("/report", response_model=MigrationReport)
async def migration_report(request: Request, id: RecordingId, number: Number) -> Response:
    """What happened in one migration: phases, brownout, latencies, the worst moments, QEMU's account beside ours."""
    recording = _open(request, id, number)
    return Response(await run_sync(_json, request, recording, number), media_type="application/json")


@router.get(
    "/report.html",
    response_class=Response,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The report"}},
)
async def migration_report_html(request: Request, id: RecordingId, number: Number) -> Response:
    """The same as one file that needs nothing else."""
    recording = _open(request, id, number)
    page = await run_sync(lambda: html.html(MigrationReport.model_validate_json(_json(request, recording, number))))
    names = {"content-disposition": 'attachment; filename="exitscope-migration.html"'}
    return Response(page, media_type="text/html", headers=names)


def _open(request: Request, recording_id: str, number: int) -> RecordingFile:
    """Raises ApiError 404, or 409 while the recording runs."""
    recording = library(request).open(recording_id)
    if number >= len(recording.meta.migrations):
        listed = len(recording.meta.migrations)
        hint = f"It has {listed}, from 0 on." if listed else "No migration was seen in it."
        message = f"recording {recording_id} has no migration {number}"
        raise ApiError(404, "unknown_migration", message, hint, "number")
    return recording


def _json(request: Request, recording: RecordingFile, number: int) -> bytes:
    asked = queries(request)
    return asked.kept(
        (identity(recording), "migration", number),
        lambda: report(asked.engine, recording, number).model_dump_json().encode(),
    )
