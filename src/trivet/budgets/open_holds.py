"""Which holds stand on a row, and since when."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet.budgets.rows import RowKey, rows_from_text
from trivet.domain.budgets import Amounts
from trivet.domain.scopes import Scope, organisation

# The state is written out, not bound: only then SQLite takes the index over what is open.
_OPEN = text(
    "SELECT created_ns, expires_ns, tokens, weighted_tokens, usd_micros,"
    " coalesce((SELECT text FROM row_texts WHERE name = rows), rows) FROM reservations"
    " WHERE state = 'held' AND organisation = :organisation"
    " AND created_ns <= :since_ns ORDER BY created_ns"
)


class OpenHold(NamedTuple):
    """A hold that stands."""

    created_ns: int
    expires_ns: int | None
    """When it ends at the latest; None: nobody knows."""
    held: Amounts
    rows: tuple[RowKey, ...]


def open_holds(connection: Connection, owner: Scope, since_ns: int) -> Iterator[OpenHold]:
    """Yield an organisation's holds that were made by `since_ns` and still stand, the oldest first."""
    asked = {"organisation": owner, "since_ns": since_ns}
    for created_ns, expires_ns, *amounts, told in connection.execute(_OPEN, asked):
        yield OpenHold(created_ns, expires_ns, Amounts(*amounts), rows_from_text(told))


def lasting(connection: Connection, rows: Sequence[RowKey], since_ns: int) -> RowKey | None:
    """Return the first of the rows on which a hold stands that was made by `since_ns`; None: on none.

    Args:
        connection: reads.
        rows: of one organisation.
        since_ns: nanoseconds since 1970, on the store's clock.
    """
    if not rows:
        return None
    lasting_rows: set[RowKey] = set()
    for hold in open_holds(connection, organisation(rows[0].scope), since_ns):
        lasting_rows.update(hold.rows)
        if rows[0] in lasting_rows:
            break
    return next((row for row in rows if row in lasting_rows), None)
