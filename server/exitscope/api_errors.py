"""Gives every error of the app the one shape (errors.py)."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .errors import ApiError, UserError, error_body

log = logging.getLogger("exitscope")


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
