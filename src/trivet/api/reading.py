"""What the inference routes read before they do anything: who asks, and what."""

from trivet.api.asgi import Receive, Scope, header_map, parse_json, read_body
from trivet.api.auth import Doorkeeper
from trivet.domain.requests import ChatRequest, Principal
from trivet.routing import parse_chat


async def read_chat(
    scope: Scope, receive: Receive, doorkeeper: Doorkeeper, *, body_limit_bytes: int
) -> tuple[ChatRequest, Principal]:
    """Return the checked chat request and its caller; the key is checked before the body is read.

    Raises:
        AccessError, BodyTooLarge, RequestMalformed, ClientGone
    """
    headers = header_map(scope)
    principal = doorkeeper.principal(headers)
    body = await read_body(receive, limit_bytes=body_limit_bytes)
    return parse_chat(parse_json(body), body_bytes=len(body), headers=headers), principal
