"""Entering many rows in few statements.

The driver gives up the interpreter's lock for each statement, and for each row of `executemany`; winning it
back beside a busy event loop can take longer than the statement. So rows go many to a statement: up to 16, as
a busy server has them, all in one, and more in powers of two, so that the statements stay prepared.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from trivet.storage.writes import Writes

_EXACTLY = 16
_AT_ONCE = 64

Statement = Callable[[int], str]
"""Makes a statement for so many rows; the same one each time for the same number."""
Row = Sequence[Any]


def enter_rows(connection: Writes, statement: Statement, rows: Collection[Row]) -> None:
    """Run a statement over all rows, in their order."""
    left = list(rows)
    first = 0
    while first < len(left):
        count = len(left) - first
        if count > _EXACTLY:
            count = min(_AT_ONCE, 1 << count.bit_length() - 1)
        connection.execute(statement(count), list(chain.from_iterable(left[first : first + count])))
        first += count


class Beside:
    """A connection for what an operation of a draft writes beside the draft; see `enter_later`.

    Its draft enters the rows with its own, and forgets them with its own.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take the writer's connection."""
        self._connection = connection
        self._rows: dict[Statement, list[Row]] = {}

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run one statement, now."""
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Run one statement for each set of values, now."""
        return self._connection.executemany(sql, parameters)

    def later(self, statement: Statement, rows: Iterable[Row]) -> None:
        """Keep rows until `enter`; what comes first with a statement has that statement run first."""
        kept = self._rows.get(statement)
        if kept is None:
            self._rows[statement] = list(rows)
        else:
            kept += rows

    def enter(self) -> None:
        """Write what was kept."""
        rows, self._rows = self._rows, {}
        for statement, some in rows.items():
            enter_rows(self._connection, statement, some)

    def forget(self) -> None:
        """Drop what was kept."""
        self._rows.clear()


def enter_later(connection: Writes, statement: Statement, rows: Collection[Row]) -> None:
    """Enter rows by the end of the transaction, with others of theirs where that is possible, or else now.

    Nothing in the transaction may look for them. Rows of one table refer to those of another only if they
    are given after them, by every operation.
    """
    if isinstance(connection, Beside):
        connection.later(statement, rows)
    else:
        enter_rows(connection, statement, rows)
