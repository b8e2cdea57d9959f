"""Carries operations to PostgreSQL's functions and their answers back. For the ledger's one thread."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg

from trivet.budgets.granting import check_priced, missing_counters
from trivet.budgets.postgres_batch import ARGUMENTS, NEVER_NS, Batch
from trivet.budgets.postgres_bounds import SharedBounds
from trivet.budgets.postgres_operations import Operation, Recorded, Told, outcome
from trivet.budgets.postgres_session import is_lost
from trivet.budgets.sqlite_books import Books
from trivet.budgets.store import Closing
from trivet.domain.budgets import Amounts, Settlement
from trivet.domain.errors import NotFound, StoreError, StoreUnavailable, TrivetError
from trivet.domain.failpoints import reach
from trivet.domain.scopes import Scope, organisation
from trivet.storage import postgres

_STALE_TRIES = 10
_REMEMBERED_MAX = 50_000
_NO_COUNTERS = "TRV02"
_RESERVATIONS = "SELECT id, scope, rows FROM reservations WHERE id = ANY(%s)"
_RECORD = """
    SELECT used_tokens, used_weighted, used_usd, overrun
      FROM entries
     WHERE organisation = %s
       AND kind = 'record'
       AND detail = %s
     ORDER BY at_ns DESC, seq DESC
     LIMIT 1
"""


class _Known(NamedTuple):
    """What is remembered of an open reservation, so as not to ask: whose it is, its rows."""

    scope: Scope
    rows: str


class Carrier:
    """Lays out batches, sends them, gives everybody their answer."""

    def __init__(
        self,
        names: str,
        owner: str,
        books: Books,
        bounds: SharedBounds,
        observe: Callable[[int], None],
        at_ns: Callable[[], int] | None,
    ) -> None:
        """Take what it works with.

        Args:
            names: what the names of the functions begin with.
            owner: this replica.
            books: calendar, ladder, and how full the rows are.
            bounds: limits and overrides.
            observe: takes the store's time.
            at_ns: gives the instant to act at; None: the store's own.
        """
        self._call = f"SELECT * FROM {names}apply({ARGUMENTS})".encode()  # noqa: S608
        self._owner = owner
        self._books = books
        self._bounds = bounds
        self._observe = observe
        self._at_ns = at_ns
        self._known: dict[str, _Known] = {}
        self.in_doubt: set[str] = set()
        """Reservations that may have been made although their askers were told otherwise."""
        self.calls = 0
        self.carried = 0

    def together(self, connection: psycopg.Connection[Any], operations: Sequence[Operation]) -> None:
        """Carry out operations in one transaction.

        What is written beside them goes ahead of the call, so that its locks are held for the call alone.

        Raises:
            psycopg.Error: none of it happened, or, where the connection is lost, perhaps all of it.
        """
        left = list(operations)
        for _ in range(_STALE_TRIES):
            batch, beside = self._batch(connection, left, first=True)
            notes = [one for one in left if one.verb == "note"]
            if not batch.operations and not notes:
                return
            for one in left:
                one.sent_before = True
            told = self._pipelined(connection, batch, beside)
            for one in left:
                one.sent_before = False
            for one in notes:
                one.answer(None)
            left = self._answer(batch, told)
            if not left:
                return
            self._refresh(told)
        _give_up(left)

    def one_by_one(self, connection: psycopg.Connection[Any], operations: Sequence[Operation]) -> None:
        """Carry out each operation in a transaction of its own, looking before it leaps.

        Raises:
            psycopg.Error: the connection is lost. Operations without an answer are left.
        """
        for operation in operations:
            if operation.future.done():
                continue
            try:
                self._alone(connection, operation)
            except psycopg.Error as error:
                if is_lost(connection, error):
                    operation.sent_before = True
                    raise
                operation.fail(_mistake(error, operation))
            except TrivetError as error:
                operation.fail(error)

    def _alone(self, connection: psycopg.Connection[Any], operation: Operation) -> None:
        if operation.sent_before and self._answered_before(connection, operation):
            return
        for _ in range(_STALE_TRIES):
            batch, _ = self._batch(connection, [operation], first=False)
            if not batch.operations and operation.verb != "note":
                return
            told: list[Told] = []
            with connection.transaction():
                if batch.operations:
                    told = self._send(connection, batch)
                if operation.beside is not None and all(one.status == "done" for one in told):
                    _write(connection, [operation.beside])
            if operation.verb == "note":
                operation.answer(None)
                return
            if not self._answer(batch, told):
                return
            self._refresh(told)
        _give_up([operation])

    def _answered_before(self, connection: psycopg.Connection[Any], operation: Operation) -> bool:
        """Look for the trace of an operation that no id makes unique; a lost connection may have done it."""
        if operation.verb != "record" or operation.scope is None:
            return False
        row = connection.execute(_RECORD, (organisation(operation.scope), operation.trace())).fetchone()
        if row is None:
            return False
        charged, over = Amounts(*row[:3]), Amounts(tokens=row[3])
        settlement = Settlement("", "settled", charged.tokens, None, over.tokens, charged, over)
        operation.answer(Closing(settlement, operation.scope))
        return True

    def _pipelined(
        self, connection: psycopg.Connection[Any], batch: Batch, beside: Sequence[Recorded]
    ) -> list[Told]:
        """Send everything at once, the commit too: the server waits for nobody while it holds its locks."""
        with connection.pipeline():
            connection.execute("BEGIN")
            _write(connection, beside)
            answers = self._ask(connection, batch) if batch.operations else None
            reach("inside_commit")
            connection.execute("COMMIT")
            told = [] if answers is None else [Told(*row[1:]) for row in answers.fetchall()]
        reach("after_commit")
        return told

    def _send(self, connection: psycopg.Connection[Any], batch: Batch) -> list[Told]:
        return [Told(*row[1:]) for row in self._ask(connection, batch).fetchall()]

    def _ask(self, connection: psycopg.Connection[Any], batch: Batch) -> psycopg.Cursor[Any]:
        self.calls += 1
        self.carried += len(batch.operations)
        at_ns = None if self._at_ns is None else self._at_ns()
        return connection.execute(
            self._call, batch.arguments(at_ns, self._books.ladder.thresholds), prepare=True
        )

    def _batch(
        self, connection: psycopg.Connection[Any], operations: Sequence[Operation], *, first: bool
    ) -> tuple[Batch, list[Recorded]]:
        """Lay out a call; what cannot even be laid out is answered at once."""
        batch = Batch(self._owner, self._books.ladder, first)
        beside: list[Recorded] = []
        now_ns = self._books.calendar.now_ns()
        self._look_up(connection, operations)
        for operation in operations:
            try:
                operation.take_down()
                if operation.verb != "note":
                    self._add(batch, operation, now_ns)
            except TrivetError as error:
                operation.fail(error)
                continue
            if operation.beside is not None:
                beside.append(operation.beside)
        return batch, beside

    def _add(self, batch: Batch, operation: Operation, now_ns: int) -> None:
        reservation_id = operation.reservation_id or ""
        if operation.verb in ("reserve", "record"):
            hold, scope = operation.hold, operation.scope
            assert scope is not None  # noqa: S101 - both have one
            task, session = (None, None) if hold is None else (hold.task, hold.session)
            plan = self._bounds.plan(scope, task, session, now_ns)
            if hold is not None:
                check_priced(hold, plan.caps)
            operation.approved = plan.approved
            standing = self._bounds.standing(scope, now_ns)
            batch.add(operation, scope, standing, plan.text, plan.caps, plan.until_ns)
            if hold is not None:
                self._remember(reservation_id, _Known(scope, plan.text))
            return
        known = self._known.get(reservation_id)
        if known is None:
            raise NotFound(f"There is no reservation {reservation_id[:80]}.")
        caps, until_ns = self._bounds.caps(known.rows, now_ns), NEVER_NS
        if operation.verb == "reweight":
            plan = self._bounds.plan(known.scope, None, None, now_ns)
            operation.approved = plan.approved
            caps, until_ns = (*caps, *plan.requests), plan.until_ns
        standing = self._bounds.standing(known.scope, now_ns)
        batch.add(operation, known.scope, standing, known.rows, caps, until_ns)

    def _look_up(self, connection: psycopg.Connection[Any], operations: Sequence[Operation]) -> None:
        """Find out whose the reservations are that this replica does not remember."""
        made = {one.reservation_id for one in operations if one.verb == "reserve"}
        unknown = [
            one.reservation_id
            for one in operations
            if one.reservation_id is not None
            and one.reservation_id not in self._known
            and one.reservation_id not in made
        ]
        if unknown:
            for reservation_id, scope, rows in connection.execute(_RESERVATIONS, (unknown,)).fetchall():
                self._remember(reservation_id, _Known(Scope(scope), rows))

    def _remember(self, reservation_id: str, known: _Known) -> None:
        """Keep what spares a look-up; what another replica ended is dropped when there is too much."""
        if len(self._known) >= _REMEMBERED_MAX:
            for oldest in list(itertools.islice(self._known, _REMEMBERED_MAX // 2)):
                del self._known[oldest]
        self._known[reservation_id] = known

    def _answer(self, batch: Batch, answers: Sequence[Told]) -> list[Operation]:
        """Give each operation its answer; return those whose rows or rules are others by now."""
        again = []
        for (operation, _), told in zip(batch.operations, answers, strict=True):
            reservation_id = operation.reservation_id or ""
            if told.status in ("stale", "rows"):
                if told.status == "rows":
                    self._remember(reservation_id, _Known(Scope(told.facts["scope"]), told.facts["rows"]))
                again.append(operation)
                continue
            self._observe(told.at_ns)
            for cap, used in zip(operation.caps, told.used, strict=False):
                if cap.key.window != "request":
                    self._books.note_fullness(cap, used)
            if operation.verb not in ("reserve", "reweight") or told.status != "done":
                self._known.pop(reservation_id, None)
            try:
                result = outcome(operation, told, self._books.ladder)
            except TrivetError as error:
                operation.fail(error)
                continue
            if not operation.answer(result) and operation.verb == "reserve":
                self.in_doubt.add(reservation_id)
        return again

    def _refresh(self, answers: Sequence[Told]) -> None:
        for told in answers:
            self._observe(told.at_ns)
        self._bounds.refresh(self._books.calendar.now_ns())
        self._books.forget_all_fullness()


def _write(connection: psycopg.Connection[Any], beside: Sequence[Recorded]) -> None:
    """Run what is to be written: statement by statement in the order in which they first came.

    The values of each in their own order: where replicas write to the same rows, they lock them in the same
    order.
    """
    statements: dict[str, list[Any]] = {}
    for recorded in beside:
        for sql, sets in recorded.statements:
            statements.setdefault(sql, []).extend(sets)
    for sql, sets in statements.items():
        ordered = sorted(sets) if all(isinstance(one, tuple) for one in sets) else sets
        for parameters in ordered:
            connection.execute(postgres.in_driver_style(sql), parameters)


def _mistake(error: psycopg.Error, operation: Operation) -> BaseException:
    if error.sqlstate == _NO_COUNTERS:
        return missing_counters(operation.reservation_id or "")
    if operation.verb == "note" and operation.sent_before and isinstance(error, psycopg.IntegrityError):
        return StoreError("What was to be written is there already.")
    return postgres.translated(error)


def _give_up(operations: Sequence[Operation]) -> None:
    for operation in operations:
        operation.fail(StoreUnavailable("The ledger's rules change faster than they can be read."))
