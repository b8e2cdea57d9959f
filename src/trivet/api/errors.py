"""Errors as HTTP: the one table from codes to statuses, in OpenAI's shape."""

import json
import math
from typing import Any

from trivet.domain.errors import EngineError, TrivetError

STATUS_BY_CODE: dict[str, int] = {
    "access_denied": 403,
    "api_key_missing": 401,
    "approval_required": 403,
    "body_too_large": 413,
    "budget_contended": 429,
    "budget_error": 429,
    "budget_exhausted": 429,
    "budget_store_unavailable": 503,
    "config_invalid": 500,
    "context_length_exceeded": 400,
    "decision_spent": 409,
    "idempotency_completed": 409,
    "idempotency_error": 409,
    "idempotency_in_flight": 409,
    "idempotency_mismatch": 422,
    "internal_error": 500,
    "invalid_api_key": 401,
    "invalid_request": 400,
    "model_not_found": 404,
    "no_candidate": 400,
    "nonessential_blocked": 429,
    "price_unknown": 403,
    "not_found": 404,
    "overloaded": 503,
    "permission_denied": 403,
    "rate_limit_exceeded": 429,
    "request_too_large": 400,
    "server_differs": 502,
    "server_unreachable": 502,
    "stopping": 503,
    "store_error": 503,
    "store_locked": 409,
    "upstream_busy": 503,
    "upstream_error": 502,
    "upstream_incapable": 400,
    "upstream_incomplete": 502,
    "upstream_loading": 503,
    "upstream_rejected": 400,
    "upstream_timeout": 504,
    "upstream_unavailable": 502,
}

_TYPE_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

# The openai SDKs retry 429 and 5xx by themselves; they obey this header.
_RETRY_IS_USELESS = frozenset(
    {"budget_exhausted", "idempotency_completed", "nonessential_blocked", "request_too_large"}
)


def http_status(error: TrivetError, *, exhausted_status: int = 429) -> int:
    """Return the HTTP status of an error. An engine's own 4xx is passed on."""
    if error.code == "budget_exhausted":
        return exhausted_status
    if error.code == "upstream_rejected" and isinstance(error, EngineError) and error.status:
        return error.status if 400 <= error.status < 500 else 400
    return STATUS_BY_CODE[error.code]


def error_body(error: TrivetError, *, status: int, request_id: str) -> dict[str, Any]:
    """Return the error in OpenAI's shape; what OpenAI has no field for is under `trivet`."""
    kind = (
        "insufficient_quota"
        if error.code == "budget_exhausted"
        else _TYPE_BY_STATUS.get(status, "server_error")
    )
    return {
        "error": {
            "message": sentence(error),
            "type": kind,
            "param": error.param,
            "code": error.code,
            "trivet": {"request_id": request_id, **told_details(error)},
        }
    }


def sentence(error: TrivetError) -> str:
    """Return what callers are told in words."""
    return error.outside or str(error)


def told_details(error: TrivetError) -> dict[str, Any]:
    """Return the facts for the body; what is told in headers is no part of it."""
    return {name: value for name, value in error.details.items() if name != "headers"}


def error_headers(error: TrivetError) -> dict[str, str]:
    """Return the headers that tell a client whether and when to retry."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.code in _RETRY_IS_USELESS:
        headers["x-should-retry"] = "false"
    headers |= error.details.get("headers", {})
    if error.code in ("api_key_missing", "invalid_api_key"):
        headers["www-authenticate"] = "Bearer"
    return headers


def error_event(error: TrivetError, *, request_id: str) -> bytes:
    """Return the SSE event that ends a broken stream, in place of `[DONE]`."""
    body = error_body(error, status=http_status(error), request_id=request_id)
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
