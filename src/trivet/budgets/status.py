"""What an operator asks of the counters: current rows, burn rate, projection, alerts. Reads only."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from trivet.budgets.balances import (
    Limit,
    View,
    alive,
    read_balances,
    read_limits,
    read_overrides,
)
from trivet.budgets.burn import Burn, read_burn
from trivet.budgets.ladder import share_used
from trivet.budgets.rows import Balance
from trivet.domain.budgets import WINDOW_KINDS, Amounts, BudgetCap, BudgetRow, BudgetStatus
from trivet.domain.scopes import Scope, lineage
from trivet.storage.instants import instant_of
from trivet.storage.schema import alerts, counters, limits, overrides

__all__ = ["Limit", "View", "read_limits", "read_organisation_rows", "read_rows", "read_status"]


def read_rows(connection: Connection, view: View, below: Scope | None) -> list[BudgetRow]:
    """Return the current rows of `below` and all under it; None: of every scope that is known."""
    return [balance.as_row() for balance in read_balances(connection, view, None, below)]


def read_organisation_rows(connection: Connection, view: View) -> list[BudgetRow]:
    """Return the current rows of every organisation that is known."""
    names = select(counters.c.scope).union(select(limits.c.scope)).subquery()
    known = connection.scalars(select(names.c.scope).where(names.c.scope.not_like("%.%")))
    return [balance.as_row() for balance in read_balances(connection, view, map(Scope, known))]


def read_status(connection: Connection, view: View, scope: Scope) -> BudgetStatus:
    """Return the status of a scope under its own limits and those of the scopes above."""
    above = lineage(scope)
    balances = read_balances(connection, view, above)
    recent = read_burn(connection, scope, view.now)
    burn = {each: recent.per_hour(each) for each in above}
    breaches = [
        (breach, balance)
        for balance in balances
        if (breach := breach_at(balance, _rate(burn, balance), view.now)) is not None
    ]
    first_breach = min(breaches, key=lambda pair: pair[0], default=None)
    binding = first_breach[1] if first_breach else _fullest(balances, scope)
    rows = tuple(balance.as_row() for balance in balances)
    found = _alerts(connection, rows, view.ladder.thresholds)
    fullest = max((share_used(b) for b in balances if b.limit is not None), default=0.0)
    return BudgetStatus(
        scope=scope,
        time_zone=view.zone(scope),
        status=_verdict(rows, found),
        rows=rows,
        caps=_caps(connection, scope),
        burn_rate_per_hour=float(burn[scope].tokens),
        burn_rates=burn[scope],
        projected_total=projected_total(binding, _rate(burn, binding), view.now),
        projected_row=binding.as_row(),
        breach_at=first_breach[0] if first_breach else None,
        requests_remaining=_requests_remaining(scope, recent, balances),
        thresholds=view.ladder.thresholds,
        active_alerts=found,
        overrides=tuple(read_overrides(connection, alive(view.now) & overrides.c.scope.in_(above))),
        actions=tuple(sorted(view.ladder.actions(fullest))),
    )


def projected_total(balance: Balance, rate_per_hour: float, now: datetime) -> int | None:
    """Return what the row will have used at its window's end, at the present rate; None: it has no end."""
    if balance.as_row().resets_at is None:
        return None
    left_h = max(0.0, balance.key.end_s - now.timestamp()) / 3600
    return balance.used + round(rate_per_hour * left_h)


def breach_at(balance: Balance, rate_per_hour: float, now: datetime) -> datetime | None:
    """Return when use reaches what is allowed at the present rate; None if not within the window."""
    most = balance.ceiling
    if most is None:
        return None
    if balance.used >= most:
        return now
    if rate_per_hour <= 0:
        return None
    left_s = (most - balance.used) / rate_per_hour * 3600
    if now.timestamp() + left_s >= balance.key.end_s - 1:
        return None
    return now + timedelta(seconds=round(left_s))


def _rate(burn: dict[Scope, Amounts], balance: Balance) -> float:
    return float(burn[balance.key.scope].of(balance.key.meter))


def _fullest(balances: list[Balance], scope: Scope) -> Balance:
    """Return the limited row nearest to its limit; without limits the scope's own first."""
    limited = [balance for balance in balances if balance.limit is not None]
    if limited:
        return max(limited, key=lambda balance: balance.used / (balance.ceiling or 1))
    return next(balance for balance in balances if balance.key.scope == scope)


def _caps(connection: Connection, scope: Scope) -> tuple[BudgetCap, ...]:
    among = limits.c.scope.in_(lineage(scope)) & limits.c.window.not_in(WINDOW_KINDS)
    return tuple(
        BudgetCap(limit.scope, limit.meter, limit.window, limit.amount)
        for limit in read_limits(connection, among)
        if limit.amount is not None
    )


def _requests_remaining(scope: Scope, burn: Burn, balances: list[Balance]) -> int | None:
    """Return how many requests of the recent mean size still fit; None without limits or history.

    The mean is the scope's own; where it had no charge lately, that of the nearest scope above which had.
    """
    fitting = []
    for meter in dict.fromkeys(balance.key.meter for balance in balances if balance.limit is not None):
        rooms = [b.room for b in balances if b.key.meter == meter and b.room is not None]
        mean = burn.mean(reversed(lineage(scope)), meter)
        if mean:
            fitting.append(int(min(rooms) / mean))
    return min(fitting, default=None)


def _alerts(
    connection: Connection, rows: tuple[BudgetRow, ...], thresholds: tuple[int, ...]
) -> tuple[dict[str, Any], ...]:
    """Return the highest threshold that each row's use has passed. Holds do not count: they may come back."""
    passed = [
        (row, max(reached))
        for row in rows
        if row.percent_used is not None
        and (reached := [percent for percent in thresholds if row.percent_used >= percent])
    ]
    if not passed:
        return ()
    fired = {
        (row.scope, row.meter, row.window, row.window_start_s, row.percent): row.at_ns
        for row in connection.execute(
            select(alerts).where(
                alerts.c.subject == "", alerts.c.scope.in_(sorted({row.scope for row, _ in passed}))
            )
        )
    }
    found = []
    for row, percent in passed:
        name = row.scope, row.meter, row.window, int(row.window_start.timestamp()), percent
        at_ns = fired.get(name)
        found.append(
            {
                "scope": row.scope,
                "meter": row.meter,
                "window": row.window,
                "threshold": percent,
                "percent_used": row.percent_used,
                "fired_at": None if at_ns is None else instant_of(at_ns).isoformat(),
                "resets_at": row.resets_at.isoformat() if row.resets_at else None,
            }
        )
    return tuple(found)


def _verdict(rows: tuple[BudgetRow, ...], found: tuple[dict[str, Any], ...]) -> str:
    if any(row.limit is not None and row.used >= row.limit + row.overridden for row in rows):
        return "exhausted"
    return "warning" if found else "ok"
