"""Names for the texts of rows: all requests of a scope have the same rows, and each tells them three times.

Only what is written to SQLite gives a name in their place. Whoever reads may find either, on either store.
"""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from trivet.storage.schema import entries, row_texts
from trivet.storage.writes import Writes

_NAME = "SELECT name FROM row_texts WHERE text = ?"
_GIVE_NAME = """
    INSERT INTO row_texts (name, text)
    VALUES ((SELECT coalesce(max(rowid), 0) + 1 FROM row_texts), ?)
    RETURNING name
"""


def name_of(writes: Writes, text: str) -> str:
    """Return the name of rows that are stored as `text`; the text of a single one, or of none, is its own."""
    if not text.startswith("{"):
        return text
    found = writes.execute(_NAME, (text,)).fetchone() or writes.execute(_GIVE_NAME, (text,)).fetchone()
    return str(found[0])


def told(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the text that a column of rows has, or has the name of."""
    named = select(row_texts.c.text).where(row_texts.c.name == column).scalar_subquery()
    return func.coalesce(named, column)


def entries_in_full() -> Select[Any]:
    """Select entries, in the order of their columns, with the texts of their rows."""
    rows = entries.c.rows
    return select(*(told(rows).label("rows") if column is rows else column for column in entries.c))
