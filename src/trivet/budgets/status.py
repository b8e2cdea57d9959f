"""What an operator asks of the counters: current rows, burn rate, projection, alerts. Reads only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from trivet.budgets.rows import METER, Balance, DefaultLimits, RowKey
from trivet.domain.budgets import WINDOW_KINDS, BudgetRow, BudgetStatus, WindowKind
from trivet.domain.scopes import Scope, lineage, organisation
from trivet.storage.instants import instant_of, ns_of
from trivet.storage.schema import counters, entries, limits

BURN_PERIOD = timedelta(hours=1)
RECENT_REQUESTS = 100
"""How many of the last charges make the mean size of a request."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that was set; `amount` None: explicitly unlimited."""

    scope: Scope
    window: WindowKind
    amount: int | None
    version: int
    author: str
    updated_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the limit as the API and the CLI show it."""
        return {
            "scope": self.scope,
            "meter": METER,
            "window": self.window,
            "amount": self.amount,
            "version": self.version,
            "author": self.author,
            "updated_at": self.updated_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class View:
    """The instant, the open windows and the defaults that a reading is made under."""

    now: datetime
    windows: Mapping[WindowKind, tuple[int, int]]
    defaults: DefaultLimits
    thresholds: tuple[int, ...]


def read_limits(connection: Connection) -> list[Limit]:
    """Return every limit that was set, by scope and window."""
    return [
        Limit(
            Scope(row.scope),
            row.window,
            row.amount,
            row.version,
            row.author,
            instant_of(row.updated_ns),
        )
        for row in connection.execute(select(limits).order_by(limits.c.scope, limits.c.window))
    ]


def read_rows(connection: Connection, view: View, below: Scope | None) -> list[BudgetRow]:
    """Return the current rows of `below` and all under it; None: of every scope that is known."""
    among = None if below is None else _of(counters.c.scope, below)
    current = _current_counters(connection, view, among)
    own = _own_limits(connection, None if below is None else _of(limits.c.scope, below))
    scopes = {scope for scope, _ in current.keys() | own.keys()}
    if below is not None:
        scopes.add(below)
    return [
        _balance(scope, kind, view, current, own).as_row()
        for scope in sorted(scopes)
        for kind in WINDOW_KINDS
    ]


def read_status(connection: Connection, view: View, scope: Scope) -> BudgetStatus:
    """Return the status of a scope under its own limits and those of the scopes above."""
    current = _current_counters(connection, view, counters.c.scope.in_(lineage(scope)))
    own = _own_limits(connection, limits.c.scope.in_(lineage(scope)))
    balances = [
        _balance(above, kind, view, current, own) for above in lineage(scope) for kind in WINDOW_KINDS
    ]
    burn = {above: burn_rate_per_hour(connection, above, view.now) for above in lineage(scope)}
    breaches = [
        (breach, balance)
        for balance in balances
        if (breach := breach_at(balance, burn[balance.key.scope], view.now)) is not None
    ]
    first_breach = min(breaches, key=lambda pair: pair[0], default=None)
    binding = first_breach[1] if first_breach else _fullest(balances, scope)
    rows = tuple(balance.as_row() for balance in balances)
    alerts = tuple(alert for row in rows if (alert := _alert(row, view.thresholds)) is not None)
    return BudgetStatus(
        scope=scope,
        status=_verdict(rows, alerts),
        rows=rows,
        burn_rate_per_hour=burn[scope],
        projected_total=projected_total(binding, burn[binding.key.scope], view.now),
        breach_at=first_breach[0] if first_breach else None,
        requests_remaining=_requests_remaining(connection, scope, balances),
        thresholds=view.thresholds,
        active_alerts=alerts,
    )


def burn_rate_per_hour(connection: Connection, scope: Scope, now: datetime) -> float:
    """Return the tokens per hour that a scope was charged during the last hour."""
    charged = connection.scalar(
        select(func.coalesce(func.sum(entries.c.used_delta), 0)).where(
            entries.c.organisation == organisation(scope),
            entries.c.at_ns > ns_of(now - BURN_PERIOD),
            _of(entries.c.scope, scope),
        )
    )
    return float(charged or 0) / (BURN_PERIOD / timedelta(hours=1))


def projected_total(balance: Balance, rate_per_hour: float, now: datetime) -> int:
    """Return what the row will have used at its window's end, at the present rate."""
    left_h = max(0.0, balance.key.end_s - now.timestamp()) / 3600
    return balance.used + round(rate_per_hour * left_h)


def breach_at(balance: Balance, rate_per_hour: float, now: datetime) -> datetime | None:
    """Return when use reaches the limit at the present rate; None if not within the window."""
    if balance.limit is None:
        return None
    if balance.used >= balance.limit:
        return now
    if rate_per_hour <= 0:
        return None
    left_s = (balance.limit - balance.used) / rate_per_hour * 3600
    if now.timestamp() + left_s >= balance.key.end_s:
        return None
    return now + timedelta(seconds=round(left_s))


def _own_limits(
    connection: Connection, among: ColumnElement[bool] | None
) -> dict[tuple[Scope, WindowKind], int | None]:
    query = select(limits) if among is None else select(limits).where(among)
    return {(Scope(row.scope), row.window): row.amount for row in connection.execute(query)}


def _current_counters(
    connection: Connection, view: View, among: ColumnElement[bool] | None
) -> dict[tuple[Scope, WindowKind], tuple[int, int]]:
    in_window = or_(
        *(
            and_(counters.c.window == kind, counters.c.window_start_s == start_s)
            for kind, (start_s, _) in view.windows.items()
        )
    )
    query = select(counters).where(in_window)
    return {
        (Scope(row.scope), row.window): (row.used, row.held)
        for row in connection.execute(query if among is None else query.where(among))
    }


def _balance(
    scope: Scope,
    kind: WindowKind,
    view: View,
    current: dict[tuple[Scope, WindowKind], tuple[int, int]],
    own: dict[tuple[Scope, WindowKind], int | None],
) -> Balance:
    key = RowKey(scope, kind, *view.windows[kind])
    used, held = current.get((scope, kind), (0, 0))
    limit = view.defaults.applied(key, has_own=(scope, kind) in own, own=own.get((scope, kind)))
    return Balance(key, used, held, limit)


def _fullest(balances: list[Balance], scope: Scope) -> Balance:
    """Return the limited row nearest to its limit; without limits the scope's own first."""
    limited = [balance for balance in balances if balance.limit is not None]
    if limited:
        return max(limited, key=lambda balance: balance.used / (balance.limit or 1))
    return next(balance for balance in balances if balance.key.scope == scope)


def _requests_remaining(connection: Connection, scope: Scope, balances: list[Balance]) -> int | None:
    """Return how many requests of the recent mean size still fit; None without limits or history."""
    rooms = [balance.room for balance in balances if balance.room is not None]
    mean = connection.scalar(select(func.avg(_recent_charges(scope).subquery().c.used_delta)))
    if not rooms or mean is None:
        return None
    return int(min(rooms) / float(mean))


def _recent_charges(scope: Scope) -> Select[tuple[int]]:
    return (
        select(entries.c.used_delta)
        .where(
            entries.c.organisation == organisation(scope),
            entries.c.used_delta > 0,
            _of(entries.c.scope, scope),
        )
        .order_by(entries.c.seq.desc())
        .limit(RECENT_REQUESTS)
    )


def _of(column: ColumnElement[str], scope: Scope) -> ColumnElement[bool]:
    """Return the condition that a column holds the scope or one below it."""
    # "/" is the character after ".": this is LIKE 'scope.%', but "_" in a slug is no wildcard.
    return or_(column == scope, and_(column >= f"{scope}.", column < f"{scope}/"))


def _alert(row: BudgetRow, thresholds: tuple[int, ...]) -> dict[str, Any] | None:
    """Return the highest threshold that a row's use has passed. Holds do not count: they may come back."""
    if row.percent_used is None:
        return None
    passed = [threshold for threshold in thresholds if row.percent_used >= threshold]
    if not passed:
        return None
    return {
        "scope": row.scope,
        "meter": row.meter,
        "window": row.window,
        "threshold": max(passed),
        "percent_used": row.percent_used,
        "resets_at": row.resets_at.isoformat(),
    }


def _verdict(rows: tuple[BudgetRow, ...], alerts: tuple[dict[str, Any], ...]) -> str:
    if any(row.limit is not None and row.used >= row.limit for row in rows):
        return "exhausted"
    return "warning" if alerts else "ok"
