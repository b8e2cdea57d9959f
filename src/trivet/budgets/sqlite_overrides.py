"""Overrides on SQLite: asked for, decided by another, ended. Runs on the writer thread."""

from typing import Any

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.entries import Entry, as_detail
from trivet.budgets.rows import check_amount
from trivet.budgets.sqlite_books import Books
from trivet.budgets.sqlite_limits import check_kind
from trivet.budgets.store import OverrideRequest
from trivet.domain.budgets import Override, OverrideState
from trivet.domain.errors import NotFound, PermissionDenied, RequestMalformed
from trivet.domain.scopes import Scope
from trivet.storage.instants import instant_of, ns_of
from trivet.storage.writes import Writes

_NS_PER_H = 3600 * 1_000_000_000
TEXT_CHARS_MAX = 500


class Overriding:
    """Request, decide, revoke. Every step is an entry of the organisation's chain."""

    def __init__(self, books: Books, *, emergency_percent: int, emergency_hours: float) -> None:
        """Take the share of a limit, and the time, that an emergency override has at most."""
        self._books = books
        self._emergency_percent = emergency_percent
        self._emergency_ns = int(emergency_hours * _NS_PER_H)

    def request(self, connection: Writes, asked: OverrideRequest) -> Override:
        """Enter a request; an emergency within its ceiling is in force at once.

        Raises:
            RequestMalformed: there is nothing to override, its end has passed, or its ceiling is exceeded.
        """
        check_kind(asked.meter, asked.window)
        check_amount(asked.amount, "amount")
        now_ns, expires_ns = self._books.calendar.now_ns(), ns_of(asked.expires_at)
        if not asked.reason.strip() or len(asked.reason) > TEXT_CHARS_MAX or not asked.reason.isprintable():
            raise RequestMalformed("An override needs a reason, in plain text.", param="reason")
        if expires_ns <= now_ns:
            raise RequestMalformed("The override would have ended already.", param="expires_at")
        if asked.kind != "approval":
            self._check_amount_beyond(connection, asked, now_ns)
        if asked.kind == "emergency":
            self._check_emergency(connection, asked, expires_ns, now_ns)
        at_once = asked.kind == "emergency"
        state: OverrideState = "approved" if at_once else "requested"
        connection.execute(
            statements.INSERT_OVERRIDE,
            (
                asked.override_id,
                asked.kind,
                asked.scope,
                asked.meter,
                asked.window,
                asked.amount,
                state,
                asked.requester,
                None,
                asked.reason,
                now_ns,
                now_ns if at_once else None,
                expires_ns,
            ),
        )
        return self._entered(connection, asked.override_id, asked.requester, now_ns)

    def decide(self, connection: Writes, override_id: str, *, approve: bool, decider: str) -> Override:
        """Approve or deny a request.

        Raises:
            NotFound: there is none.
            PermissionDenied: the decider is who asked.
            RequestMalformed: it is decided already, or has ended.
        """
        override = self.find(connection, override_id)
        if override.requester == decider:
            raise PermissionDenied("Whoever asks for an override cannot decide on it.")
        now_ns = self._books.calendar.now_ns()
        if override.state != "requested":
            raise RequestMalformed(f"The override is {override.state} already.")
        if approve and ns_of(override.expires_at) <= now_ns:
            raise RequestMalformed("The override would have ended already.", param="expires_at")
        state: OverrideState = "approved" if approve else "denied"
        connection.execute(statements.DECIDE_OVERRIDE, (state, decider, now_ns, override_id))
        return self._entered(connection, override_id, decider, now_ns)

    def revoke(self, connection: Writes, override_id: str, *, author: str) -> Override:
        """End an override before its time, or take back a request.

        Raises:
            NotFound: there is none.
            RequestMalformed: it was denied or revoked already.
        """
        override = self.find(connection, override_id)
        if override.state not in ("requested", "approved"):
            raise RequestMalformed(f"The override is {override.state} already.")
        now_ns = self._books.calendar.now_ns()
        connection.execute(statements.DECIDE_OVERRIDE, ("revoked", override.approver, now_ns, override_id))
        return self._entered(connection, override_id, author, now_ns)

    def find(self, connection: Writes, override_id: str) -> Override:
        """Return an override.

        Raises:
            NotFound: there is none.
        """
        row = connection.execute(statements.OVERRIDE, (override_id,)).fetchone()
        if row is None:
            raise NotFound(f"There is no override {override_id[:80]}.")
        return override_of(row)

    def _entered(self, connection: Writes, override_id: str, author: str, now_ns: int) -> Override:
        """Write what has become of an override into the chain."""
        override = self.find(connection, override_id)
        detail = as_detail({**override.as_json(), "author": author})
        self._books.append(
            connection, Entry(at_ns=now_ns, kind="override", scope=override.scope, detail=detail)
        )
        self._books.forget_fullness(override.scope, override.meter, override.window)
        return override

    def _check_amount_beyond(self, connection: Writes, asked: OverrideRequest, now_ns: int) -> None:
        limit = self._books.bounds.own(connection, asked.scope, asked.meter, asked.window, now_ns)
        if limit is None:
            raise RequestMalformed(
                f"{asked.scope} has no {asked.window} limit of {asked.meter}: there is nothing to override.",
                hint="Name the scope whose limit is in the way; the refusal does.",
                param="scope",
            )
        if asked.amount < 1:
            raise RequestMalformed("An override gives at least 1.", param="amount")

    def _check_emergency(
        self, connection: Writes, asked: OverrideRequest, expires_ns: int, now_ns: int
    ) -> None:
        limit = self._books.bounds.own(connection, asked.scope, asked.meter, asked.window, now_ns) or 0
        given = sum(
            amount
            for kind, scope, meter, window, amount, _ in connection.execute(
                statements.OVERRIDES_IN_FORCE, (now_ns,)
            )
            if (kind, scope, meter, window) == ("emergency", asked.scope, asked.meter, asked.window)
        )
        ceiling = limit * self._emergency_percent // 100
        if given + asked.amount > ceiling:
            raise RequestMalformed(
                f"Emergency overrides may give {max(0, ceiling - given)} here,"
                f" {self._emergency_percent} % of the limit in all.",
                hint="Ask for an ordinary override, which another has to approve.",
                param="amount",
            )
        if expires_ns > now_ns + self._emergency_ns:
            raise RequestMalformed(
                f"An emergency override lasts at most {self._emergency_ns / _NS_PER_H:g} hours.",
                param="expires_at",
            )


def override_of(row: Any) -> Override:
    """Return a row of the overrides, in the order of `statements.OVERRIDE`, as a value."""
    return Override(
        override_id=row[0],
        kind=row[1],
        scope=Scope(row[2]),
        meter=row[3],
        window=row[4],
        amount=row[5],
        state=row[6],
        requester=row[7],
        approver=row[8],
        reason=row[9],
        requested_at=instant_of(row[10]),
        expires_at=instant_of(row[11]),
    )
