"""The server put together: the only module that knows every stage from source to page."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from . import (
    __version__,
    api_alarms,
    api_compare,
    api_errors,
    api_faults,
    api_migrations,
    api_recordings,
    api_replay,
    api_report,
)
from .alarms.finding import Limits as AlarmLimits
from .api import Services, router
from .autorecord import AutoRecorder
from .bodies import Bodies
from .docs import render
from .heads import Heads
from .metrics import FEW, Detail
from .recordings.library import Library, Limits
from .security import Guard
from .settings import default_recordings
from .source import Source
from .static import Page
from .switch import Switch
from .works import Works

_END_S: Final = 1.0


def create_app(
    source: Source,
    allowed_hosts: Iterable[str] = (),
    library: Library | None = None,
    alarm_limits: AlarmLimits | None = None,
    auto_record: bool = False,
    detail: Detail = FEW,
) -> FastAPI:
    """The ASGI app; it reads the source while it runs. Raises UserError if the page's files are missing.

    library: of recordings; one that cannot record if None. alarm_limits: the defaults if None. auto_record: record each
    migration into the library. detail: how much /metrics says.
    """
    library = library or Library(default_recordings(), Limits(), None)
    switch, works = Switch(source, alarm_limits), Works()
    records_itself = auto_record and library.socket_path is not None
    if records_itself:
        library.must_write = True
        switch.unrecorded = lambda: library.unwritable

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        parts = {
            "the source": switch.run,
            "the alarms": switch.watch,
            "the live stream": switch.hub.run,
            "the recordings": library.run,
        }
        if records_itself:
            parts["recording by itself"] = AutoRecorder(library, lambda: switch.live.migrations).run
        tasks = [asyncio.create_task(works.keep(part, work)) for part, work in parts.items()]
        yield
        await library.close()
        await switch.close()
        left = set(tasks)
        while left:  # a library may swallow one cancellation
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_END_S)

    app = FastAPI(
        title="exitscope",
        version=__version__,
        summary="See where every vCPU's time goes while guest memory isn't there yet.",
        description="All lengths of time are in nanoseconds; moments are CLOCK_MONOTONIC of the traced host.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.detail = detail
    app.state.services = Services(switch, works)
    app.state.switch = switch
    app.state.library = library
    api_errors.install(app)
    app.include_router(router)
    app.include_router(api_alarms.router)
    app.include_router(api_migrations.router)
    app.include_router(api_recordings.router)
    app.include_router(api_replay.router)
    app.include_router(api_compare.router)
    app.include_router(api_faults.router)
    app.include_router(api_report.router)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))

    app.mount("/", Page())
    app.add_middleware(Heads)
    app.add_middleware(Bodies)
    app.add_middleware(Guard, names=tuple(allowed_hosts))  # the last that is added is the first that is asked
    return app
