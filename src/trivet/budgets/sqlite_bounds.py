"""What binds whom, kept in memory: limits, defaults, overrides. The store has one owner, so that is right.

Everything here runs on the writer thread, but for `end_change`. From the begin of a change to the end of its
transaction, however that ended, nothing is kept: what is read then is what the transaction sees.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.rows import TRACKED, Cap, DefaultLimits, RowKey, rows_as_text, rows_from_text
from trivet.domain.budgets import (
    NEVER_S,
    SUBJECT_KINDS,
    LimitKind,
    Meter,
    OverrideKind,
)
from trivet.domain.scopes import Scope, lineage
from trivet.storage.writes import Writes

_CACHED_MAX = 8192
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows that a request touches, as they are stored, and what bounds them."""

    rows: tuple[RowKey, ...]
    text: str
    caps: tuple[Cap, ...]
    """Of the limited rows, and last the caps on a single request, in which nothing ever stands."""
    approved: bool
    """Whether an approval for the dearest tier is in force."""
    until_ns: int

    @property
    def requests(self) -> tuple[Cap, ...]:
        """Return the caps on a single request."""
        return tuple(cap for cap in self.caps if cap.key.window == "request")


@dataclass(frozen=True, slots=True)
class _Grant:
    """An override in force."""

    kind: OverrideKind
    scope: Scope
    meter: Meter
    window: LimitKind
    amount: int
    expires_ns: int


@dataclass(slots=True)
class _Loaded:
    limits: dict[Scope, dict[tuple[Meter, LimitKind], tuple[int | None, int]]] = field(default_factory=dict)
    grants: dict[Scope, list[_Grant]] = field(default_factory=dict)
    by_subject: bool = False
    """Whether any limit is on tasks or sessions."""


class Bounds:
    """Limits, overrides and the plans made from them."""

    def __init__(self, calendar: LedgerCalendar, defaults: DefaultLimits) -> None:
        self._calendar = calendar
        self._defaults = defaults
        self._changing = 0
        self._gate = threading.Lock()
        self._loaded: _Loaded | None = None
        self._plans: dict[tuple[Scope, str | None, str | None], Plan] = {}
        self._caps: dict[str, tuple[tuple[Cap, ...], int]] = {}

    def begin_change(self) -> None:
        """Keep nothing from now on: a limit or an override is being changed."""
        with self._gate:
            self._changing += 1
            self._forget()

    def end_change(self) -> None:
        """The change is on disk, or undone; callable from any thread."""
        with self._gate:
            self._forget()
            self._changing -= 1

    def plan(
        self,
        connection: Writes,
        scope: Scope,
        task: str | None,
        session: str | None,
        now_ns: int,
    ) -> Plan:
        """Return the rows that a request touches now: what is tracked, and what has a limit."""
        loaded, keep = self._loaded, True
        if loaded is None:
            loaded, keep = self._load(connection, now_ns)
        key = (scope, task, session) if loaded.by_subject else (scope, None, None)
        plan = self._plans.get(key)
        if plan is None or not keep or now_ns >= plan.until_ns:
            plan = self._made(loaded, *key, now_ns)
            if keep:
                _make_room(self._plans)
                self._plans[key] = plan
        return plan

    def caps(self, connection: Writes, text: str, now_ns: int) -> tuple[Cap, ...]:
        """Return what bounds rows that are stored as `text`, those of them that are limited now."""
        loaded, keep = self._loaded, True
        if loaded is None:
            loaded, keep = self._load(connection, now_ns)
        known = self._caps.get(text)
        if known is None or not keep or now_ns >= known[1]:
            rows = rows_from_text(text)
            caps = tuple(cap for key in rows if (cap := self._cap(loaded, key, now_ns)) is not None)
            known = caps, self._next_end(loaded, {key.scope for key in rows}, now_ns)
            if keep:
                _make_room(self._caps)
                self._caps[text] = known
        return known[0]

    def cap(self, connection: Writes, key: RowKey, now_ns: int) -> Cap | None:
        """Return what bounds one row; None when it is unlimited."""
        return self._cap(self._load(connection, now_ns)[0], key, now_ns)

    def own(self, connection: Writes, scope: Scope, meter: Meter, kind: LimitKind, now_ns: int) -> int | None:
        """Return the limit of a kind on a scope, its own or the default; None when there is none."""
        return self._limit(self._load(connection, now_ns)[0], scope, meter, kind)

    def _load(self, connection: Writes, now_ns: int) -> tuple[_Loaded, bool]:
        """Return limits and overrides, and whether what is made from them may be kept."""
        # While a change is under way nothing is kept, and only this thread begins one.
        if (loaded := self._loaded) is not None:
            return loaded, True
        with self._gate:
            keep = not self._changing
        loaded = _Loaded()
        for scope, meter, kind, amount, allowance in connection.execute(statements.LIMITS):
            loaded.limits.setdefault(Scope(scope), {})[meter, kind] = (amount, allowance)
            loaded.by_subject = loaded.by_subject or kind in SUBJECT_KINDS
        for row in connection.execute(statements.OVERRIDES_IN_FORCE, (now_ns,)):
            loaded.grants.setdefault(Scope(row[1]), []).append(_Grant(*row))
        if keep:
            self._loaded = loaded
        return loaded, keep

    def _forget(self) -> None:
        self._loaded = None
        self._plans.clear()
        self._caps.clear()

    def _made(
        self, loaded: _Loaded, scope: Scope, task: str | None, session: str | None, now_ns: int
    ) -> Plan:
        windows = self._calendar.windows(scope, now_ns)
        subjects = {"task": task, "session": session}
        rows: list[RowKey] = []
        requests: list[Cap] = []
        for above in lineage(scope):
            limited = {
                what for what, (amount, _) in loaded.limits.get(above, {}).items() if amount is not None
            }
            for meter, kind in sorted({*TRACKED, *limited}):
                if kind in windows:
                    rows.append(RowKey(above, meter, kind, "", *windows[kind]))
                elif kind == "request":
                    cap = self._cap(loaded, RowKey(above, meter, kind, "", 0, NEVER_S), now_ns)
                    requests += [cap] if cap is not None else []
                elif (subject := subjects.get(kind)) is not None:
                    rows.append(RowKey(above, meter, kind, subject, 0, NEVER_S))
        caps = [cap for key in rows if (cap := self._cap(loaded, key, now_ns)) is not None]
        scopes = lineage(scope)
        window_end_ns = min(end_s for _, end_s in windows.values()) * _NS_PER_S
        return Plan(
            rows=tuple(rows),
            text=rows_as_text(rows),
            caps=(*caps, *requests),
            approved=any(
                grant.kind == "approval" and grant.expires_ns > now_ns
                for above in scopes
                for grant in loaded.grants.get(above, ())
            ),
            until_ns=min(window_end_ns, self._next_end(loaded, scopes, now_ns)),
        )

    def _cap(self, loaded: _Loaded, key: RowKey, now_ns: int) -> Cap | None:
        limit = self._limit(loaded, key.scope, key.meter, key.window)
        if limit is None:
            return None
        own = loaded.limits.get(key.scope, {}).get((key.meter, key.window))
        granted, critical = 0, own[1] if own else 0
        for grant in loaded.grants.get(key.scope, ()):
            if (grant.meter, grant.window) == (key.meter, key.window) and grant.expires_ns > now_ns:
                granted += grant.amount if grant.kind == "amount" else 0
                critical += grant.amount if grant.kind == "emergency" else 0
        return Cap(key, limit, granted, critical)

    def _limit(self, loaded: _Loaded, scope: Scope, meter: Meter, kind: LimitKind) -> int | None:
        own = loaded.limits.get(scope, {}).get((meter, kind))
        return own[0] if own else self._defaults.limit(scope, meter, kind)

    def _next_end(self, loaded: _Loaded, scopes: Iterable[Scope], now_ns: int) -> int:
        """Return when the next override of these scopes ends."""
        ends = [grant.expires_ns for scope in scopes for grant in loaded.grants.get(scope, ())]
        return min((end for end in ends if end > now_ns), default=NEVER_S * _NS_PER_S)


def _make_room(cached: dict[Any, Any]) -> None:
    if len(cached) >= _CACHED_MAX:
        cached.clear()
