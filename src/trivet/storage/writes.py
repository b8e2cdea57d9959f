"""Statements that run on either store: plain SQL, with `?` or `:name` for the values."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Parameters = Sequence[Any] | Mapping[str, Any]


class Answer(Protocol):
    """What a statement gave back; sqlite3's and psycopg's cursors are such."""

    @property
    def rowcount(self) -> int:
        """Return how many rows it changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Writes(Protocol):
    """The connection that writes, as rooms see it that write in plain SQL; sqlite3's is such a one.

    `INSERT ... ON CONFLICT (...) DO ...`, `RETURNING` and plain UPDATE and DELETE are the common ground.
    """

    def execute(self, sql: str, parameters: Any = ..., /) -> Answer:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Answer:
        """Run one statement for each set of values."""
        ...
