"""The HTTP API of comparisons."""

from contextlib import suppress
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from . import models
from .api_recordings import library
from .compare import report
from .compare.comparison import compare
from .compare.models import Comparison
from .compare.statistics import DRIFT
from .errors import ApiError, UserError
from .report import plotly_script

router = APIRouter(responses=models.answers(413, 422, 500))

MAX_ID: Final = 200

with suppress(UserError, OSError):  # read while it may be: see there
    plotly_script()

RecordingId = Annotated[str, Query(min_length=1, max_length=MAX_ID, description="Id of a finished recording.")]
VmId = Annotated[
    str | None, Query(max_length=MAX_ID, description="Compare only this VM of the recording. Default: all of them.")
]


@router.get(
    "/api/v1/compare",
    tags=["recordings"],
    response_model=Comparison,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The comparison"},
        **models.answers(404, 409),
    },
)
async def compare_recordings(
    request: Request,
    a: RecordingId,
    b: RecordingId,
    force: Annotated[
        bool, Query(description="Call a winner although the conditions are unfair; it is marked.")
    ] = False,
    vm_a: VmId = None,
    vm_b: VmId = None,
    drift: Annotated[
        float, Query(ge=0, le=1, description="Standard deviation of the median from run to run to allow for, a share.")
    ] = DRIFT,
    format: Annotated[
        Literal["json", "html"], Query(description="html: a report in one file that needs nothing else.")
    ] = "json",
) -> Any:
    """Hold two recordings against each other: figures with confidence intervals, conditions, and a verdict."""
    first, second = (library(request).open(one) for one in (a, b))
    try:
        comparison = await run_in_threadpool(compare, first, second, force, vm_a, vm_b, drift)
    except UserError as error:
        raise ApiError(422, "not_comparable", str(error), "The recording's /summary lists its VMs.") from None
    if format == "json":
        return comparison
    names = {"content-disposition": 'attachment; filename="exitscope-comparison.html"'}
    page = await run_in_threadpool(report.html, comparison)
    return Response(page, media_type="text/html", headers=names)
