"""The one shape of every error that leaves the server: {"error": {"code", "message", "hint"}}."""

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Send

log = logging.getLogger("exitscope")


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


async def send_json(send: Send, status: int, body: dict[str, Any], *headers: tuple[bytes, bytes]) -> None:
    """A whole answer of a middleware, where no request is read."""
    data = json.dumps(body).encode()
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": data})


def install(app: FastAPI) -> None:
    """Give the app's every error the one shape."""

    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(UserError)
    async def mendable(_request: Request, error: UserError) -> JSONResponse:
        return JSONResponse(error_body("unusable", str(error), "The server's own user must be able to read it."), 409)

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1]) if first["loc"] else "request"
        message = first["msg"].removeprefix("Value error, ")
        return JSONResponse(
            error_body("invalid_parameter", f"{name}: {message}", "See /docs for what is allowed.", name), 422
        )

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        if status == HTTPStatus.BAD_REQUEST:  # a body that is no text at all: wrong like one that is no JSON
            message = f"body: {error.detail}"
            return JSONResponse(error_body("invalid_parameter", message, "It must be JSON in UTF-8.", "body"), 422)
        hint = {404: "See /docs for what there is.", 405: "See /docs for the methods."}.get(status, "")
        message = f"{request.method} {request.url.path}: {error.detail or status.phrase}"
        return JSONResponse(
            error_body(status.phrase.lower().replace(" ", "_"), message, hint), status, headers=error.headers
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse(
            error_body("internal", f"{type(error).__name__} in the server", "Its log has the details."), 500
        )
