"""The server put together: the only module that knows every stage from source to page."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from exitscope_probes.wire import Kind, Message, WireError

from . import __version__, errors
from .aggregate import Aggregate
from .api import Services, router
from .docs import render
from .hub import Hub
from .security import Guard
from .source import Source
from .static import Page

log = logging.getLogger("exitscope")


def create_app(source: Source, allowed_hosts: Iterable[str] = ()) -> FastAPI:
    """The ASGI app; it reads the source while it runs. Raises UserError if the page's files are missing."""
    aggregate = Aggregate()
    hub = Hub(aggregate, source.status)

    def take(message: Message) -> None:
        try:
            aggregate.handle(message)
        except WireError:
            raise
        except Exception as error:  # a bug of ours must not end the stream; the source counts it
            log.exception("a %s frame could not be taken over", message.kind.name)
            raise WireError(f"{message.kind.name} frame: {type(error).__name__}: {error}") from error
        if message.kind is Kind.TOTALS:
            hub.notify()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(source.run(take)), asyncio.create_task(hub.run())]
        for task in tasks:
            task.add_done_callback(_report)
        yield
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
    app.state.services = Services(aggregate, hub, source.status)
    errors.install(app)
    app.include_router(router)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))

    app.mount("/", Page())
    app.add_middleware(Guard, names=tuple(allowed_hosts))
    return app


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a task of the server ended: %s", error, exc_info=error)
