"""Holding, on SQLite: every row or none. Runs on the writer thread; what it writes, the draft enters."""

import sqlite3

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.entries import NOTHING, Entry
from trivet.budgets.granting import (
    check_priced,
    check_reweight,
    check_same,
    granted_output,
    hold_detail,
    missing_counters,
    own_requests,
    reservation_of,
)
from trivet.budgets.idempotency import KEPT_NS, repeated
from trivet.budgets.rows import Stored, check_amounts, check_hold
from trivet.budgets.sqlite_bounds import Plan
from trivet.budgets.sqlite_kept_books import KeptBooks
from trivet.budgets.sqlite_standing import CounterSet
from trivet.domain.budgets import Amounts, Hold, Idempotency, Reservation
from trivet.domain.errors import NotFound, RequestMalformed


class Reserving:
    """Reserve and reweight."""

    def __init__(self, books: KeptBooks) -> None:
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
        # Whatever else may refuse it, an id that stands for a hold is told first, or returns that hold.
        look = books.find if hold.idempotency is not None or hold.unpriced else books.known
        stored = look(connection, reservation_id)
        if stored is not None:
            return self._again(connection, stored, hold)
        now_ns = books.now_ns()
        if hold.idempotency is not None:
            self._check_key(connection, hold, hold.idempotency, now_ns)
        plan = books.bounds.plan(connection, hold.scope, hold.task, hold.session, now_ns)
        if hold.unpriced:
            check_priced(hold, plan.caps)
        critical = hold.priority == "critical"
        footing = books.footing(connection, plan.text, plan.caps, critical=critical, new=True)
        output = hold.max_output
        amounts = hold.prompt + hold.output
        reservation = footing.admitted(hold, reservation_id, amounts)
        if reservation is None:
            stored = books.find(connection, reservation_id)
            if stored is not None:
                return self._again(connection, stored, hold)
            balances = books.balances(connection, plan.caps, critical=critical, noted=False)
            output = granted_output(balances, hold, books.ladder, now_ns, approved=plan.approved, final=final)
            amounts = self._amounts(hold, output)
            reservation = reservation_of(hold, reservation_id, balances, amounts, output)
        self._hold_on_rows(footing.counters, amounts)
        self._enter(connection, hold, reservation_id, plan, amounts, output, now_ns)
        return reservation

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
        now_ns = books.now_ns()
        amounts = prompt + output
        more = amounts - stored.held
        critical = stored.priority == "critical"
        plan = books.bounds.plan(connection, stored.scope, None, None, now_ns)
        caps = books.bounds.caps(connection, stored.rows, now_ns)
        balances = books.balances(connection, caps, critical=critical)
        balances += own_requests(plan.requests, stored.held, critical=critical)
        asked = Hold(
            scope=stored.scope,
            prompt=more.at_least(0),
            priority=stored.priority,
            tier=tier,
            dearest=dearest,
            expires_at_ns=stored.expires_ns,
        )
        check_reweight(balances, asked, more, books.ladder, now_ns, approved=plan.approved)
        self._move_hold(connection, stored, amounts, now_ns)
        return reservation_of(asked, reservation_id, balances, amounts, stored.max_output, more=more)

    def _move_hold(
        self, connection: sqlite3.Connection, stored: Stored, amounts: Amounts, now_ns: int
    ) -> None:
        more = amounts - stored.held
        standing = self._books.standing
        counters = standing.counters_of(connection, stored.rows)
        if not counters.complete:
            raise missing_counters(stored.reservation_id)
        standing.add(counters, used=NOTHING, held=more)
        standing.change(stored.changed(amounts), None)
        entry = Entry(
            at_ns=now_ns,
            kind="reweight",
            scope=stored.scope,
            reservation_id=stored.reservation_id,
            held=more,
            rows=stored.rows,
        )
        self._books.append(connection, entry)

    def _amounts(self, hold: Hold, output: int) -> Amounts:
        return hold.amounts(output)

    def _hold_on_rows(self, counters: CounterSet, amounts: Amounts) -> None:
        self._books.standing.add(counters, used=NOTHING, held=amounts)

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
        stored = Stored(
            reservation_id,
            hold.scope,
            amounts,
            output,
            hold.priority,
            "held",
            NOTHING,
            None,
            hold.expires_at_ns,
            plan.text,
        )
        standing = self._books.standing
        standing.make(stored, self._books.owner, hold.decision_id, now_ns)
        if hold.idempotency is not None:
            asked = hold.idempotency
            connection.execute(
                statements.PUT_IDEMPOTENCY_KEY,
                (hold.scope, asked.key, asked.fingerprint, reservation_id, now_ns),
            )
        standing.append(
            Entry(
                now_ns,
                "reserve",
                hold.scope,
                reservation_id,
                NOTHING,
                amounts,
                0,
                plan.text,
                hold_detail(hold, output),
            )
        )

    def _again(self, connection: sqlite3.Connection, stored: Stored, hold: Hold) -> Reservation:
        check_same(stored, hold)
        caps = self._books.bounds.caps(connection, stored.rows, self._books.now_ns())
        balances = self._books.balances(connection, caps, critical=stored.priority == "critical")
        return reservation_of(
            hold, stored.reservation_id, balances, stored.held, stored.max_output, more=Amounts()
        )

    def _check_key(self, connection: sqlite3.Connection, hold: Hold, asked: Idempotency, now_ns: int) -> None:
        """Refuse a hold whose key stands for another one.

        Raises:
            IdempotencyError: it stands for a request that runs, that has ended, or that was another one.
        """
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
