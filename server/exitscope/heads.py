"""HEAD of everything that can be asked with GET: the same answer without its body."""

from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Enough(OSError):
    """The headers are sent: what makes the body may end, as if the other side had gone."""


class Heads:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def send_head(message: Message) -> None:
            nonlocal ended
            if ended:
                raise _Enough
            ended = message["type"] == "http.response.body"
            await send({"type": "http.response.body", "body": b"", "more_body": False} if ended else message)

        with suppress(_Enough, ClientDisconnect):
            await self._app({**scope, "method": "GET"}, receive, send_head)
