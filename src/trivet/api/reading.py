"""What the inference routes read before they do anything: who asks, and what."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trivet.api.asgi import BodyBounds, Receive, Scope, header_map, parse_json, read_body
from trivet.api.auth import Doorkeeper
from trivet.api.short_way import SHORT_WAY, ShortWay
from trivet.domain.budgets import Idempotency
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import CacheWish, ChatRequest, Principal
from trivet.domain.surfaces import Surface
from trivet.routing import parse_request

KEY_CHARS_MAX = 200
DECISION_HEADER = "x-trivet-decision-id"
CACHE_HEADER = "x-trivet-cache"
_SAID = frozenset({DECISION_HEADER, CACHE_HEADER, "cache-control", "idempotency-key"})
"""Headers that say something of the request, besides hints."""


async def read_request(
    scope: Scope, receive: Receive, doorkeeper: Doorkeeper, surface: Surface, *, bounds: BodyBounds
) -> tuple[ChatRequest, Principal]:
    """Return the checked request and its caller; the key is checked before the body is read.

    Raises:
        AccessError, BodyTooLarge, RequestMalformed, ClientGone
    """
    headers = header_map(scope)
    principal = doorkeeper.principal(headers)
    way: ShortWay | None = scope.get(SHORT_WAY)
    body = way.taken_body(bounds.limit_bytes) if way is not None else None
    if body is None:
        body = await read_body(
            receive, limit_bytes=bounds.limit_bytes, timeout_s=bounds.timeout_s, headers=headers
        )
    return _request(surface, parse_json(body), body, headers), principal


async def read_routed(
    scope: Scope, receive: Receive, doorkeeper: Doorkeeper, *, bounds: BodyBounds
) -> tuple[ChatRequest, bool, Principal]:
    """Return what is to be decided, whether budget is to be held for it, and the caller.

    Raises:
        AccessError, BodyTooLarge, RequestMalformed, ClientGone
    """
    headers = header_map(scope)
    principal = doorkeeper.principal(headers)
    body = await read_body(
        receive, limit_bytes=bounds.limit_bytes, timeout_s=bounds.timeout_s, headers=headers
    )
    document = parse_json(body)
    reserve = document.pop("reserve", False) if isinstance(document, dict) else False
    if not isinstance(reserve, bool):
        raise RequestMalformed("reserve must be true or false.", param="reserve")
    return _request(Surface.CHAT, document, body, headers), reserve, principal


def _request(surface: Surface, document: Any, body: bytes, headers: Mapping[str, str]) -> ChatRequest:
    request = parse_request(surface, document, body_bytes=len(body), headers=headers)
    if _SAID.isdisjoint(headers):
        return request
    decision_id = headers.get(DECISION_HEADER, "").strip()
    if decision_id and surface is not Surface.CHAT:
        raise RequestMalformed(
            "A decision is carried out by POST /v1/chat/completions only.", param=DECISION_HEADER
        )
    if decision_id:
        request = replace(request, decision_id=decision_id[:KEY_CHARS_MAX])
    wish = _cache_wish(headers)
    if wish != "default":
        request = replace(request, cache=wish)
    if "idempotency-key" in headers:
        request = replace(request, idempotency=idempotency_of(headers, body))
    return request


def _cache_wish(headers: Mapping[str, str]) -> CacheWish:
    """Return what the caller says of kept answers: in Trivet's own header, or in HTTP's (RFC 9111, 5.2.1)."""
    if CACHE_HEADER not in headers and "cache-control" not in headers:
        return "default"
    told = headers.get(CACHE_HEADER, "").strip().lower()
    directives = {part.strip() for part in headers.get("cache-control", "").lower().split(",")}
    if told == "no-store" or "no-store" in directives:
        return "no-store"
    if told == "refresh" or directives & {"no-cache", "max-age=0"}:
        return "refresh"
    if told == "allow":
        return "allow"
    if told:
        raise RequestMalformed(
            f"{CACHE_HEADER} must be allow, refresh or no-store, not {told[:40]!r}.", param=CACHE_HEADER
        )
    return "default"


def idempotency_of(headers: Mapping[str, str], body: bytes) -> Idempotency | None:
    """Return the caller's promise that it sends the same again only under the same key, if it gives one.

    Raises:
        RequestMalformed: the key is too long, or holds control characters.
    """
    key = headers.get("idempotency-key", "").strip()
    if not key:
        return None
    if len(key) > KEY_CHARS_MAX or not key.isprintable():
        raise RequestMalformed(
            f"Idempotency-Key must be 1 to {KEY_CHARS_MAX} printable characters.", param="Idempotency-Key"
        )
    return Idempotency(key, hashlib.sha256(body).hexdigest())
