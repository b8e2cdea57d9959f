"""Reading current rows: counters, limits and overrides joined as balances."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from trivet.budgets.calendar import Windows
from trivet.budgets.ladder import Ladder
from trivet.budgets.rows import TRACKED, Balance, DefaultLimits, RowKey
from trivet.domain.budgets import (
    METERS,
    WINDOW_KINDS,
    LimitKind,
    Meter,
    Override,
    WindowKind,
)
from trivet.domain.scopes import Scope
from trivet.storage.instants import instant_of, ns_of
from trivet.storage.schema import counters, limits, overrides

LimitName = tuple[Scope, Meter, LimitKind]


@dataclass(frozen=True, slots=True)
class View:
    """The instant, the calendar and the rules that a reading is made under."""

    now: datetime
    windows: Callable[[Scope], Windows]
    """The current windows of a scope's organisation."""
    defaults: DefaultLimits
    ladder: Ladder


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that was set; `amount` None: explicitly unlimited."""

    scope: Scope
    meter: Meter
    window: LimitKind
    amount: int | None
    allowance: int
    version: int
    author: str
    updated_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the limit as the API and the CLI show it."""
        return {
            "scope": self.scope,
            "meter": self.meter,
            "window": self.window,
            "amount": self.amount,
            "critical_allowance": self.allowance,
            "version": self.version,
            "author": self.author,
            "updated_at": self.updated_at.isoformat(),
        }


def read_limits(connection: Connection, among: ColumnElement[bool] | None = None) -> list[Limit]:
    """Return every limit that was set, by scope, meter and window."""
    query = select(limits).order_by(limits.c.scope, limits.c.meter, limits.c.window)
    return [
        Limit(
            Scope(row.scope),
            row.meter,
            row.window,
            row.amount,
            row.allowance,
            row.version,
            row.author,
            instant_of(row.updated_ns),
        )
        for row in connection.execute(query if among is None else query.where(among))
    ]


def read_overrides(connection: Connection, among: ColumnElement[bool] | None = None) -> list[Override]:
    """Return overrides whatever their state, the latest request first."""
    query = select(overrides).order_by(overrides.c.requested_ns.desc(), overrides.c.id)
    return [
        Override(
            override_id=row.id,
            kind=row.kind,
            scope=Scope(row.scope),
            meter=row.meter,
            window=row.window,
            amount=row.amount,
            state=row.state,
            requester=row.requester,
            approver=row.approver,
            reason=row.reason,
            requested_at=instant_of(row.requested_ns),
            expires_at=instant_of(row.expires_ns),
        )
        for row in connection.execute(query if among is None else query.where(among))
    ]


def alive(now: datetime) -> ColumnElement[bool]:
    """Return the condition of overrides that wait for a decision or are in force."""
    return and_(overrides.c.state.in_(("requested", "approved")), overrides.c.expires_ns > ns_of(now))


def read_balances(
    connection: Connection, view: View, scopes: Iterable[Scope] | None, below: Scope | None = None
) -> list[Balance]:
    """Return the current calendar rows: those tracked, those limited, those in which anything stands.

    Args:
        connection: on one snapshot.
        view: what the reading is made under.
        scopes: whose rows; None: of every scope that is known, or with `below` of that and all under it.
        below: see above; it is among them also when nothing is known of it.
    """
    wanted = None if scopes is None else tuple(scopes)

    def among(column: ColumnElement[str]) -> list[ColumnElement[bool]]:
        if wanted is not None:
            return [column.in_(wanted)]
        return [] if below is None else [below_or_at(column, below)]

    own = {
        (limit.scope, limit.meter, limit.window): limit.amount
        for limit in read_limits(connection, and_(True, *among(limits.c.scope)))
    }
    grants: dict[LimitName, int] = {}
    for override in read_overrides(connection, and_(alive(view.now), *among(overrides.c.scope))):
        if override.kind == "amount" and override.state == "approved":
            name = override.scope, override.meter, override.window
            grants[name] = grants.get(name, 0) + override.amount
    standing = _standing(connection, view, among(counters.c.scope))
    names = {(key.scope, key.meter, key.window) for key in standing}
    names |= {(scope, meter, kind) for (scope, meter, kind), amount in own.items() if amount is not None}
    known = {scope for scope, _, _ in names | own.keys()} | set(wanted or ())
    known |= {below} if below is not None else set()
    names |= {(scope, meter, kind) for scope in known for meter, kind in TRACKED}
    found = []
    for scope, meter, kind in sorted(names, key=_order):
        if kind in WINDOW_KINDS:
            key = RowKey(scope, meter, kind, "", *view.windows(scope)[kind])
            used, held = standing.get(key, (0, 0))
            name = scope, meter, kind
            limit = own[name] if name in own else view.defaults.limit(scope, meter, kind)
            found.append(Balance(key, used, held, limit, grants.get(name, 0)))
    return found


def below_or_at(column: ColumnElement[str], scope: Scope) -> ColumnElement[bool]:
    """Return the condition that a column holds the scope or one below it."""
    # "/" is the character after ".": this is LIKE 'scope.%', but "_" in a slug is no wildcard.
    return or_(column == scope, and_(column >= f"{scope}.", column < f"{scope}/"))


def _standing(
    connection: Connection, view: View, among: list[ColumnElement[bool]]
) -> dict[RowKey, tuple[int, int]]:
    now_s = int(view.now.timestamp())
    query = select(counters).where(
        counters.c.window.in_(WINDOW_KINDS),
        counters.c.window_end_s > now_s,
        counters.c.window_start_s <= now_s,
        *among,
    )
    found = {}
    for row in connection.execute(query):
        scope, kind = Scope(row.scope), row.window
        bounds = (row.window_start_s, row.window_end_s)
        # After an edit of the time zone an older window may still overlap.
        if view.windows(scope)[kind] == bounds:
            found[RowKey(scope, row.meter, kind, "", *bounds)] = (row.used, row.held)
    return found


def _order(name: LimitName) -> tuple[str, int, int]:
    scope, meter, kind = name
    windows: tuple[WindowKind, ...] = WINDOW_KINDS
    return scope, METERS.index(meter), windows.index(kind) if kind in windows else len(windows)
