"""What the ledger does to its rows. Everything here runs on the writer thread, in a savepoint of its own."""

import sqlite3
from dataclasses import dataclass

from trivet.budgets import entries, statements
from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.entries import Entry, EntryKind
from trivet.budgets.refusals import refusal
from trivet.budgets.rows import (
    METER,
    Balance,
    DefaultLimits,
    RowKey,
    check_amount,
    least_room,
    rows_as_text,
    rows_from_text,
)
from trivet.domain.budgets import Reservation, ReservationState, Settlement
from trivet.domain.errors import NotFound, RequestMalformed, StoreError
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope, organisation

_KIND: dict[ReservationState, EntryKind] = {
    "settled": "settle",
    "released": "release",
    "expired_charged": "expire",
}


@dataclass(frozen=True, slots=True)
class Closing:
    """A settlement, whose it is, and whether it was this call that made it."""

    settlement: Settlement
    scope: Scope
    first: bool = True


@dataclass(frozen=True, slots=True)
class _Stored:
    """A reservation as it stands in the store."""

    reservation_id: str
    scope: Scope
    amount: int
    state: ReservationState
    charged: int
    remaining: int | None
    rows: str

    def settlement(self) -> Settlement:
        overrun = max(0, self.charged - self.amount)
        return Settlement(self.reservation_id, self.state, self.charged, self.remaining, overrun)


class Operations:
    """The ledger's changes. `epoch` numbers this opening of the store."""

    def __init__(self, calendar: LedgerCalendar, defaults: DefaultLimits) -> None:
        self._calendar = calendar
        self._defaults = defaults
        self.epoch = 0

    def reserve(
        self, connection: sqlite3.Connection, scope: Scope, amount: int, reservation_id: str
    ) -> Reservation:
        """Hold `amount` on every row of the scope and those above it, or on none.

        Asking again for the same hold returns it.

        Raises:
            BudgetError: it does not fit; see `refusals`.
            RequestMalformed: the id stands for another hold, or for one that has ended.
        """
        check_amount(amount, "amount")
        stored = _find(connection, reservation_id)
        if stored is not None:
            return self._again(connection, stored, scope, amount)
        now_ns = self._calendar.now_ns()
        rows = self._calendar.rows(scope, now_ns)
        balances = self._balances(connection, rows)
        refused = refusal(balances, amount, now_ns)
        if refused is not None:
            raise refused
        connection.executemany(statements.ADD_TO_COUNTER, _parameters(rows, used=0, held=amount))
        text = rows_as_text(rows)
        connection.execute(
            statements.INSERT_RESERVATION,
            (reservation_id, organisation(scope), scope, amount, self.epoch, now_ns, text),
        )
        entries.append(
            connection,
            Entry(
                at_ns=now_ns,
                kind="reserve",
                scope=scope,
                reservation_id=reservation_id,
                held_delta=amount,
                rows=text,
            ),
        )
        room = least_room(balances)
        return Reservation(reservation_id, scope, amount, None if room is None else room - amount)

    def settle(self, connection: sqlite3.Connection, reservation_id: str, usage: Usage) -> Closing:
        """Replace a hold by what was used, whatever that is.

        Raises:
            NotFound: there is no such reservation.
            RequestMalformed: the usage is not a sensible number of tokens.
        """
        check_amount(usage.prompt_tokens, "prompt_tokens")
        check_amount(usage.completion_tokens, "completion_tokens")
        detail = entries.as_detail(
            {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cached_tokens": usage.cached_tokens,
                "source": usage.source,
            }
        )
        return self._close(connection, reservation_id, "settled", usage.total_tokens, detail)

    def release(self, connection: sqlite3.Connection, reservation_id: str) -> Closing:
        """Give a hold back uncharged.

        Raises:
            NotFound: there is no such reservation.
        """
        return self._close(connection, reservation_id, "released", 0, "{}")

    def record(self, connection: sqlite3.Connection, scope: Scope, tokens: int, note: str) -> Closing:
        """Charge usage that no hold preceded. It is booked even where it does not fit.

        Raises:
            RequestMalformed: `tokens` is not a sensible number.
        """
        check_amount(tokens, "tokens")
        now_ns = self._calendar.now_ns()
        rows = self._calendar.rows(scope, now_ns)
        room = least_room(self._balances(connection, rows))
        overrun = 0 if room is None else max(0, tokens - room)
        connection.executemany(statements.ADD_TO_COUNTER, _parameters(rows, used=tokens, held=0))
        entries.append(
            connection,
            Entry(
                at_ns=now_ns,
                kind="record",
                scope=scope,
                used_delta=tokens,
                overrun=overrun,
                rows=rows_as_text(rows),
                note=note,
            ),
        )
        remaining = None if room is None else max(0, room - tokens)
        return Closing(Settlement("", "settled", tokens, remaining, overrun), scope)

    def recover(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Begin an epoch and charge every hold of earlier ones in full; return the epoch and their number.

        Their owner died: an engine may have done all the work, and nobody can tell any more.
        """
        (epoch,) = connection.execute(statements.NEXT_EPOCH).fetchone()
        held = [row[0] for row in connection.execute(statements.OPEN_RESERVATIONS_BEFORE, (epoch,))]
        for reservation_id in held:
            self._close(connection, reservation_id, "expired_charged", None, "{}")
        return int(epoch), len(held)

    def set_limit(
        self, connection: sqlite3.Connection, scope: Scope, window: str, amount: int | None, author: str
    ) -> None:
        """Set a limit; None: explicitly unlimited. Below what is used it is legal: nothing new is admitted.

        Raises:
            RequestMalformed: the amount is not a sensible number of tokens.
        """
        if amount is not None:
            check_amount(amount, "limit")
        now_ns = self._calendar.now_ns()
        (version,) = connection.execute(
            statements.SET_LIMIT, (scope, METER, window, amount, author, now_ns)
        ).fetchone()
        facts = {"window": window, "amount": amount, "version": version, "author": author}
        _append_limit(connection, scope, now_ns, facts)

    def clear_limit(self, connection: sqlite3.Connection, scope: Scope, window: str, author: str) -> None:
        """Remove a scope's own limit, so that the default counts again; nothing if it has none."""
        if connection.execute(statements.CLEAR_LIMIT, (scope, METER, window)).rowcount:
            facts = {"window": window, "cleared": True, "author": author}
            _append_limit(connection, scope, self._calendar.now_ns(), facts)

    def _again(
        self, connection: sqlite3.Connection, stored: _Stored, scope: Scope, amount: int
    ) -> Reservation:
        if (stored.scope, stored.amount, stored.state) != (scope, amount, "held"):
            raise RequestMalformed(
                f"The reservation {stored.reservation_id} of {stored.amount} tokens for {stored.scope} exists"
                f" already and is {stored.state}.",
                hint="Use a new id for every request.",
                param="reservation_id",
            )
        room = least_room(self._balances(connection, rows_from_text(stored.rows)))
        return Reservation(stored.reservation_id, stored.scope, stored.amount, room)

    def _close(
        self,
        connection: sqlite3.Connection,
        reservation_id: str,
        state: ReservationState,
        charged: int | None,
        detail: str,
    ) -> Closing:
        """End a hold once; a second end returns what the first one did. `charged` None: the whole hold."""
        stored = _find(connection, reservation_id)
        if stored is None:
            raise NotFound(f"There is no reservation {reservation_id[:80]}.")
        if stored.state != "held":
            return Closing(stored.settlement(), stored.scope, first=False)
        now_ns = self._calendar.now_ns()
        charged = stored.amount if charged is None else charged
        overrun = max(0, charged - stored.amount)
        # The windows of admission, not of now: what a day admitted is that day's.
        rows = rows_from_text(stored.rows)
        moved = connection.executemany(
            statements.TAKE_FROM_HOLD, _parameters(rows, used=charged, held=stored.amount)
        )
        if moved.rowcount != len(rows):
            raise StoreError(
                f"The counters of the reservation {reservation_id} are missing.",
                hint="Run `trivet ledger verify` and restore the store from a backup.",
            )
        remaining = least_room(self._balances(connection, rows))
        connection.execute(statements.CLOSE_RESERVATION, (state, charged, remaining, now_ns, reservation_id))
        entries.append(
            connection,
            Entry(
                at_ns=now_ns,
                kind=_KIND[state],
                scope=stored.scope,
                reservation_id=reservation_id,
                used_delta=charged,
                held_delta=-stored.amount,
                overrun=overrun,
                rows=stored.rows,
                detail=detail,
            ),
        )
        return Closing(Settlement(reservation_id, state, charged, remaining, overrun), stored.scope)

    def _balances(self, connection: sqlite3.Connection, rows: list[RowKey]) -> list[Balance]:
        balances = []
        for key in rows:
            used, held, has_own, own = connection.execute(statements.BALANCE, _parameter(key)).fetchone()
            limit = self._defaults.applied(key, has_own=bool(has_own), own=own)
            balances.append(Balance(key, used, held, limit))
        return balances


def _find(connection: sqlite3.Connection, reservation_id: str) -> _Stored | None:
    row = connection.execute(statements.RESERVATION, (reservation_id,)).fetchone()
    return None if row is None else _Stored(reservation_id, *row)


def _append_limit(
    connection: sqlite3.Connection, scope: Scope, now_ns: int, facts: dict[str, object]
) -> None:
    detail = entries.as_detail(facts)
    entries.append(connection, Entry(at_ns=now_ns, kind="limit", scope=scope, detail=detail))


def _parameter(key: RowKey) -> dict[str, object]:
    return {
        "scope": key.scope,
        "meter": METER,
        "window": key.window,
        "start_s": key.start_s,
        "end_s": key.end_s,
    }


def _parameters(rows: list[RowKey], *, used: int, held: int) -> list[dict[str, object]]:
    return [{**_parameter(key), "used": used, "held": held} for key in rows]
