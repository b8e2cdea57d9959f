"""Where a request's answer lies: digests under a secret of its tenant's own.

Two tenants never share a place, whatever they ask: their secrets differ, so their digests do. There is no
distance between places, no index of everybody's questions, nothing that a near miss could cross.
"""

import hmac
import json
from collections.abc import Mapping
from typing import Any, Literal

from trivet.cache.likeness import read_prose
from trivet.cache.shelf import Place
from trivet.domain.scopes import Scope, organisation
from trivet.domain.tiers import Deployment

NOT_OF_THE_ANSWER = frozenset({"model", "stream", "stream_options", "metadata"})
"""Fields of a body that change how an answer is delivered, or nothing; the model stands there by itself."""

_TAG_BYTES = 16


class Places:
    """Finds places. Pure but for the secret."""

    def __init__(self, secret: bytes, *, partition: Literal["organisation", "scope"], similar: bool) -> None:
        """Take the server's secret, from which each tenant's is derived."""
        self._secret = secret
        self._partition = partition
        self._similar = similar

    def of(self, scope: Scope, deployment: Deployment, body: Mapping[str, Any]) -> Place:
        """Return where the answer to a body lies, as it would be sent to a deployment for a scope."""
        secret = self._secret_of(scope)
        rest = {name: value for name, value in body.items() if name not in NOT_OF_THE_ANSWER}
        served = [deployment.tier.name, deployment.known_as, deployment.engine, deployment.model]
        messages = rest.pop("messages", None)
        frame = _canonical([served, rest])
        exact = hmac.digest(secret, b"exact\0" + frame + _canonical(messages), "sha256")
        question = _question(messages) if self._similar else None
        prose = read_prose(question) if question is not None else None
        if prose is None or not isinstance(messages, list):
            return Place(exact=exact)
        before = [*messages[:-1], {**messages[-1], "content": None}]
        return Place(
            exact=exact,
            similar=hmac.digest(
                secret, b"similar\0" + frame + _canonical([before, list(prose.core)]), "sha256"
            ),
            ado=prose.ado,
            words=prose.words,
        )

    def sealed(self, exact: bytes, body: bytes) -> bytes:
        """Return what is to be kept at a place: it tells itself from what others may have put there."""
        return self._tag(exact, body) + body

    def unsealed(self, exact: bytes, kept: bytes) -> bytes | None:
        """Return what was sealed for this place under this server's secret; None for anything else."""
        tag, body = kept[:_TAG_BYTES], kept[_TAG_BYTES:]
        return body if hmac.compare_digest(tag, self._tag(exact, body)) else None

    def _tag(self, exact: bytes, body: bytes) -> bytes:
        return hmac.digest(self._secret, b"sealed\0" + exact + body, "sha256")[:_TAG_BYTES]

    def _secret_of(self, scope: Scope) -> bytes:
        tenant = organisation(scope) if self._partition == "organisation" else scope
        return hmac.digest(self._secret, f"cache of {self._partition} {tenant}".encode(), "sha256")


def _canonical(value: Any) -> bytes:
    """Write a JSON value in one way: keys sorted, nothing but what it says. 1 and 1.0 and true stay apart."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _question(messages: Any) -> str | None:
    """Return the text of the last message if it is a user's and nothing but text."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    content = last.get("content")
    return content if isinstance(content, str) else None
