"""Scopes: dotted slugs that name an organisation, a team, a user."""

import re
from functools import lru_cache
from typing import NewType

from trivet.domain.errors import RequestMalformed

Scope = NewType("Scope", str)

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_DEPTH = 8


def parse_scope(text: str) -> Scope:
    """Check a dotted slug such as `acme.search.ana` and return it as a Scope.

    Raises:
        RequestMalformed: a part is empty, too long, or holds other than a-z, 0-9, `-` and `_`.
    """
    parts = text.split(".")
    if len(parts) > MAX_DEPTH or not all(_SLUG.fullmatch(part) for part in parts):
        raise RequestMalformed(
            f"{text[:80]!r} is not a scope.",
            hint="A scope is up to eight dotted slugs of a-z, 0-9, '-' and '_': acme, acme.search.ana.",
            param="scope",
        )
    return Scope(text)


@lru_cache(maxsize=8192)
def lineage(scope: Scope) -> tuple[Scope, ...]:
    """Return the scope and all above it, the organisation first."""
    parts = scope.split(".")
    return tuple(Scope(".".join(parts[: depth + 1])) for depth in range(len(parts)))


@lru_cache(maxsize=8192)
@lru_cache(maxsize=8192)
def organisation(scope: Scope) -> Scope:
    """Return the first part: the organisation that the scope belongs to."""
    return Scope(scope.partition(".")[0])


def contains(outer: Scope, inner: Scope) -> bool:
    """Tell whether `inner` is `outer` or lies below it."""
    return inner == outer or inner.startswith(outer + ".")
