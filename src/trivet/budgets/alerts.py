"""Reading which thresholds have fired. They are entered by what charges; see `Books.announce`.

The `subject` of an alert is empty while it counts: its threshold does not fire again in that window. A limit
that is raised so far that use has yet to reach the threshold sets the alert aside: then `subject` is the
instant of that, in nanoseconds since 1970, and the alert is history.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from trivet.budgets.balances import below_or_at
from trivet.budgets.rows import Balance, RowKey
from trivet.domain.budgets import CounterKind, Meter
from trivet.domain.scopes import Scope
from trivet.storage.instants import instant_of
from trivet.storage.schema import alerts

ALERTS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A threshold that settled use has passed, as it was at that moment."""

    scope: Scope
    meter: Meter
    window: CounterKind
    window_start: datetime
    threshold: int
    used: int
    limit: int
    at: datetime
    rearmed_at: datetime | None = None
    """When a raise of the limit armed it again; None: it has fired for this window."""

    def as_json(self) -> dict[str, Any]:
        """Return the alert as the API and the CLI show it."""
        return {
            "at": self.at.isoformat(),
            "scope": self.scope,
            "meter": self.meter,
            "window": self.window,
            "window_start": self.window_start.isoformat(),
            "threshold": self.threshold,
            "used": self.used,
            "limit": self.limit,
            "rearmed_at": None if self.rearmed_at is None else self.rearmed_at.isoformat(),
        }


def read_alerts(connection: Connection, scope: Scope | None, *, limit: int) -> list[Alert]:
    """Return what fired for a scope and all below it, the latest first; None: for all."""
    query = select(alerts).order_by(alerts.c.at_ns.desc(), alerts.c.scope, alerts.c.percent.desc())
    if scope is not None:
        query = query.where(below_or_at(alerts.c.scope, scope))
    return [
        Alert(
            scope=Scope(row.scope),
            meter=row.meter,
            window=row.window,
            window_start=datetime.fromtimestamp(row.window_start_s, UTC),
            threshold=row.percent,
            used=row.used,
            limit=row.limit_amount,
            at=instant_of(row.at_ns),
            rearmed_at=instant_of(int(row.subject)) if row.subject else None,
        )
        for row in connection.execute(query.limit(max(1, min(limit, ALERTS_MAX))))
    ]


def misannounced(
    connection: Connection, balances: Iterable[Balance], thresholds: Sequence[int]
) -> list[RowKey]:
    """Return the rows whose announcements do not suit their limits, which were others when they were made.

    Use has passed a threshold that never fired, or one fired under a lower limit that it has not reached.

    Args:
        connection: on the snapshot of the balances.
        balances: current calendar rows.
        thresholds: in percent, ascending.
    """
    rows = {balance.key: balance for balance in balances}
    fired: dict[tuple[str, str, str, int], dict[int, int]] = {}
    recent = select(alerts).where(
        alerts.c.subject == "", alerts.c.window_start_s.in_({key.start_s for key in rows})
    )
    for row in connection.execute(recent):
        told = fired.setdefault((row.scope, row.meter, row.window, row.window_start_s), {})
        told[row.percent] = row.limit_amount
    return [
        key
        for key, balance in rows.items()
        if _unsuited(balance, thresholds, fired.get((key.scope, key.meter, key.window, key.start_s), {}))
    ]


def _unsuited(balance: Balance, thresholds: Sequence[int], fired: Mapping[int, int]) -> bool:
    """Tell whether a row has anything to announce, or to arm again; `fired`: percentages and limits."""
    limit = balance.limit
    if limit is None:
        return bool(fired)
    passed = {percent for percent in thresholds if balance.used * 100 >= percent * limit}
    return not passed <= fired.keys() or any(
        percent * limit > balance.used * 100 and then < limit for percent, then in fired.items()
    )
