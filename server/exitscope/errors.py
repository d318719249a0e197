"""The one shape of every error that leaves the server: {"error": {"code", "message", "hint"}}."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any


class UserError(Exception):
    """A mistake that a person can mend: printed as one line by the command line, exit status 1."""


class ApiError(Exception):
    """Answered with its status; parameter names the one that is wrong."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(code, message, hint, parameter)


def error_body(code: str, message: str, hint: str = "", parameter: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    error = {"code": code, "message": message, "hint": hint}
    return {"error": error | ({"parameter": parameter} if parameter else {})}


async def send_json(
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    status: int,
    body: dict[str, Any],
    *headers: tuple[bytes, bytes],
) -> None:
    """A whole answer of a middleware, where no request is read."""
    data = json.dumps(body).encode()
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": data})
