"""Shelves and entries for tests."""

from trivet.cache import Entry, Place
from trivet.domain.scopes import Scope

SECOND_NS = 1_000_000_000
NEVER_NS = 2**62


def place(name: str, *, like: str | None = None, ado: tuple[str, ...] = (), words: int = 6) -> Place:
    """Return a place, with others of the same `like` beside it."""
    similar = None if like is None else like.encode().ljust(32, b".")
    return Place(exact=name.encode().ljust(32, b"."), similar=similar, ado=ado, words=words)


def entry(
    where: Place,
    *,
    body: bytes = b"{}",
    scope: str = "acme",
    seconds: float = 1.0,
    expires_ns: int = NEVER_NS,
) -> Entry:
    """Return an answer that took so many seconds."""
    return Entry(
        place=where,
        scope=Scope(scope),
        tier="light",
        deployment="light-model",
        body=body,
        device_ns=int(seconds * SECOND_NS),
        worth_ns=int(seconds * SECOND_NS),
        expires_ns=expires_ns,
    )
