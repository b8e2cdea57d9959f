"""Which holds stand on a row, and since when."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from trivet.budgets.rows import RowKey, rows_from_text
from trivet.domain.scopes import organisation

# The state is written out, not bound: only then SQLite takes the index over what is open.
_OPEN = text(
    "SELECT created_ns, rows FROM reservations WHERE state = 'held' AND organisation = :organisation"
    " AND created_ns <= :since_ns ORDER BY created_ns"
)


def lasting(connection: Connection, rows: Sequence[RowKey], since_ns: int) -> RowKey | None:
    """Return the first of the rows on which a hold stands that was made by `since_ns`; None: on none.

    Args:
        connection: reads.
        rows: of one organisation.
        since_ns: nanoseconds since 1970, on the store's clock.
    """
    if not rows:
        return None
    asked = {"organisation": organisation(rows[0].scope), "since_ns": since_ns}
    lasting_rows: set[RowKey] = set()
    for _, text_of_rows in connection.execute(_OPEN, asked):
        lasting_rows.update(rows_from_text(text_of_rows))
        if rows[0] in lasting_rows:
            break
    return next((row for row in rows if row in lasting_rows), None)
