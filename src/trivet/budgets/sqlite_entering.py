"""Entering many rows in few statements.

The driver gives up the interpreter's lock for each statement, and for each row of `executemany`; winning it
back beside a busy event loop can take longer than the statement. So rows go many to a statement, in powers
of two, so that the statements are few and stay prepared.
"""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any

_AT_ONCE = 64


def enter_rows(
    connection: sqlite3.Connection,
    statement: Callable[[int], str],
    rows: Collection[Sequence[Any]],
    *,
    least: int = 1,
) -> None:
    """Run a statement over all rows, in their order.

    `statement` makes it for so many rows; for one, or at least `least`.
    """
    left = list(rows)
    first = 0
    while first < len(left):
        count = min(_AT_ONCE, 1 << (len(left) - first).bit_length() - 1)
        if count < least:
            count = 1
        some = left[first : first + count]
        connection.execute(statement(count), list(chain.from_iterable(some)))
        first += count
