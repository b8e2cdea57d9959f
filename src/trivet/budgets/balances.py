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
    zone: Callable[[Scope], str]
    """The zone that its next windows are of."""
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

    # Of one organisation's many scopes the windows are the same.
    windows_of: dict[str, Windows] = {}

    def windows(scope: Scope) -> Windows:
        owner = scope.partition(".")[0]
        found = windows_of.get(owner)
        if found is None:
            found = windows_of[owner] = view.windows(scope)
        return found

    columns = limits.c
    amounts = select(columns.scope, columns.meter, columns.window, columns.amount, columns.allowance)
    own: dict[LimitName, int | None] = {}
    allowances: dict[LimitName, int] = {}
    for scope, meter, kind, amount, allowance in connection.execute(
        amounts.where(*among(limits.c.scope))
    ).all():
        own[scope, meter, kind] = amount
        if allowance:
            allowances[scope, meter, kind] = allowance
    grants: dict[LimitName, int] = {}
    for override in read_overrides(connection, and_(alive(view.now), *among(overrides.c.scope))):
        if override.kind == "amount" and override.state == "approved":
            name = override.scope, override.meter, override.window
            grants[name] = grants.get(name, 0) + override.amount
    standing = _standing(connection, view.now, windows, among(counters.c.scope))
    names = set(standing)
    names.update(name for name, amount in own.items() if amount is not None)
    known = {name[0] for name in names} | {name[0] for name in own} | set(wanted or ())
    known |= {below} if below is not None else set()
    names.update((scope, meter, kind) for scope in known for meter, kind in TRACKED)
    found = []
    for name in sorted(names, key=_order):
        scope, meter, kind = name
        if kind in WINDOW_KINDS:
            start_s, end_s = windows(scope)[kind]
            used, held = standing.get(name, (0, 0))
            limit = own[name] if name in own else view.defaults.limit(scope, meter, kind)
            key = RowKey(scope, meter, kind, "", start_s, end_s)
            found.append(Balance(key, used, held, limit, grants.get(name, 0), allowances.get(name, 0)))
    return found


def below_or_at(column: ColumnElement[str], scope: Scope) -> ColumnElement[bool]:
    """Return the condition that a column holds the scope or one below it."""
    # "/" is the character after ".": this is LIKE 'scope.%', but "_" in a slug is no wildcard.
    return or_(column == scope, and_(column >= f"{scope}.", column < f"{scope}/"))


def _standing(
    connection: Connection,
    now: datetime,
    windows: Callable[[Scope], Windows],
    among: list[ColumnElement[bool]],
) -> dict[LimitName, tuple[int, int]]:
    """Return what is used and held in the rows of current windows in which anything stands."""
    now_s = int(now.timestamp())
    columns = counters.c
    query = select(
        *(columns.scope, columns.meter, columns.window),
        *(columns.window_start_s, columns.window_end_s, columns.used, columns.held),
    ).where(
        columns.window.in_(WINDOW_KINDS),
        columns.window_end_s > now_s,
        columns.window_start_s <= now_s,
        *among,
    )
    # After an edit of the time zone an older window may still overlap.
    return {
        (scope, meter, kind): (used, held)
        for scope, meter, kind, start_s, end_s, used, held in connection.execute(query).all()
        if windows(scope)[kind] == (start_s, end_s)
    }


_RANKS = {
    (meter, kind): rank
    for rank, (meter, kind) in enumerate((meter, kind) for meter in METERS for kind in WINDOW_KINDS)
}
"""The order of a scope's rows."""


def _order(name: LimitName) -> tuple[str, int]:
    return name[0], _RANKS.get((name[1], name[2]), len(_RANKS))  # type: ignore[arg-type]  # not all are calendar's
