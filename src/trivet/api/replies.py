"""JSON answers and errors of the inference routes, the same from each of them."""

import json
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import structlog

from trivet.api.asgi import Application, Message, Receive, Scope, Send, new_request_id, send_part, send_whole
from trivet.api.errors import error_headers, http_status
from trivet.api.protocols import broken_stream_event, error_document
from trivet.api.short_way import SHORT_WAY, ShortWay
from trivet.domain.errors import TrivetError
from trivet.domain.surfaces import Surface

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
    surface: Surface = Surface.CHAT,
) -> None:
    """Send an error in the surface's shape, with the headers that say whether and when to retry.

    Args:
        exhausted_status: the HTTP status of a spent budget, from the configuration.
        headers: what the answer tells besides; the error's own headers win.
        surface: the protocol of the client.
    """
    status = http_status(error, exhausted_status=exhausted_status)
    document = error_document(error, status=status, request_id=request_id, surface=surface)
    body = json.dumps(document).encode()
    await send_whole(
        send,
        status=status,
        body=body,
        headers={**headers, "x-request-id": request_id, **error_headers(error)},
    )


class LastResort:
    """The last line of defence around an inference route: a fault of ours becomes an honest error.

    Once the response has begun it ends with an error event, in place of `[DONE]`.
    """

    def __init__(self, endpoint: Application, surface: Surface = Surface.CHAT) -> None:
        self._endpoint = endpoint
        self._surface = surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer for the endpoint if it fails to."""
        way: ShortWay | None = scope.get(SHORT_WAY)
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._endpoint(scope, receive, noted if way is None else send)
        except Exception as fault:  # noqa: BLE001 - what this class is for
            request_id = new_request_id()
            # Frames only: an exception's text and its locals may hold a prompt or a key.
            where = "".join(traceback.format_tb(fault.__traceback__))
            log.error("request.fault", request_id=request_id, error=type(fault).__name__, where=where)  # noqa: TRY400
            error = TrivetError("Trivet failed; its log has the id.")
            if way is not None and way.ended:
                return
            if not (begun if way is None else way.begun):
                await send_error(send, error, request_id=request_id, surface=self._surface)
                return
            event = broken_stream_event(error, request_id=request_id, surface=self._surface)
            await send_part(send, event)
            await send_part(send, b"", more=False)
