"""The ledger's books on PostgreSQL, shared by several replicas: every verb one function call."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import psycopg
from sqlalchemy import Connection, text

from trivet.budgets.alerts import misannounced
from trivet.budgets.balances import read_balances
from trivet.budgets.calendar import LedgerCalendar, read_standing
from trivet.budgets.futures import all_of, pass_on
from trivet.budgets.idempotency import KEPT_NS
from trivet.budgets.ladder import Ladder
from trivet.budgets.open_holds import lasting
from trivet.budgets.postgres_bounds import SharedBounds, StoreClock
from trivet.budgets.postgres_carrier import Carrier
from trivet.budgets.postgres_functions import install
from trivet.budgets.postgres_gateway import BATCH_LIMIT, Gateway
from trivet.budgets.postgres_operations import Operation
from trivet.budgets.postgres_replica import LEASE_S, Replica
from trivet.budgets.postgres_rules import Rules
from trivet.budgets.postgres_session import STORE_TIME, store_time_ns
from trivet.budgets.prospects import Prospects, read_prospects
from trivet.budgets.refusals import Contention
from trivet.budgets.rows import Cap, DefaultLimits, RowKey, check_amounts, check_charges, check_hold
from trivet.budgets.sqlite_books import Books
from trivet.budgets.status import View
from trivet.budgets.store import AlsoWrite, Closing, OverrideRequest, Recovered
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, LimitKind, Meter, Override, Pressure, Reservation, Settlement
from trivet.domain.clock import Clock
from trivet.domain.errors import TrivetError
from trivet.domain.failpoints import reach
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import READ_AFTER_S
from trivet.storage.instants import ns_of
from trivet.storage.postgres import PostgresDatabase
from trivet.storage.promise import then
from trivet.storage.writes import Writes

T = TypeVar("T")

ANSWER_WITHIN_S = 0.9
_EXPIRED = text(
    "SELECT id FROM reservations WHERE state = 'held' AND expires_ns IS NOT NULL AND expires_ns <= :now"
    " ORDER BY expires_ns, id"
)
_FORGET_KEYS = "DELETE FROM idempotency_keys WHERE created_ns < ?"


class PostgresLedgerStore:
    """A LedgerStore over a PostgreSQL store. Usable from any thread."""

    def __init__(
        self,
        database: PostgresDatabase,
        settings: BudgetSettings,
        clock: Clock,
        *,
        own_time: bool = True,
        answer_within_s: float = ANSWER_WITHIN_S,
        lease_s: float = LEASE_S,
        batch_limit: int = BATCH_LIMIT,
    ) -> None:
        """Install the functions where they are missing and read where the books stand; blocks.

        Args:
            database: the open store.
            settings: the section of the configuration.
            clock: measures durations; with `own_time` False it tells the wall time too.
            own_time: whether the store's clock decides, as it must where replicas share it.
            answer_within_s: after which a caller is told that the store is unavailable.
            lease_s: how long after its last sign of life another replica's holds are charged.
            batch_limit: operations that share a call at most.
        """
        self._database = database
        self._clock = clock
        self.name = secrets.token_hex(8)
        """Of this replica; reservations bear it."""
        names = database.transact(install).result()
        store_clock = StoreClock(clock)
        store_clock.observe(database.read(_store_time_ns))
        self._observe = store_clock.observe if own_time else _ignore
        self._calendar = LedgerCalendar(
            store_clock if own_time else clock, ZoneInfo(settings.time_zone), database.read(read_standing)
        )
        defaults = DefaultLimits.of(settings)
        self._books = Books(self._calendar, defaults, Ladder(settings))
        self._bounds = SharedBounds(database, self._calendar, defaults)
        self._rules = Rules(self._calendar, settings, self._observe)
        self._closed: Callable[[Closing], Settlement] = attrgetter("settlement")
        self._freed: Callable[[Scope], None] = lambda _: None
        at_ns = None if own_time else self._now_ns
        self.carrier = Carrier(names, self.name, self._books, self._bounds, self._observe, at_ns)
        self._gateway = Gateway(
            database.url,
            self.name,
            self.carrier,
            connected=self._on_connected,
            answer_within_s=answer_within_s,
            batch_limit=batch_limit,
        )
        self._replica = Replica(
            database.url,
            self.name,
            sweep=self._sweep,
            freed=self._on_freed,
            at_ns=at_ns,
            lease_s=lease_s,
        )

        database.before_reading(lambda: self._gateway.catch_up(READ_AFTER_S))
        database.before_close(self.close)

    def listen(self, closed: Callable[[Closing], Settlement], freed: Callable[[Scope], None]) -> None:
        """Tell of closings, and of tokens that come free in another replica."""
        self._closed, self._freed = closed, freed

    def close(self) -> None:
        """Finish what is queued, then leave the replicas; idempotent."""
        self._gateway.close()
        self._replica.close()

    def recover(self) -> "Future[Recovered]":
        """Join the replicas; charge what dead ones left open."""
        joined: Future[Recovered] = Future()
        try:
            left = self._replica.register()
            announced = all_of(self._announcing())
        except TrivetError as error:
            joined.set_exception(error)
            return joined
        recovered = then(all_of(self._expiring(left)), lambda found: Recovered(len(found), tuple(found)))
        announced.add_done_callback(lambda _: pass_on(recovered, joined))
        return joined

    def reserve(self, hold: Hold, reservation_id: str, *, final: bool) -> "Future[Reservation]":
        """Hold on all rows or none."""
        operation = Operation(
            verb="reserve", reservation_id=reservation_id, scope=hold.scope, hold=hold, final=final
        )
        return self._submit(operation, lambda: check_hold(hold))

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
        operation = Operation(
            verb="reweight",
            reservation_id=reservation_id,
            amounts=(prompt, output),
            tier=tier,
            dearest=dearest,
        )

        def check() -> None:
            check_amounts(prompt, "amount")
            check_amounts(output, "amount")

        return self._submit(operation, check)

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
        del patient  # the gateway gathers by itself
        operation = Operation(
            verb="settle",
            reservation_id=reservation_id,
            usage=usage,
            charged=charged or None,
            earlier=tuple(earlier),
        )

        def check() -> None:
            check_charges(usage, charged, earlier)

        return then(self._submit(operation, check, also), self._closed)

    def release(
        self, reservation_id: str, also: AlsoWrite | None, *, patient: bool = False
    ) -> "Future[Settlement]":
        """Give a hold back."""
        del patient
        operation = Operation(verb="release", reservation_id=reservation_id)
        return then(self._submit(operation, None, also), self._closed)

    def record(
        self, scope: Scope, charged: Amounts, note: str, also: AlsoWrite | None
    ) -> "Future[Settlement]":
        """Charge what no hold preceded."""
        operation = Operation(
            verb="record", scope=scope, charged=charged, note=note, token=secrets.token_hex(8)
        )
        return then(self._submit(operation, lambda: check_amounts(charged, "tokens"), also), self._closed)

    def lasting(self, rows: Sequence[RowKey], since_ns: int) -> "Future[RowKey | None]":
        """Look for holds that last."""
        return self._database.transact(lambda connection: lasting(connection, rows, since_ns))

    def prospects(self, contention: Contention) -> "Future[Prospects]":
        """Look when holds may end."""
        return self._database.transact(lambda connection: read_prospects(connection, contention))

    def expire(self) -> "Future[tuple[Closing, ...]]":
        """Charge what was never reported."""
        now_ns = self._calendar.now_ns()
        self._database.write(lambda writes: writes.execute(_FORGET_KEYS, (now_ns - KEPT_NS,)).rowcount)
        due = self._database.transact(
            lambda connection: [row.id for row in connection.execute(_EXPIRED, {"now": now_ns})]
        )
        expired: Future[tuple[Closing, ...]] = Future()

        def charge(found: "Future[list[str]]") -> None:
            if (error := found.exception()) is not None:
                expired.set_exception(error)
                return
            pass_on(then(all_of(self._expiring(found.result())), tuple), expired)

        due.add_done_callback(charge)
        return expired

    def note(self, also: AlsoWrite) -> "Future[None]":
        """Write what belongs to no operation."""
        return self._submit(Operation(verb="note"), None, also)

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
        return self._changing(
            (scope, meter, kind),
            lambda writes: self._rules.set_limit(
                writes, scope, meter, kind, amount, allowance=allowance, author=author
            ),
        )

    def clear_limit(self, scope: Scope, meter: Meter, kind: LimitKind, *, author: str) -> "Future[None]":
        """Remove a scope's own limit."""
        return self._changing(
            (scope, meter, kind),
            lambda writes: self._rules.clear_limit(writes, scope, meter, kind, author),
        )

    def set_time_zone(self, organisation: Scope, zone: str, *, author: str) -> "Future[None]":
        """Set the zone of an organisation's calendar."""
        changed = self._changing(
            None, lambda writes: self._rules.set_zone(writes, organisation, zone, author)
        )
        return then(changed, lambda found: self._calendar.set_zone(organisation, found))

    def enter_key(self, scope: Scope, facts: Mapping[str, Any]) -> "Future[None]":
        """Enter what becomes of a key."""
        return self._changing(None, lambda writes: self._rules.enter_key(writes, scope, facts))

    def request_override(self, request: OverrideRequest) -> "Future[Override]":
        """Enter a request."""
        return self._changing(
            (request.scope, request.meter, request.window),
            lambda writes: self._rules.request(writes, request),
        )

    def decide_override(self, override_id: str, *, approve: bool, decider: str) -> "Future[Override]":
        """Approve or deny a request."""
        return self._changing(
            None, lambda writes: self._rules.decide(writes, override_id, approve=approve, decider=decider)
        )

    def revoke_override(self, override_id: str, *, author: str) -> "Future[Override]":
        """End an override."""
        return self._changing(None, lambda writes: self._rules.revoke(writes, override_id, author=author))

    def answers(self) -> bool:
        """Tell whether the server took this replica's last sign of life."""
        return self._replica.heard

    def pressure(self, scope: Scope) -> Pressure:
        """Tell how full the scope's budgets are, as this replica last saw it."""
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

    def _submit(
        self, operation: Operation, check: Callable[[], None] | None, also: AlsoWrite | None = None
    ) -> "Future[Any]":
        try:
            if check is not None:
                check()
        except TrivetError as error:
            operation.fail(error)
            return operation.future
        operation.also = also
        self._gateway.submit(operation)
        return operation.future

    def _expiring(self, reservation_ids: Sequence[str]) -> "list[Future[Closing]]":
        expiring = []
        for one in reservation_ids:
            expiring.append(self._submit(Operation(verb="expire", reservation_id=one), None))
            reach("during_sweep")
        return expiring

    def _announcing(self) -> "list[Future[None]]":
        """Learn how full the current rows are; see to it that what was announced suits the configuration."""
        view = self._books.view()

        def look(connection: Connection) -> list[RowKey]:
            balances = read_balances(connection, view, None)
            for balance in balances:
                if balance.limit is not None:
                    self._books.note_fullness(Cap(balance.key, balance.limit, balance.extra), balance.used)
            return misannounced(connection, balances, view.ladder.thresholds)

        return [
            self._database.write(lambda writes, key=key: self._rules.announce_passed(writes, key))  # type: ignore[misc]
            for key in self._database.read(look)
        ]

    def _sweep(self, reservation_ids: Sequence[str]) -> None:
        for future in self._expiring(reservation_ids):
            future.add_done_callback(self._swept)

    def _swept(self, future: "Future[Closing]") -> None:
        if future.exception() is None and future.result().first:
            self._freed(future.result().scope)

    def _changing(
        self, row: tuple[Scope, Meter, LimitKind] | None, operation: Callable[[Writes], T]
    ) -> "Future[T]":
        future = self._database.write(operation)
        if row is not None:
            future.add_done_callback(lambda _: self._books.forget_fullness(*row))
        return future

    def _on_connected(self, connection: psycopg.Connection[Any]) -> None:
        self._observe(store_time_ns(connection))
        self._bounds.refresh(self._calendar.now_ns())

    def _on_freed(self, scope: Scope) -> None:
        self._freed(scope)

    def _now_ns(self) -> int:
        return ns_of(self._clock.now())


def _store_time_ns(connection: Connection) -> int:
    return int(connection.scalar(text(STORE_TIME)) or 0)


def _ignore(_: int) -> None:
    """Tell nobody."""
