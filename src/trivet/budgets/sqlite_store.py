"""The ledger's books on SQLite: every verb an operation on the store's one writer thread."""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from trivet.budgets.calendar import LedgerCalendar, read_standing
from trivet.budgets.key_entries import enter_key
from trivet.budgets.ladder import Ladder
from trivet.budgets.open_holds import lasting
from trivet.budgets.prospects import Prospects, read_prospects
from trivet.budgets.refusals import Contention
from trivet.budgets.rows import DefaultLimits, RowKey
from trivet.budgets.sqlite_kept_books import KeptBooks
from trivet.budgets.sqlite_limits import Limiting
from trivet.budgets.sqlite_overrides import Overriding
from trivet.budgets.sqlite_reserving import Reserving
from trivet.budgets.sqlite_settling import Settling
from trivet.budgets.status import View
from trivet.budgets.steady_clock import SteadyClock
from trivet.budgets.store import AlsoWrite, Closing, OverrideRequest, Recovered
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, LimitKind, Meter, Override, Pressure, Reservation, Settlement
from trivet.domain.clock import Clock
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import Database

T = TypeVar("T")


class SqliteLedgerStore:
    """A LedgerStore over a Database, in a file or in memory. Usable from any thread."""

    def __init__(
        self,
        database: Database,
        settings: BudgetSettings,
        clock: Clock,
        *,
        reserving: type[Reserving] = Reserving,
        settling: type[Settling] = Settling,
    ) -> None:
        """Read where the books stand; blocks.

        Args:
            database: the open store, which this process owns.
            settings: the section of the configuration.
            clock: tells the wall time.
            reserving: the operations that hold; other ones are for tests that plant faults.
            settling: the operations that end holds; likewise.
        """
        self._database = database
        calendar = LedgerCalendar(
            SteadyClock(clock), ZoneInfo(settings.time_zone), database.read(read_standing)
        )
        books = KeptBooks(calendar, DefaultLimits.of(settings), Ladder(settings))
        self._calendar = calendar
        self._books = books
        self._closed: Callable[[Closing], Settlement] = attrgetter("settlement")
        self._reserving = reserving(books)
        self._settling = settling(books)
        self._limiting = Limiting(books)
        self._overriding = Overriding(
            books,
            emergency_percent=settings.emergency_percent,
            emergency_hours=settings.emergency_hours,
        )

    def recover(self) -> "Future[Recovered]":
        """Begin an epoch; charge what earlier ones left open."""
        return self._writing(self._settling.recover)

    def reserve(self, hold: Hold, reservation_id: str, *, final: bool) -> "Future[Reservation]":
        """Hold on all rows or none."""
        return self._database.write(
            lambda connection: self._reserving.reserve(connection, hold, reservation_id, final=final),
            self._books.standing,
        )

    def reweight(
        self,
        reservation_id: str,
        prompt: Amounts,
        output: Amounts,
        *,
        tier: str | None = None,
        dearest: bool = False,
    ) -> "Future[Reservation]":
        """Change an open hold to another tier's amounts."""
        return self._database.write(
            lambda connection: self._reserving.reweight(
                connection, reservation_id, prompt, output, tier=tier, dearest=dearest
            ),
            self._books.standing,
        )

    def settle(
        self,
        reservation_id: str,
        usage: Usage,
        charged: Amounts | None,
        also: AlsoWrite | None,
        earlier: Sequence[AttemptCharge] = (),
        *,
        patient: bool = False,
    ) -> "Future[Settlement]":
        """Replace a hold by what was used."""
        return self._closing(
            lambda connection: self._settling.settle(connection, reservation_id, usage, charged, earlier),
            also,
            patient=patient,
        )

    def release(
        self, reservation_id: str, also: AlsoWrite | None, *, patient: bool = False
    ) -> "Future[Settlement]":
        """Give a hold back."""
        return self._closing(
            lambda connection: self._settling.release(connection, reservation_id), also, patient=patient
        )

    def record(
        self, scope: Scope, charged: Amounts, note: str, also: AlsoWrite | None
    ) -> "Future[Settlement]":
        """Charge what no hold preceded."""
        return self._closing(lambda connection: self._settling.record(connection, scope, charged, note), also)

    def lasting(self, rows: Sequence[RowKey], since_ns: int) -> "Future[RowKey | None]":
        """Look for holds that last."""
        return self._database.transact(lambda connection: lasting(connection, rows, since_ns))

    def prospects(self, contention: Contention) -> "Future[Prospects]":
        """Look when holds may end."""
        return self._database.transact(lambda connection: read_prospects(connection, contention))

    def expire(self) -> "Future[tuple[Closing, ...]]":
        """Charge what was never reported."""
        return self._writing(self._settling.expire)

    def note(self, also: AlsoWrite) -> "Future[None]":
        """Write what belongs to no operation."""

        def op(connection: sqlite3.Connection) -> None:
            also(self._books.standing.beside(connection))

        return self._database.write(op, self._books.standing, patient=True)

    def set_limit(
        self,
        scope: Scope,
        meter: Meter,
        kind: LimitKind,
        amount: int | None,
        *,
        allowance: int,
        author: str,
    ) -> "Future[None]":
        """Set a limit."""
        return self._rebinding(
            lambda connection: self._limiting.set_limit(
                connection, scope, meter, kind, amount, allowance, author
            )
        )

    def clear_limit(self, scope: Scope, meter: Meter, kind: LimitKind, *, author: str) -> "Future[None]":
        """Remove a scope's own limit."""
        return self._rebinding(
            lambda connection: self._limiting.clear_limit(connection, scope, meter, kind, author)
        )

    def set_time_zone(self, organisation: Scope, zone: str, *, author: str) -> "Future[None]":
        """Set the zone of an organisation's calendar."""
        found: list[ZoneInfo] = []

        def op(connection: sqlite3.Connection) -> None:
            found.append(self._limiting.set_zone(connection, organisation, zone, author))

        def adopt(done: "Future[None]") -> None:
            if done.exception() is None:
                self._calendar.set_zone(organisation, found[0])

        future = self._writing(op)
        future.add_done_callback(adopt)
        return future

    def enter_key(self, scope: Scope, facts: Mapping[str, Any]) -> "Future[None]":
        """Enter what becomes of a key."""
        return self._writing(lambda connection: enter_key(self._books, connection, scope, facts))

    def request_override(self, request: OverrideRequest) -> "Future[Override]":
        """Enter a request."""
        return self._rebinding(lambda connection: self._overriding.request(connection, request))

    def decide_override(self, override_id: str, *, approve: bool, decider: str) -> "Future[Override]":
        """Approve or deny a request."""
        return self._rebinding(
            lambda connection: self._overriding.decide(
                connection, override_id, approve=approve, decider=decider
            )
        )

    def revoke_override(self, override_id: str, *, author: str) -> "Future[Override]":
        """End an override."""
        return self._rebinding(
            lambda connection: self._overriding.revoke(connection, override_id, author=author)
        )

    def listen(self, closed: Callable[[Closing], Settlement], freed: Callable[[Scope], None]) -> None:
        """Tell of closings; tokens come free by nobody else, since the store has one owner."""
        del freed
        self._closed = closed

    def answers(self) -> bool:
        """Tell whether the store's thread writes."""
        return self._database.answers()

    def pressure(self, scope: Scope) -> Pressure:
        """Tell how full the scope's budgets are."""
        return self._books.pressure(scope)

    def pressing(self, scope: Scope) -> Pressure | None:
        """Tell how full they are once that has consequences."""
        return self._books.pressing(scope)

    def view(self) -> View:
        """Return what a reading is made under."""
        return self._books.view()

    def read(self, op: Callable[[Connection], T]) -> T:
        """Read on one snapshot; blocks."""
        return self._database.read(op)

    def _closing(
        self,
        operation: Callable[[sqlite3.Connection], Closing],
        also: AlsoWrite | None,
        *,
        patient: bool = False,
    ) -> "Future[Settlement]":
        def op(connection: sqlite3.Connection) -> Any:
            closing = operation(connection)
            if closing.first and also is not None:
                also(self._books.standing.beside(connection))
            return closing

        return self._database.write(op, self._books.standing, patient=patient, follow=self._closed)

    def _writing(self, operation: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Run what also reads and writes the tables by itself; what it notes is entered behind it."""

        def op(connection: sqlite3.Connection) -> T:
            result = operation(connection)
            self._books.standing.enter(connection)
            return result

        return self._database.write(op)

    def _rebinding(self, operation: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Run what changes limits or overrides; whether it is kept or undone, they are read anew after it."""
        bounds, begun = self._books.bounds, threading.Event()

        def op(connection: sqlite3.Connection) -> T:
            begun.set()
            bounds.begin_change()
            return operation(connection)

        def end(_: "Future[T]") -> None:
            if begun.is_set():
                bounds.end_change()

        future = self._writing(op)
        future.add_done_callback(end)
        return future
