"""What stands before the framework's routes: the key is checked before a byte of the body is read."""

from trivet.api.asgi import Application, Message, Receive, Scope, Send, header_map, new_request_id
from trivet.api.auth import Doorkeeper
from trivet.api.replies import send_error
from trivet.domain.errors import BodyTooLarge, TrivetError

ADMIN_BODY_LIMIT_BYTES = 64 * 1024
PREFIX = "/api/"
PRINCIPAL = "trivet.principal"


class Guard:
    """Pure ASGI: admits callers of `/api/` by their key and bounds what they send; others just pass."""

    def __init__(self, app: Application, doorkeeper: Doorkeeper, own_doors: frozenset[str]) -> None:
        """Take the application behind, and the paths that check for themselves."""
        self._application = app
        self._doorkeeper = doorkeeper
        self._own_doors = own_doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request or answer it here."""
        if (
            scope["type"] != "http"
            or not scope["path"].startswith(PREFIX)
            or scope["path"] in self._own_doors
        ):
            await self._application(scope, receive, send)
            return
        headers = header_map(scope)
        request_id = new_request_id()
        try:
            scope[PRINCIPAL] = self._doorkeeper.principal(headers)
            declared = headers.get("content-length", "0")
            if not declared.isdigit() or int(declared) > ADMIN_BODY_LIMIT_BYTES:
                raise _too_large()
        except TrivetError as error:
            await send_error(send, error, request_id=request_id)
            return
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > ADMIN_BODY_LIMIT_BYTES:
                raise _too_large()
            return message

        await self._application(scope, bounded, send)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body exceeds {ADMIN_BODY_LIMIT_BYTES} bytes.")
