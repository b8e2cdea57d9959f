"""Reading which thresholds have fired. They are entered by what charges; see `Books.announce`."""

from collections.abc import Iterable, Sequence
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
        )
        for row in connection.execute(query.limit(max(1, min(limit, ALERTS_MAX))))
    ]


def unannounced(
    connection: Connection, balances: Iterable[Balance], thresholds: Sequence[int]
) -> list[RowKey]:
    """Return the limited rows whose use has passed a threshold that never fired: their limits were higher.

    Args:
        connection: on the snapshot of the balances.
        balances: current calendar rows.
        thresholds: in percent, ascending.
    """
    passed = {
        balance.key: {percent for percent in thresholds if balance.used * 100 >= percent * balance.limit}
        for balance in balances
        if balance.limit is not None
    }
    passed = {key: percents for key, percents in passed.items() if percents}
    if not passed:
        return []
    fired: dict[tuple[str, str, str, int], set[int]] = {}
    columns = (alerts.c.scope, alerts.c.meter, alerts.c.window, alerts.c.window_start_s, alerts.c.percent)
    recent = select(*columns).where(alerts.c.window_start_s.in_({key.start_s for key in passed}))
    for scope, meter, window, start_s, percent in connection.execute(recent):
        fired.setdefault((scope, meter, window, start_s), set()).add(percent)
    return [
        key
        for key, percents in passed.items()
        if percents - fired.get((key.scope, key.meter, key.window, key.start_s), set())
    ]
