"""Holding, on SQLite: every row or none. Runs on the writer thread, in a savepoint of its own."""

import sqlite3

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.admission import grant
from trivet.budgets.entries import Entry, as_detail
from trivet.budgets.idempotency import KEPT_NS, repeated
from trivet.budgets.rows import Balance, RowKey, check_amounts, check_hold, least_room, rows_from_text
from trivet.budgets.sqlite_books import Books, Stored
from trivet.budgets.sqlite_bounds import Plan
from trivet.domain.budgets import Amounts, Hold, Reservation, Tightest
from trivet.domain.errors import (
    BudgetError,
    BudgetExhausted,
    NotFound,
    RequestMalformed,
    RequestTooLarge,
    StoreError,
)
from trivet.domain.scopes import organisation


class Reserving:
    """Reserve and reweight."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def reserve(
        self, connection: sqlite3.Connection, hold: Hold, reservation_id: str, *, final: bool
    ) -> Reservation:
        """Hold on every row of the request, or on none. Asking again for the same hold returns it.

        Raises:
            BudgetError: it does not fit, or policy refuses it; see `admission` and `ladder`.
            IdempotencyError: the request was made before.
            RequestMalformed: the hold is senseless, or its id stands for another one.
        """
        check_hold(hold)
        books = self._books
        stored = books.find(connection, reservation_id)
        if stored is not None:
            return self._again(connection, stored, hold)
        now_ns = books.calendar.now_ns()
        if hold.idempotency is not None:
            self._enter_key(connection, hold, reservation_id, now_ns)
        plan = books.bounds.plan(connection, hold.scope, hold.task, hold.session, now_ns)
        balances = books.balances(connection, plan.caps, critical=hold.priority == "critical")
        output = self._granted(balances, hold, plan, now_ns, final=final)
        amounts = self._amounts(hold, output)
        self._hold_on_rows(connection, plan.rows, amounts)
        self._enter(connection, hold, reservation_id, plan, amounts, output, now_ns)
        return _reservation(hold, reservation_id, balances, amounts, output)

    def reweight(
        self,
        connection: sqlite3.Connection,
        reservation_id: str,
        prompt: Amounts,
        output: Amounts,
        *,
        tier: str | None = None,
        dearest: bool = False,
    ) -> Reservation:
        """Change an open hold to another tier's amounts, on all of its rows or on none.

        Raises:
            BudgetError: the difference does not fit, or the tier takes an approval; the hold stays as it was.
            NotFound: there is no such reservation.
            RequestMalformed: it has ended, or the amounts are senseless.
        """
        check_amounts(prompt, "amount")
        check_amounts(output, "amount")
        books = self._books
        stored = books.find(connection, reservation_id)
        if stored is None:
            raise NotFound(f"There is no reservation {reservation_id[:80]}.")
        if stored.state != "held":
            raise RequestMalformed(f"The reservation {reservation_id[:80]} is {stored.state} already.")
        now_ns = books.calendar.now_ns()
        amounts = prompt + output
        more = amounts - stored.held
        caps = books.bounds.caps(connection, stored.rows, now_ns)
        balances = books.balances(connection, caps, critical=stored.priority == "critical")
        asked = Hold(
            scope=stored.scope,
            prompt=more.at_least(0),
            priority=stored.priority,
            tier=tier,
            dearest=dearest,
            expires_at_ns=stored.expires_ns,
        )
        plan = books.bounds.plan(connection, stored.scope, None, None, now_ns)
        growing = [balance for balance in balances if more.of(balance.key.meter) > 0]
        refused = grant(growing, asked, now_ns, final=True)
        policy = books.ladder.refusal(balances, asked, approved=plan.approved) if dearest else None
        if policy is not None:
            raise policy
        if isinstance(refused, BudgetError):
            raise refused
        self._move_hold(connection, stored, amounts, now_ns)
        return _reservation(asked, reservation_id, balances, amounts, stored.max_output, more=more)

    def _move_hold(
        self, connection: sqlite3.Connection, stored: Stored, amounts: Amounts, now_ns: int
    ) -> None:
        more = amounts - stored.held
        if not self._books.move(connection, rows_from_text(stored.rows), used=Amounts(), held=more):
            raise missing_counters(stored.reservation_id)
        connection.execute(
            statements.REWEIGHT_RESERVATION,
            (amounts.tokens, amounts.weighted_tokens, amounts.usd_micros, stored.reservation_id),
        )
        entry = Entry(
            at_ns=now_ns,
            kind="reweight",
            scope=stored.scope,
            reservation_id=stored.reservation_id,
            held=more,
            rows=stored.rows,
        )
        self._books.append(connection, entry)

    def _granted(self, balances: list[Balance], hold: Hold, plan: Plan, now_ns: int, *, final: bool) -> int:
        """Return the output tokens to grant.

        Where both speak, capacity that is lacking until a reset is told before policy, and policy before
        open holds: waiting for those would not help.
        """
        granted = grant(balances, hold, now_ns, final=final)
        policy = self._books.ladder.refusal(balances, hold, approved=plan.approved)
        if policy is not None and not isinstance(granted, BudgetExhausted | RequestTooLarge):
            raise policy
        if isinstance(granted, BudgetError):
            raise granted
        return granted

    def _amounts(self, hold: Hold, output: int) -> Amounts:
        return hold.amounts(output)

    def _hold_on_rows(
        self, connection: sqlite3.Connection, rows: tuple[RowKey, ...], amounts: Amounts
    ) -> None:
        self._books.add(connection, rows, used=Amounts(), held=amounts)

    def _enter(
        self,
        connection: sqlite3.Connection,
        hold: Hold,
        reservation_id: str,
        plan: Plan,
        amounts: Amounts,
        output: int,
        now_ns: int,
    ) -> None:
        connection.execute(
            statements.INSERT_RESERVATION,
            (
                reservation_id,
                organisation(hold.scope),
                hold.scope,
                amounts.tokens,
                amounts.weighted_tokens,
                amounts.usd_micros,
                output,
                hold.priority,
                self._books.owner,
                hold.decision_id,
                now_ns,
                hold.expires_at_ns,
                plan.text,
            ),
        )
        self._books.append(
            connection,
            Entry(
                at_ns=now_ns,
                kind="reserve",
                scope=hold.scope,
                reservation_id=reservation_id,
                held=amounts,
                rows=plan.text,
                detail=_detail(hold, output),
            ),
        )

    def _again(self, connection: sqlite3.Connection, stored: Stored, hold: Hold) -> Reservation:
        same = (
            stored.scope == hold.scope
            and stored.state == "held"
            and stored.max_output <= hold.max_output
            and stored.held == hold.amounts(stored.max_output)
        )
        if not same:
            raise RequestMalformed(
                f"The reservation {stored.reservation_id} of {stored.held.tokens} tokens for {stored.scope}"
                f" exists already and is {stored.state}.",
                hint="Use a new id for every request.",
                param="reservation_id",
            )
        caps = self._books.bounds.caps(connection, stored.rows, self._books.calendar.now_ns())
        balances = self._books.balances(connection, caps, critical=stored.priority == "critical")
        return _reservation(
            hold, stored.reservation_id, balances, stored.held, stored.max_output, more=Amounts()
        )

    def _enter_key(
        self, connection: sqlite3.Connection, hold: Hold, reservation_id: str, now_ns: int
    ) -> None:
        """Bind the caller's key to this reservation.

        Raises:
            IdempotencyError: it stands for a request that runs, that has ended, or that was another one.
        """
        asked = hold.idempotency
        assert asked is not None  # noqa: S101 - the caller has looked
        known = connection.execute(statements.IDEMPOTENCY_KEY, (hold.scope, asked.key)).fetchone()
        if known is not None and known[2] >= now_ns - KEPT_NS:
            earlier = self._books.find(connection, known[1])
            refused = repeated(
                asked,
                known[0],
                None if earlier is None else earlier.state,
                None if earlier is None else earlier.charged,
            )
            if refused is not None:
                raise refused
        connection.execute(
            statements.PUT_IDEMPOTENCY_KEY,
            (hold.scope, asked.key, asked.fingerprint, reservation_id, now_ns),
        )


def missing_counters(reservation_id: str) -> StoreError:
    """Return the error of a reservation whose counters are gone."""
    return StoreError(
        f"The counters of the reservation {reservation_id} are missing.",
        hint="Run `trivet ledger verify` and restore the store from a backup.",
    )


def _detail(hold: Hold, output: int) -> str:
    facts: dict[str, object] = {}
    if hold.max_output:
        facts["max_output"] = output
    if output < hold.max_output:
        facts["asked_output"] = hold.max_output
    if hold.tier is not None:
        facts["tier"] = hold.tier
    if hold.priority != "interactive":
        facts["priority"] = hold.priority
    return as_detail(facts) if facts else "{}"


def _reservation(
    hold: Hold,
    reservation_id: str,
    balances: list[Balance],
    amounts: Amounts,
    output: int,
    *,
    more: Amounts | None = None,
) -> Reservation:
    """Return the hold as its asker learns of it; `balances` are from before `more` was added."""
    added = amounts if more is None else more
    room = least_room(balance for balance in balances if balance.key.window != "request")
    return Reservation(
        reservation_id=reservation_id,
        scope=hold.scope,
        amount=amounts.tokens,
        remaining=None if room is None else room - added.tokens,
        amounts=amounts,
        max_output=output,
        clamped=output < hold.max_output,
        tightest=_tightest(balances, added),
        expires_at_ns=hold.expires_at_ns,
    )


def _tightest(balances: list[Balance], added: Amounts) -> Tightest | None:
    """Return the counted row of which the smallest share is left."""
    found: Tightest | None = None
    least = 2.0
    for balance in balances:
        key, ceiling = balance.key, balance.ceiling
        if ceiling is None or key.window == "request":
            continue
        left = max(0, ceiling - balance.used - balance.held - added.of(key.meter))
        share = left / ceiling if ceiling else 0.0
        if share < least:
            least = share
            percent = 100.0 * balance.used / ceiling if ceiling else 100.0
            found = Tightest(key.scope, key.meter, key.window, left, round(percent, 2))
    return found
