"""Who may talk to the server, and what the page may do: Host and Origin checks, and the security headers."""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_body, send_json

# Plotly sets style attributes and adds a style element (hence unsafe-inline for styles, for nothing else) and
# makes pictures of its charts as data: and blob: URLs.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware.

    A Host that is a name must be one of ours: else a page of another site could point its own name to this
    machine and read everything (DNS rebinding). An address cannot be rebound. A WebSocket's Origin, if it has
    one, must be the page that this server served; so must that of a request that changes something. A proxy may
    have put another Host there: the names that were given (`--allow-host`) are this server's in an Origin, too, at
    whatever port the proxy listens.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        given = {name.lower() for name in names}
        self._names = {"localhost", socket.gethostname().lower(), *given}
        self._proxied = {name for name in given if name != "localhost" and not _is_address(name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")

        async def send_with_headers(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer[name] = value
                # Browsers ask again for everything, and are not sent again what did not change.
                answer.setdefault("cache-control", "no-cache")
            await send(message)

        if not self._allowed(host):
            why, hint = f"Host {host[:200]!r} is not a name of this server", "See `--allow-host`."
            await _refuse(scope, send_with_headers, why, hint)
        elif _acts(scope) and not self._from_here(headers, origin, host):
            why = f"Origin {(origin or 'null')[:200]!r} is another site than {host[:200]!r}"
            hint = "If a proxy stands before this server, give it the name that browsers use: `--allow-host NAME`."
            await _refuse(scope, send_with_headers, why, hint)
        else:
            await self._app(scope, receive, send_with_headers)

    def _allowed(self, host: str) -> bool:
        name = _name_of(host)
        if name in self._names:
            return True
        return _is_address(name)

    def _from_here(self, headers: Headers, origin: str | None, host: str) -> bool:
        """Not sent by a page of another site; a browser says where from, other programs need not."""
        if origin is not None:
            scheme, _, place = origin.partition("://")
            if place != host and not (scheme in {"http", "https"} and _name_of(place) in self._proxied):
                return False
        return headers.get("sec-fetch-site", "none") in {"none", "same-origin"}


def _name_of(place: str) -> str:
    """Of `name:port`, lower case."""
    name, _, port = place.rpartition(":")
    return (name if name and port.isdigit() else place).lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _acts(scope: Scope) -> bool:
    """Whether it may do more than read what a browser would not let another site see anyway."""
    return scope["type"] == "websocket" or scope["method"] not in {"GET", "HEAD", "OPTIONS"}


async def _refuse(scope: Scope, send: Send, message: str, hint: str) -> None:
    body = error_body("forbidden", message, hint)
    if scope["type"] != "websocket":
        await send_json(send, 403, body)
    elif "websocket.http.response" in (scope.get("extensions") or {}):  # ASGI's denial response

        async def deny(answer: Message) -> None:
            await send({**answer, "type": f"websocket.{answer['type']}"})

        await send_json(deny, 403, body)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": message[:120]})
