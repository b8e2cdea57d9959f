"""Which endpoint of a deployment takes a request: the one that likely has its beginning in the cache. Pure.

An engine keeps the keys and values of prompts that it has read, so the next turn of a conversation is
answered sooner by the endpoint that answered the last. Nothing is remembered for that: the conversation's
stable beginning, hashed with each endpoint's name, gives them an order that is its own (rendezvous hashing,
Thaler and Ravishankar 1998), the same in every replica, and one endpoint that goes moves its own
conversations only. An endpoint is passed over while it has more than a quarter above its share of the
requests under way ("Consistent Hashing with Bounded Loads", Mirrokni, Thorup and Zadimoghaddam 2016).
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from trivet.domain.decisions import Candidate, Offer
from trivet.domain.requests import ChatRequest

MOST_LOAD = 1.25
"""Of its share of the requests under way, by slots."""
PREFIX_CHARS = 4096
JUST_BEFORE = 1e-6


def arranged(
    candidates: Sequence[Candidate], offers: Iterable[Offer], request: ChatRequest, scope: str
) -> list[Candidate]:
    """Return the candidates with each deployment's endpoints in the request's own order, best first.

    Only the order among endpoints that are otherwise equal changes: the one that shall take the request
    scores just above the least busy one. The term is `affinity`.

    Args:
        candidates: best first.
        offers: of all of them, with the requests that they have under way.
        request: whose conversation it is.
        scope: of the caller; a session's name is its own.
    """
    pools: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.deployment.endpoint_of is not None:
            pools.setdefault(candidate.deployment.endpoint_of, []).append(candidate)
    if not pools:
        return list(candidates)
    in_flight = {offer.deployment.name: offer.in_flight for offer in offers}
    key = conversation_key(request, scope)
    chosen: dict[str, Candidate] = {}
    for members in pools.values():
        first = members[0]
        alike = [each for each in members if _but_load(each) == _but_load(first)]
        owner = _owner(alike, in_flight, key)
        if owner is not first:
            chosen[owner.deployment.name] = _raised(owner, first.score)
    found = [chosen.get(candidate.deployment.name, candidate) for candidate in candidates]
    return sorted(found, key=lambda candidate: -candidate.score)


def conversation_key(request: ChatRequest, scope: str) -> bytes:
    """Return what stays the same over a conversation: its session, else all up to its first user message."""
    if request.hints.session is not None:
        return f"{scope}\0{request.hints.session}".encode()
    parts: list[str] = []
    messages = request.body.get("messages")
    if isinstance(messages, list):
        for message in messages:
            parts.append(_text(message.get("content")))
            if message.get("role") == "user":
                break
    else:
        parts += [_text(request.body.get(name)) for name in ("instructions", "prompt", "input")]
    return "\0".join(parts)[:PREFIX_CHARS].encode("utf-8", "replace")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content[:PREFIX_CHARS]
    return repr(content)[:PREFIX_CHARS] if content is not None else ""


def _owner(members: Sequence[Candidate], in_flight: dict[str, int], key: bytes) -> Candidate:
    """Return the first in the conversation's order that is not beyond its share; the least busy always is."""
    slots = sum(each.deployment.slots for each in members)
    total = sum(in_flight.get(each.deployment.name, 0) for each in members) + 1
    for member in sorted(members, key=lambda each: _weight(key, each.deployment.name), reverse=True):
        share = math.ceil(MOST_LOAD * total * member.deployment.slots / slots)
        if in_flight.get(member.deployment.name, 0) + 1 <= share:
            return member
    return members[0]  # pragma: no cover - not all can be above their share


def _weight(key: bytes, name: str) -> bytes:
    return hashlib.blake2b(key, digest_size=8, key=name.encode()[-64:]).digest()


def _but_load(candidate: Candidate) -> float:
    return round(candidate.score - candidate.terms.get("load", 0.0), 6)


def _raised(candidate: Candidate, above: float) -> Candidate:
    bonus = round(above - candidate.score + JUST_BEFORE, 6)
    return replace(
        candidate, score=round(candidate.score + bonus, 6), terms={**candidate.terms, "affinity": bonus}
    )
