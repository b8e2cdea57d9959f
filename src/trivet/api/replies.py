"""JSON answers and errors of the inference routes, the same from each of them."""

import json
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import structlog

from trivet.api.asgi import Send, send_whole
from trivet.api.errors import error_body, error_headers, http_status
from trivet.domain.errors import TrivetError

log = structlog.get_logger(__name__)

_NONE: Mapping[str, str] = MappingProxyType({})


async def send_json(send: Send, content: Any, *, request_id: str, status: int = 200) -> None:
    """Send a JSON document that names its request."""
    body = json.dumps(content).encode()
    await send_whole(send, status=status, body=body, headers={"x-request-id": request_id})


async def send_error(
    send: Send,
    error: TrivetError,
    *,
    request_id: str,
    exhausted_status: int = 429,
    headers: Mapping[str, str] = _NONE,
) -> None:
    """Send an error in OpenAI's shape, with the headers that say whether and when to retry.

    Args:
        exhausted_status: the HTTP status of a spent budget, from the configuration.
        headers: what the answer tells besides; the error's own headers win.
    """
    status = http_status(error, exhausted_status=exhausted_status)
    body = json.dumps(error_body(error, status=status, request_id=request_id)).encode()
    await send_whole(
        send,
        status=status,
        body=body,
        headers={**headers, "x-request-id": request_id, **error_headers(error)},
    )


def logged_fault(fault: Exception, *, request_id: str) -> TrivetError:
    """Log a fault of ours and return what to answer.

    Frames only: an exception's text and its locals may hold a prompt or a key.
    """
    where = "".join(traceback.format_tb(fault.__traceback__))
    log.error("request.fault", request_id=request_id, error=type(fault).__name__, where=where)
    return TrivetError("Trivet failed; its log has the id.")
