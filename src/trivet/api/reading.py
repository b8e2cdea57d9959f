"""What the inference routes read before they do anything: who asks, and what."""

import hashlib
from dataclasses import replace

from trivet.api.asgi import Receive, Scope, header_map, parse_json, read_body
from trivet.api.auth import Doorkeeper
from trivet.domain.budgets import Idempotency
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest, Principal
from trivet.routing import parse_chat

KEY_CHARS_MAX = 200


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
    request = parse_chat(parse_json(body), body_bytes=len(body), headers=headers)
    key = headers.get("idempotency-key", "").strip()
    if key:
        request = replace(request, idempotency=_idempotency(key, body))
    return request, principal


def _idempotency(key: str, body: bytes) -> Idempotency:
    if len(key) > KEY_CHARS_MAX or not key.isprintable():
        raise RequestMalformed(
            f"Idempotency-Key must be 1 to {KEY_CHARS_MAX} printable characters.", param="Idempotency-Key"
        )
    return Idempotency(key, hashlib.sha256(body).hexdigest())
