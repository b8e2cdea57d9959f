"""What stands before the framework's routes: the key is checked before a byte of the body is read.

The body is read here as well, within its bounds: the framework would take their refusal for bad JSON.
"""

from typing import Annotated

from fastapi import Depends, Request

from trivet.api.asgi import (
    Application,
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
    header_map,
    new_request_id,
    parse_json,
    read_body,
)
from trivet.api.auth import Doorkeeper
from trivet.api.replies import send_error
from trivet.domain.errors import TrivetError
from trivet.domain.requests import Principal

ADMIN_BODY_LIMIT_BYTES = 64 * 1024
PREFIX = "/api/"
PRINCIPAL = "trivet.principal"


async def _caller(request: Request) -> Principal:
    principal: Principal = request.scope[PRINCIPAL]
    return principal


Caller = Annotated[Principal, Depends(_caller)]
"""A route's argument that the guard has established."""


class Guard:
    """Pure ASGI: admits callers of `/api/` by their key and bounds what they send; others just pass."""

    def __init__(
        self,
        app: Application,
        doorkeeper: Doorkeeper,
        own_doors: frozenset[tuple[str, str]],
        body_timeout_s: float,
    ) -> None:
        """Take the application behind, and the methods and paths that check for themselves."""
        self._application = app
        self._doorkeeper = doorkeeper
        self._own_doors = own_doors
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request or answer it here."""
        if (
            scope["type"] != "http"
            or not scope["path"].startswith(PREFIX)
            or (scope["method"], scope["path"]) in self._own_doors
        ):
            await self._application(scope, receive, send)
            return
        headers = header_map(scope)
        request_id = new_request_id()
        try:
            scope[PRINCIPAL] = self._doorkeeper.principal(headers)
            body = await read_body(
                receive,
                limit_bytes=ADMIN_BODY_LIMIT_BYTES,
                hint="No request needs more.",
                timeout_s=self._body_timeout_s,
                headers=headers,
            )
            if body.strip():
                _take_for_json(scope, body)
        except ClientGone:
            return
        except TrivetError as error:
            await send_error(send, error, request_id=request_id)
            return
        read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return read.pop() if read else await receive()

        await self._application(scope, replayed, send)


def _take_for_json(scope: Scope, body: bytes) -> None:
    """Check a body as those of the inference routes are, and let it pass for JSON whatever its header says.

    The framework would keep the last of two equal keys, and take what `curl -d` sends for a form.

    Raises:
        RequestMalformed: it is no JSON, or not strictly.
    """
    parse_json(body)
    others = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-type"]
    scope["headers"] = [*others, (b"content-type", b"application/json")]
