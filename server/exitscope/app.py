"""The server put together: the only module that knows every stage from source to page."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from . import __version__, api_compare, api_faults, api_recordings, api_replay, errors
from .api import Services, router
from .docs import render
from .recordings.library import Library, Limits
from .security import Guard
from .settings import default_recordings
from .source import Source
from .static import Page
from .switch import Switch

log = logging.getLogger("exitscope")


def create_app(source: Source, allowed_hosts: Iterable[str] = (), library: Library | None = None) -> FastAPI:
    """The ASGI app; it reads the source while it runs. Raises UserError if the page's files are missing.

    library: of recordings; one that cannot record if None.
    """
    library = library or Library(default_recordings(), Limits(), None)
    switch = Switch(source)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (switch.run(), switch.hub.run(), library.run())]
        for task in tasks:
            task.add_done_callback(_report)
        yield
        await library.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(
        title="exitscope",
        version=__version__,
        summary="See where every vCPU's time goes while guest memory isn't there yet.",
        description="All lengths of time are in nanoseconds; moments are CLOCK_MONOTONIC of the traced host.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.services = Services(switch)
    app.state.switch = switch
    app.state.library = library
    errors.install(app)
    app.include_router(router)
    app.include_router(api_recordings.router)
    app.include_router(api_replay.router)
    app.include_router(api_compare.router)
    app.include_router(api_faults.router)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))

    app.mount("/", Page())
    app.add_middleware(Guard, names=tuple(allowed_hosts))
    return app


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a task of the server ended: %s", error, exc_info=error)
