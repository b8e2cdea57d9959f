"""Ending holds, and charging without one, on SQLite. Runs on the writer thread; the draft enters it."""

import sqlite3
from collections.abc import Sequence

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.entries import NOTHING, Entry, EntryKind, attempt_detail, sum_of, usage_detail
from trivet.budgets.granting import missing_counters
from trivet.budgets.idempotency import KEPT_NS
from trivet.budgets.rows import (
    Balance,
    RowKey,
    Stored,
    check_amounts,
    check_charges,
    least_room,
)
from trivet.budgets.sqlite_kept_books import KeptBooks
from trivet.budgets.store import Closing, Recovered
from trivet.domain.budgets import METERS, Amounts, ReservationState, Settlement
from trivet.domain.errors import NotFound
from trivet.domain.failpoints import reach
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope

_KIND: dict[ReservationState, EntryKind] = {
    "settled": "settle",
    "released": "release",
    "expired_charged": "expire",
}


class Settling:
    """Settle, release, record, expire, recover."""

    def __init__(self, books: KeptBooks) -> None:
        self._books = books

    def settle(
        self,
        connection: sqlite3.Connection,
        reservation_id: str,
        usage: Usage,
        charged: Amounts | None,
        earlier: Sequence[AttemptCharge] = (),
    ) -> Closing:
        """Replace a hold by what was used, whatever that is; of an expired one correct the difference.

        Raises:
            NotFound: there is no such reservation.
            RequestMalformed: the usage or a charge is senseless.
        """
        check_charges(usage, charged, earlier)
        stored = self._find(connection, reservation_id)
        charge = charged or in_proportion(stored.held, usage.total_tokens)
        detail = usage_detail(usage)
        if stored.state == "expired_charged":
            return self._correct(connection, stored, charge, detail, earlier)
        return self._close(connection, stored, "settled", charge, detail, earlier)

    def release(self, connection: sqlite3.Connection, reservation_id: str) -> Closing:
        """Give a hold back uncharged; one that was charged on expiry stays so.

        Raises:
            NotFound: there is no such reservation.
        """
        return self._close(connection, self._find(connection, reservation_id), "released", Amounts(), "{}")

    def record(self, connection: sqlite3.Connection, scope: Scope, charged: Amounts, note: str) -> Closing:
        """Charge usage that no hold preceded. It is booked even where it does not fit.

        Raises:
            RequestMalformed: the charge is senseless.
        """
        check_amounts(charged, "tokens")
        books = self._books
        now_ns = books.now_ns()
        plan = books.bounds.plan(connection, scope, None, None, now_ns)
        books.add(connection, plan.rows, used=charged, held=Amounts())
        balances = _counted(books.balances(connection, plan.caps))
        over = _beyond_limits(balances, charged)
        books.append(
            connection,
            Entry(
                at_ns=now_ns,
                kind="record",
                scope=scope,
                used=charged,
                overrun=over.tokens,
                rows=plan.text,
                note=note,
            ),
        )
        books.announce(connection, balances, charged, now_ns)
        settlement = Settlement(
            "", "settled", charged.tokens, least_room(balances), over.tokens, charged, over
        )
        return Closing(settlement, scope)

    def expire(self, connection: sqlite3.Connection) -> tuple[Closing, ...]:
        """Charge in full what an outside caller never reported; forget idempotency keys of long ago."""
        now_ns = self._books.calendar.now_ns()
        connection.execute(statements.FORGET_IDEMPOTENCY_KEYS, (now_ns - KEPT_NS,))
        due = connection.execute(statements.EXPIRED_RESERVATIONS, (now_ns,)).fetchall()
        return tuple(self._expire_one(connection, reservation_id) for (reservation_id,) in due)

    def recover(self, connection: sqlite3.Connection) -> Recovered:
        """Begin to own reservations and charge every hold of earlier owners in full.

        They died: an engine may have done all the work, and nobody can tell any more. Holds that were
        given to outside callers live on until they expire.
        """
        books = self._books
        (epoch,) = connection.execute(statements.NEXT_EPOCH).fetchone()
        books.owner = str(epoch)
        now_ns = books.calendar.now_ns()
        left = connection.execute(statements.ABANDONED_RESERVATIONS, (books.owner, now_ns)).fetchall()
        closings = tuple(self._expire_one(connection, reservation_id) for (reservation_id,) in left)
        self._look_around(connection, now_ns)
        return Recovered(len(closings), closings)

    def _look_around(self, connection: sqlite3.Connection, now_ns: int) -> None:
        """Learn how full the current rows are; see to it that what was announced suits the configuration."""
        books, now_s = self._books, now_ns // 1_000_000_000
        books.standing.enter(connection)
        for *counter, fired in connection.execute(statements.CURRENT_COUNTERS, (now_s, now_s)).fetchall():
            row = RowKey(*counter)
            # After an edit of the time zone an older window may still overlap.
            if books.calendar.windows(row.scope, now_ns).get(row.window) != (row.start_s, row.end_s):
                continue
            cap = books.bounds.cap(connection, row, now_ns)
            if cap is not None or fired:
                books.retell(connection, row, cap, now_ns)

    def _expire_one(self, connection: sqlite3.Connection, reservation_id: str) -> Closing:
        stored = self._find(connection, reservation_id)
        closing = self._close(connection, stored, "expired_charged", stored.held, "{}")
        reach("during_sweep")
        return closing

    def _find(self, connection: sqlite3.Connection, reservation_id: str) -> Stored:
        stored = self._books.standing.find(connection, reservation_id)
        if stored is None:
            raise NotFound(f"There is no reservation {reservation_id[:80]}.")
        return stored

    def _close(
        self,
        connection: sqlite3.Connection,
        stored: Stored,
        state: ReservationState,
        charged: Amounts,
        detail: str,
        earlier: Sequence[AttemptCharge] = (),
    ) -> Closing:
        """End a hold once; a second end returns what the first one did."""
        if self._has_ended(stored):
            return Closing(stored.settlement(), stored.scope, first=False)
        owed = charged + sum_of(earlier) if earlier else charged
        entry = Entry(
            self._books.now_ns(),
            _KIND[state],
            stored.scope,
            stored.reservation_id,
            charged,
            NOTHING - stored.held,
            max(0, owed.tokens - stored.held.tokens),
            stored.rows,
            detail,
        )
        return self._enter(connection, stored, state, owed, entry, earlier)

    def _has_ended(self, stored: Stored) -> bool:
        return stored.state != "held"

    def _correct(
        self,
        connection: sqlite3.Connection,
        stored: Stored,
        charged: Amounts,
        detail: str,
        earlier: Sequence[AttemptCharge],
    ) -> Closing:
        """Replace the full charge of an expired hold by the truth that came late."""
        owed = charged + sum_of(earlier)
        entry = Entry(
            at_ns=self._books.now_ns(),
            kind="correct",
            scope=stored.scope,
            reservation_id=stored.reservation_id,
            used=charged - stored.charged,
            overrun=max(0, owed.tokens - stored.held.tokens),
            rows=stored.rows,
            detail=detail,
        )
        return self._enter(connection, stored, "settled", owed, entry, earlier)

    def _enter(
        self,
        connection: sqlite3.Connection,
        stored: Stored,
        state: ReservationState,
        owed: Amounts,
        entry: Entry,
        earlier: Sequence[AttemptCharge],
    ) -> Closing:
        """Note an end: `owed` in all, of which the entry tells the last attempt's."""
        books, standing = self._books, self._books.standing
        caps = books.bounds.caps(connection, stored.rows, entry.at_ns)
        # The windows of admission, not of now: what a day admitted is that day's.
        critical = stored.priority == "critical"
        footing = books.footing(connection, stored.rows, caps, critical=critical, new=False)
        if not footing.counters.complete:
            raise missing_counters(stored.reservation_id)
        used = entry.used + sum_of(earlier) if earlier else entry.used
        standing.add(footing.counters, used=used, held=entry.held)
        remaining, passed = footing.standing()
        ended = stored.ended(state, owed, remaining)
        standing.change(ended, entry.at_ns)
        for attempt in earlier:
            standing.append(_entry_of(attempt, stored, entry.at_ns))
        standing.append(entry)
        if passed:
            books.announce(connection, books.balances(connection, passed), used, entry.at_ns)
        return Closing(ended.settlement(), stored.scope)


def _entry_of(attempt: AttemptCharge, stored: Stored, at_ns: int) -> Entry:
    """Return the entry of an attempt: its charge, on the rows of its request; the hold stays as it is."""
    return Entry(
        at_ns=at_ns,
        kind="attempt",
        scope=stored.scope,
        reservation_id=stored.reservation_id,
        used=attempt.charged,
        rows=stored.rows,
        detail=attempt_detail(attempt),
    )


def in_proportion(held: Amounts, tokens: int) -> Amounts:
    """Return the charge of so many tokens where only they are known: as the hold weighed them, rounded up."""
    if not held.tokens:
        return Amounts(tokens, tokens, 0)
    return Amounts(
        tokens,
        -(-held.weighted_tokens * tokens // held.tokens),
        -(-held.usd_micros * tokens // held.tokens),
    )


def _counted(balances: list[Balance]) -> list[Balance]:
    return [balance for balance in balances if balance.key.window != "request"]


def _beyond_limits(balances: list[Balance], charged: Amounts) -> Amounts:
    """Return how much of a charge exceeds what rows had left before it, the most on each meter."""
    over = dict.fromkeys(METERS, 0)
    for balance in balances:
        meter = balance.key.meter
        beyond = balance.used + balance.held - (balance.ceiling or 0)
        over[meter] = max(over[meter], min(charged.of(meter), beyond))
    return Amounts(over["tokens"], over["weighted_tokens"], over["usd_micros"])
