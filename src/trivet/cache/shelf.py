"""What a shelf is: where answers are kept, whatever holds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trivet.domain.scopes import Scope

ENTRY_BYTES = 512
"""What an entry takes besides its answer: keys, figures, its places in the indexes; rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a request's answer would lie: keyed digests, which tell nothing to whoever has not the secret."""

    exact: bytes
    similar: bytes | None = None
    """Of all but the courtesies of its last question; None: only the same request will do."""
    ado: tuple[str, ...] = ()
    """Those courtesies."""
    words: int = 0
    """How many words of the question are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An answer to be kept."""

    place: Place
    scope: Scope
    """Whose request was answered."""
    tier: str
    deployment: str
    body: bytes
    """The chat completion as a JSON document."""
    device_ns: int
    """Device time that the answer took."""
    worth_ns: int
    """What having it saves: that time, or of a remote service how long it took."""
    expires_ns: int
    """In nanoseconds since 1970."""

    @property
    def size(self) -> int:
        """Return the bytes that it takes."""
        return len(self.body) + ENTRY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer that lies on the shelf."""

    exact: bytes
    """Where."""
    body: bytes
    device_ns: int
    likeness: float = 1.0
    """Of the question that it answered to the one that was asked; 1.0: they are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What lies on a shelf, of everybody or of one scope with all below it."""

    entries: int
    bytes: int
    hits: int
    """How often these entries were given again."""
    saved_device_ns: int
    """What that saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How full a shelf is."""

    entries: int = 0
    bytes: int = 0
    evicted: int = 0
    """How many entries had to go for those that were put."""


class Shelf(Protocol):
    """Keeps entries within a bound. What saves the least device time for its size goes first.

    The order is GreedyDual-Size-Frequency (Cherkasova, HPL-98-69): an entry's priority is the shelf's age
    when it was last used, plus its uses times what it saves over its size; the age is the priority of what
    went last. So what nobody asks for any more goes in the end, however dear it was.
    """

    async def find(self, place: Place, *, now_ns: int, threshold: float | None) -> Found | None:
        """Return the answer at a place; with a threshold also the likest one that reaches it.

        Raises:
            StoreUnavailable: the shelf cannot be read now.
        """
        ...

    async def put(self, entries: Sequence[Entry], used: Sequence[bytes], *, now_ns: int) -> Filling:
        """Keep entries, count uses, make room; both may be empty.

        Raises:
            StoreUnavailable: nothing was kept.
        """
        ...

    async def clear(self, scope: Scope | None) -> int:
        """Remove the entries of a scope and all below it, or of everybody; return how many there were."""
        ...

    async def holdings(self, scope: Scope | None) -> Holdings:
        """Tell what lies there."""
        ...

    async def aclose(self) -> None:
        """Finish and let go."""
        ...
