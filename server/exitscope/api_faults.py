"""The API's part about what is in a recording: its summary, and its faults to take away."""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import anyio
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from . import __version__, models
from .api_recordings import RecordingId, library
from .errors import ApiError, error_body
from .export.formats import FORMATS
from .hub import MAX_ID
from .mallocs import give_back
from .query.engine import Engine
from .query.faults import Filters
from .query.models import Faults, RecordingSummary
from .query.summary import summary as summarize
from .recordings.file import RecordingFile
from .recordings.library import Library
from .vms import ALL

router = APIRouter(prefix="/api/v1", tags=["recordings"], responses=models.answers(404, 409, 413, 422, 500))

MAX_EXPORTS: Final = 2
"""Exports at once: each may take as long as its reader wants."""
_PATIENCE_S: Final = 15.0  # longer than connections.STALLED_S: a stalled reader makes room
_CACHE_BYTES: Final = 32 << 20
_MAX_NUMBER: Final = (1 << 63) - 1
_MAX_CHOICES: Final = 1024
_RANGE: Final = r"(\d{1,18}-\d{0,18}|-\d{1,18})"
_RANGES: Final = re.compile(rf"bytes={_RANGE}(\s*,\s*{_RANGE}){{0,15}}", re.ASCII)

VmName = Annotated[str | None, Query(max_length=MAX_ID, description="Id of the only VM to look at; empty or all: all.")]
FromNs = Annotated[
    int | None, Query(ge=0, le=_MAX_NUMBER, description="Only faults that began at or after this, CLOCK_MONOTONIC ns.")
]
ToNs = Annotated[int | None, Query(ge=0, le=_MAX_NUMBER, description="Only faults that began before this, same clock.")]
Length = Annotated[int | None, Query(ge=0, le=_MAX_NUMBER, description="Bound of the whole fault's length, ns.")]


class Queries:
    """What the questions to recordings share: one engine, and the answers that were asked for."""

    def __init__(self, library: Library) -> None:
        self.engine = Engine(library.shelf.directory)
        self.exports = CapacityLimiter(MAX_EXPORTS)
        self._one = threading.Lock()
        self._summaries: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    def summary(self, recording: RecordingFile, *part: Any) -> bytes:
        """JSON of a summary."""
        return self.kept(
            (identity(recording), *part), lambda: json.dumps(summarize(self.engine, recording, *part)).encode()
        )

    def kept(self, key: tuple[Any, ...], make: Callable[[], bytes]) -> bytes:
        """What `make` gives, asked for once; one at a time, each takes all the threads."""
        with self._one:
            if key not in self._summaries:
                self._summaries[key] = make()
                give_back()
                while sum(map(len, self._summaries.values())) > _CACHE_BYTES and len(self._summaries) > 1:
                    self._summaries.popitem(last=False)
            self._summaries.move_to_end(key)
            return self._summaries[key]


def queries(request: Request) -> Queries:
    """The app's, made when they are first needed: DuckDB takes memory."""
    state = request.app.state
    if not hasattr(state, "queries"):
        state.queries = Queries(library(request))
    found: Queries = state.queries
    return found


def identity(recording: RecordingFile) -> str:
    """Changes whenever the file does."""
    stat = Path(recording.path).stat()
    return f"{recording.meta.id} {stat.st_size} {stat.st_mtime_ns}"


@router.get("/recordings/{id}/summary", response_model=RecordingSummary)
async def summary(
    request: Request, id: RecordingId, vm: VmName = None, from_ns: FromNs = None, to_ns: ToNs = None
) -> Response:
    """Everything that the live API gives, over a whole finished recording or a part, with columns of time."""
    recording = library(request).open(id)
    asked = _vm(recording, vm)
    _check_order(from_ns, to_ns, "to_ns")
    content = await run_sync(queries(request).summary, recording, asked, from_ns, to_ns)
    return Response(content, media_type="application/json")


@router.get(
    "/recordings/{id}/faults",
    response_class=Response,
    responses={
        200: {
            "model": Faults,
            "description": "The faults, as a stream",
            "headers": {"ETag": {"schema": {"type": "string"}, "description": "Names this answer for If-None-Match."}},
            "content": {
                one.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
                for name, one in FORMATS.items()
                if name != "json"
            },
        },
        206: {
            "description": "The range asked for, of a recording",
            "content": {"application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "What If-None-Match names is still right"},
        416: {"model": models.ErrorBody, "description": "The range is not in the file"},
        429: {"model": models.ErrorBody, "description": f"{MAX_EXPORTS} exports run already"},
    },
)
async def faults(
    request: Request,
    id: RecordingId,
    format: Annotated[
        Literal["json", "csv", "parquet", "arrow", "perfetto", "recording"],
        Query(
            description="json: {faults, next_offset}; csv; parquet; arrow: an IPC stream; perfetto: a trace for "
            "ui.perfetto.dev; recording: the file itself, without any filter, which exitscope can play and compare."
        ),
    ] = "json",
    vm: VmName = None,
    vcpu: Annotated[
        list[Annotated[int, Query(ge=-1, le=65534)]],
        Query(max_length=_MAX_CHOICES, description="Only this vCPU; may be given several times; -1: other threads."),
    ] = [],  # noqa: B006 (FastAPI copies it)
    mode: Annotated[
        list[Literal["uffd", "exit", "memory_fault", "async"]],
        Query(max_length=_MAX_CHOICES, description="Only this mode; may be given several times."),
    ] = [],  # noqa: B006
    from_ns: FromNs = None,
    to_ns: ToNs = None,
    min_latency_ns: Length = None,
    max_latency_ns: Length = None,
    limit: Annotated[int | None, Query(ge=1, le=_MAX_NUMBER - 1, description="At most so many faults.")] = None,
    offset: Annotated[int, Query(ge=0, le=_MAX_NUMBER, description="Leave out so many at the begin.")] = 0,
    if_none_match: Annotated[str | None, Header(description="ETag of an answer that is there already.")] = None,
) -> Response:
    """The faults by their begin, in any format, whatever their number: streamed."""
    recording = library(request).open(id)
    _check_order(from_ns, to_ns, "to_ns")
    _check_order(min_latency_ns, max_latency_ns, "max_latency_ns", least=0)
    filters = Filters(
        _vm(recording, vm), tuple(sorted(set(vcpu))), tuple(sorted(set(mode))), from_ns, to_ns, min_latency_ns,
        max_latency_ns, limit, offset,
    )  # fmt: skip
    if format == "recording" and not filters.whole:
        raise ApiError(422, "invalid_parameter", "format: a recording is whole", "Leave out the filters.", "format")
    suffix = FORMATS[format].suffix if format in FORMATS else "parquet"
    headers = {
        "etag": f'"{hashlib.sha256(f"{__version__} {identity(recording)} {format} {filters}".encode()).hexdigest()}"',
        "content-disposition": f'attachment; filename="exitscope-{id}.{suffix}"',
    }
    if if_none_match and _names(if_none_match, headers["etag"]):
        return Response(status_code=304, headers={"etag": headers["etag"]})
    if format == "recording":
        return _file(request, recording, headers)
    return await _stream(queries(request), recording, filters, format, headers)


async def _stream(
    at: Queries, recording: RecordingFile, filters: Filters, format: str, headers: dict[str, str]
) -> Response:
    token = object()
    try:
        with anyio.fail_after(_PATIENCE_S):
            await at.exports.acquire_on_behalf_of(token)
    except TimeoutError:
        why = f"{MAX_EXPORTS} exports run already"
        raise ApiError(429, "busy", why, "Try again when one of them has ended.") from None
    chunks = FORMATS[format].stream(at.engine, recording, filters)
    try:
        first = await run_sync(next, chunks, b"")  # what cannot be answered at all must not begin as a 200
    except BaseException:
        at.exports.release_on_behalf_of(token)
        raise
    return _Export(first, chunks, partial(at.exports.release_on_behalf_of, token), FORMATS[format].media_type, headers)


class _Export(StreamingResponse):
    """Sends the chunks, and ends their query however the request ends."""

    def __init__(
        self,
        first: bytes,
        chunks: Iterator[bytes],
        ended: Callable[[], None],
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(self._body(first, chunks), media_type=media_type, headers=headers)
        self._chunks = chunks
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                if isinstance(self._chunks, Generator):
                    await run_sync(self._chunks.close)
                self._ended()

    @staticmethod
    async def _body(first: bytes, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        yield first
        while chunk := await run_sync(_next, chunks):
            yield chunk


def _next(chunks: Iterator[bytes]) -> bytes:
    """The next chunk that is not empty, b"" at the end."""
    return next((chunk for chunk in chunks if chunk), b"")


def _file(request: Request, recording: RecordingFile, headers: dict[str, str]) -> Response:
    """The file as it is, or the ranges of it that are asked for; a Range that is none is ignored (RFC 9110, 14.2)."""
    size = Path(recording.path).stat().st_size
    asked = request.headers.get("range")
    if asked is not None:
        ranges = _ranges(asked, size)
        if ranges is None:
            request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
        elif any(first >= size for first in ranges):
            body = error_body("range_not_satisfiable", f"range: the file has {size} bytes", "Ask for less.", "range")
            return JSONResponse(body, 416, {"content-range": f"bytes */{size}"})
    return FileResponse(recording.path, media_type=FORMATS["parquet"].media_type, headers=headers)


def _ranges(asked: str, size: int) -> list[int] | None:
    """First byte of each range, None if this is no Range of bytes."""
    if not _RANGES.fullmatch(asked):
        return None
    found = []
    for one in asked.removeprefix("bytes=").split(","):
        first, _, last = one.strip().partition("-")
        if first and last and int(last) < int(first):
            return None
        found.append(int(first) if first else size - int(last))
    return found


def _vm(recording: RecordingFile, vm: str | None) -> str | None:
    if vm in (None, "", ALL):
        return None
    if recording.meta.vm(str(vm)) is None:
        known = ", ".join(one.id for one in recording.meta.vms[:10]) or "none"
        raise ApiError(422, "unknown_vm", f"vm: no VM {vm!r} in this recording", f"VMs in it: {known}.", "vm")
    return vm


def _check_order(low: int | None, high: int | None, name: str, least: int = 1) -> None:
    if low is not None and high is not None and high - low < least:
        message = f"{name}: {high} is too small, the lower bound is {low}"
        raise ApiError(422, "invalid_parameter", message, "Swap them, or leave one out.", name)


def _names(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2."""
    given = (one.strip().removeprefix("W/") for one in if_none_match.split(","))
    return any(one in ("*", etag) for one in given)
