"""Errors of the framework's routes, in the same shape as those of the inference routes."""

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from trivet.api.asgi import new_request_id
from trivet.api.errors import error_body, error_headers, http_status
from trivet.domain.errors import NotFound, RequestMalformed, TrivetError

ROUTES_HINT = (
    "Inference is POST /v1/chat/completions, /v1/responses, /v1/messages and others, and GET /v1/models; "
    "GET /openapi.json lists the routes below /api/v1."
)

log = structlog.get_logger(__name__)


def _malformed(fault: Mapping[str, Any]) -> RequestMalformed:
    """Return what is wrong with a body or a query, of the framework's findings the first, in our words."""
    # The place begins with the part of the request: body, query, path.
    place = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == "missing":
        sentence = f"{place} is missing." if place else "The body is missing: send JSON."
    elif fault["type"] == "extra_forbidden":
        sentence = f"{place} is not known here."
    else:
        sentence = f"{place or 'The body'}: {fault['msg']}."
    return RequestMalformed(sentence, param=place or None)


def install_fault_pages(app: FastAPI, *, exhausted_status: int) -> None:
    """Make every error of the framework answer in OpenAI's shape."""

    def answer(
        error: TrivetError, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        code = status or http_status(error, exhausted_status=exhausted_status)
        request_id = new_request_id()
        own = {"x-request-id": request_id, "cache-control": "no-store", **error_headers(error)}
        body = error_body(error, status=code, request_id=request_id)
        return JSONResponse(body, code, {**(headers or {}), **own})

    @app.exception_handler(TrivetError)
    async def refused(_: Request, error: TrivetError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(_malformed(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            refusal = RequestMalformed(f"{request.method} is not offered here.", hint=f"Use {allowed}.")
            return answer(refusal, 405, error.headers)
        if error.status_code != 404:
            return answer(RequestMalformed(f"The request cannot be read: {error.detail}."), error.status_code)
        return answer(
            NotFound("There is nothing at this path.", hint=ROUTES_HINT),
            error.status_code,
        )

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        log.error("request.fault", path=request.url.path, error=type(error).__name__)
        return answer(TrivetError("Trivet failed; the log says more."))
