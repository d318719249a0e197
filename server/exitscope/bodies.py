"""Bodies of requests: bounded before they are read, and in the time that they may take."""

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_body, send_json

BODY_S: Final = 10.0
MAX_BYTES: Final = {("POST", "/api/v1/recordings"): 64 << 10, ("POST", "/api/v1/replay"): 64 << 10}
MAX_OTHER_BYTES: Final = 8 << 10
"""Of requests that need no body."""


class Bodies:
    """ASGI middleware: 413 for a body that is too large, by its header or by what comes; 408 if it is slow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = MAX_BYTES.get((scope["method"], scope["path"]), MAX_OTHER_BYTES)
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdigit() or len(told) > 18 or int(told) > limit:
            what = f"body: {told[:20]} bytes are too many, {limit} are allowed here"
            body = error_body("request_entity_too_large", what, "Send less.", "body")
            await send_json(send, 413, body, (b"connection", b"close"))
            return
        left, over, deadline_s = limit, False, asyncio.get_running_loop().time() + BODY_S

        async def bounded() -> Message:
            nonlocal left, over
            if over:  # only the end of the connection is still to come
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not come", {"connection": "close"}) from None
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                over = not message.get("more_body", False)
                if left < 0:
                    raise HTTPException(413, f"body: more than {limit} bytes", {"connection": "close"})
            return message

        await self._app(scope, bounded, send)
