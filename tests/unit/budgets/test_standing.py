"""The ledger's memory on SQLite: whatever shares a commit, it is what one by one would have given."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from tests.counts import scaled
from tests.unit.storage.test_database import Hold as BusyWriter
from tests.unit.storage.test_database import fail_in_commit
from trivet.budgets import Ledger
from trivet.budgets.entries import digits
from trivet.budgets.outside import OutsideCall, OutsideCalls
from trivet.budgets.sqlite_standing import Standing
from trivet.budgets.sqlite_store import SqliteLedgerStore
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Idempotency, Priority
from trivet.domain.clock import ManualClock
from trivet.domain.errors import StoreUnavailable
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import SqliteDatabase
from trivet.storage.entering import enter_later
from trivet.storage.instants import ns_of
from trivet.storage.schema import (
    alerts,
    counters,
    entries,
    idempotency_keys,
    limits,
    meta,
    outbox,
    reservations,
)

SETTINGS = BudgetSettings(default_daily_tokens=100, default_monthly_tokens=400, ladder="strict")
SCOPES = tuple(Scope(text) for text in ("acme", "acme.a", "acme.a.ana", "acme.b", "globex"))
TABLES = (counters, reservations, entries, limits, alerts, outbox, idempotency_keys, meta)

Verb = tuple[Any, ...]
scopes = st.sampled_from(SCOPES)
tokens = st.sampled_from((0, 1, 7, 7, 30, 101))
weights = st.sampled_from((1, 3))
names = st.integers(0, 3).map("r{}".format)
reserving: st.SearchStrategy[Verb] = st.tuples(
    st.just("reserve"),
    names,
    scopes,
    tokens,
    st.sampled_from((0, 13, 50)),
    weights,
    st.sampled_from(("batch", "interactive", "critical")),
    st.sampled_from((None, None, None, "k1", "k2")),
    st.sampled_from((None, 2)),
)
settling: st.SearchStrategy[Verb] = st.tuples(
    st.just("settle"),
    names,
    tokens,
    weights,
    st.sampled_from((None, None, "row", "fails")),
    st.sampled_from(((), (), (7,), (30, 1))),
)
others: st.SearchStrategy[Verb] = st.one_of(
    st.tuples(st.just("release"), names, st.sampled_from((None, "row", "fails"))),
    st.tuples(st.just("reweight"), names, tokens, weights),
    st.tuples(st.just("record"), scopes, tokens),
    st.tuples(st.just("note"), st.sampled_from(("row", "fails"))),
)
strangers: st.SearchStrategy[Verb] = st.one_of(
    st.tuples(
        st.just("limit"),
        scopes,
        st.sampled_from(("tokens", "weighted_tokens", "usd_micros")),
        st.sampled_from(("daily", "weekly", "total", "request")),
        st.sampled_from((None, 0, 90, 200)),
    ),
    st.tuples(st.just("expire")),
    st.tuples(st.just("take"), names),
)
# Most of them, in most lives, meet a hold that is open, and a memory that has not just been dropped.
verbs = st.integers(0, 9).flatmap(
    lambda dice: reserving if dice < 4 else settling if dice < 7 else others if dice < 9 else strangers
)
lives = st.lists(
    st.tuples(st.lists(verbs, min_size=3, max_size=12), st.sampled_from((0, 0, 40, 121, 25 * 60))),
    min_size=2,
    max_size=6,
)


def weighed(amount: int, weight: int) -> Amounts:
    """Return tokens on every meter."""
    return Amounts(amount, weight * amount, amount // 2)


class Life:
    """A ledger in memory and its clock, driven by verbs."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.clock = ManualClock(datetime.fromisoformat("2026-01-31T20:00:00+00:00"))
        self.store = SqliteLedgerStore(database, SETTINGS, self.clock)
        self.ledger = Ledger(None, SETTINGS, self.clock, store=self.store)
        self.calls = OutsideCalls(database, self.clock)
        self.ledger.recover()
        self.rows = itertools.count()

    @property
    def standing(self) -> Standing:
        """Return the memory."""
        return self.store._books.standing

    def begin(self, verb: Verb) -> "Future[Any]":
        """Ask for what a verb says."""
        asked: Callable[..., Future[Any]] = getattr(self, f"_{verb[0]}")
        return asked(*verb[1:])

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Read every table that the ledger writes."""

        def read(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
            return {
                table.name: sorted(map(tuple, connection.execute(select(table))), key=str) for table in TABLES
            }

        return self.database.read(read)

    def _reserve(
        self,
        name: str,
        scope: Scope,
        prompt: int,
        output: int,
        weight: int,
        priority: Priority,
        key: str | None,
        hours: int | None,
    ) -> "Future[Any]":
        until = None if hours is None else ns_of(self.clock.now() + timedelta(hours=hours))
        hold = Hold(
            scope=scope,
            prompt=weighed(prompt, weight),
            output=weighed(output, weight),
            max_output=output,
            min_output=min(output, 5),
            priority=priority,
            idempotency=None if key is None else Idempotency(key, "same"),
            expires_at_ns=until,
        )
        return self.ledger.reserve(hold, reservation_id=name)

    def _settle(
        self, name: str, used: int, weight: int, also: str | None, left: tuple[int, ...]
    ) -> "Future[Any]":
        charged = weighed(used, weight)
        earlier = [
            AttemptCharge(
                attempt_id="a", deployment="d", tier="t", usage=Usage(owed, 0), charged=weighed(owed, 1)
            )
            for owed in left
        ]
        return self.ledger.settle(name, Usage(used, 0), charged, earlier=earlier, also=self._also(also))

    def _release(self, name: str, also: str | None) -> "Future[Any]":
        return self.ledger.release(name, also=self._also(also))

    def _reweight(self, name: str, prompt: int, weight: int) -> "Future[Any]":
        return self.ledger.reweight(name, weighed(prompt, weight), Amounts())

    def _record(self, scope: Scope, used: int) -> "Future[Any]":
        return self.ledger.record(scope, weighed(used, 1))

    def _note(self, also: str) -> "Future[Any]":
        return self.ledger.note(self._also(also) or print)

    def _limit(self, scope: Scope, meter: Any, kind: Any, amount: int | None) -> "Future[Any]":
        return self.ledger.set_limit(scope, kind, amount, author="me", meter=meter)

    def _expire(self) -> "Future[Any]":
        return self.ledger.expire()

    def _take(self, name: str) -> "Future[Any]":
        """Write to the reservations beside the ledger."""
        return self.calls.take_to_execute(name, until_ns=ns_of(self.clock.now() + timedelta(hours=9)))

    def _also(self, what: str | None) -> Callable[[sqlite3.Connection], None] | None:
        """Return a write for the same transaction, of which one kind fails when half is done."""
        if what is None:
            return None
        number = next(self.rows)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO meta (key, value) VALUES (?, 'also')", (f"also{number}",))
            enter_later(connection, many_of_meta, [(f"later{number}", "first"), (f"last{number}", "last")])
            if what == "fails":
                raise LookupError("mine")

        return write


def many_of_meta(count: int) -> str:
    """Return the statement that inserts so many rows."""
    return f"INSERT INTO meta (key, value) VALUES {', '.join(['(?, ?)'] * count)}"


@contextmanager
def living(batch_limit: int) -> Iterator[Life]:
    """Give a life in memory, whose commits hold so many operations at most."""
    with SqliteDatabase.at(None, batch_limit=batch_limit) as database:
        yield Life(database)


def told(future: "Future[Any]") -> Any:
    """Return the answer, or what the error says."""
    error = future.exception()
    return future.result() if error is None else (type(error), str(error), getattr(error, "details", None))


def check_memory(life: Life) -> None:
    """What is remembered is what is committed."""

    def compare(connection: sqlite3.Connection) -> None:
        standing = life.standing
        for counter in standing._counters.values():
            row = connection.execute(
                "SELECT used, held FROM counters WHERE (scope, meter, window, subject, window_start_s)"
                " = (?, ?, ?, ?, ?)",
                counter.key[:5],
            ).fetchone()
            assert ((counter.used, counter.held) if counter.stored else None) == row, counter.key
        for name, stored in standing._reservations.items():
            assert stored.state == "held"
            fresh = Standing()
            assert fresh.find(connection, name) == stored
        for owner, head in standing._heads.items():
            last = connection.execute(
                "SELECT hash FROM entries WHERE organisation = ? ORDER BY seq DESC LIMIT 1", (owner,)
            ).fetchone()
            assert digits(last[0]) == head
        assert not any((standing._changed, standing._made, standing._moved, standing._entries))

    life.database.write(compare).result()


@settings(max_examples=scaled(10), deadline=None)
@given(lives)
def test_what_shares_a_commit_is_as_if_each_had_its_own(life: list[tuple[list[Verb], int]]) -> None:
    """Answers, refusals and every table are the same; after each commit the memory is the tables'."""
    with living(256) as grouped, living(1) as alone:
        for batch, minutes in life:
            busy = BusyWriter(grouped.database)
            futures = [grouped.begin(verb) for verb in batch]
            busy.let_go()
            assert [told(future) for future in futures] == [told(alone.begin(verb)) for verb in batch]
            check_memory(grouped)
            check_memory(alone)
            for each in (grouped, alone):
                each.clock.advance(minutes * 60)
        assert grouped.tables() == alone.tables()
        assert grouped.ledger.verify().differences == ()


@pytest.fixture
def life() -> Iterator[Life]:
    """Give a life in memory."""
    with living(256) as opened:
        yield opened


def plain(scope: str, amount: int) -> Hold:
    """Return a hold of tokens."""
    return Hold.of_tokens(Scope(scope), amount)


def test_a_failed_commit_leaves_no_trace_in_memory(life: Life) -> None:
    """What was held in a commit that failed is not held: the next hold finds the room that there is."""
    life.ledger.reserve(plain("acme.a", 60), reservation_id="kept").result()
    busy = BusyWriter(life.database)
    lost = life.ledger.reserve(plain("acme.a", 40), reservation_id="lost")
    settled = life.ledger.settle("kept", Usage(10, 0))
    failing = life.database.write(fail_in_commit)
    busy.let_go()
    assert {type(future.exception()) for future in (lost, settled, failing)} == {StoreUnavailable}
    check_memory(life)
    assert life.ledger.reserve(plain("acme.b", 40), reservation_id="fits").result().remaining == 0
    assert life.ledger.settle("kept", Usage(10, 0)).result().remaining == 50
    assert life.ledger.verify().ok


def test_a_taken_id_is_told_beside_others(life: Life) -> None:
    """Of a commit in which one id is taken, the others are held; an ended one is refused by its name."""
    life.ledger.reserve(plain("acme", 10), reservation_id="ended").result()
    life.ledger.release("ended").result()
    busy = BusyWriter(life.database)
    names = ("a", "ended", "b", "ended", "c")
    futures = [life.ledger.reserve(plain("acme", 10), reservation_id=name) for name in names]
    busy.let_go()
    assert [future.exception() is None for future in futures] == [True, False, True, False, True]
    assert "exists already and is released" in str(futures[3].exception())
    assert {row.held for row in life.ledger.rows()} == {30}


def test_a_repeated_hold_with_a_key_is_found_after_the_memory_is_lost(life: Life) -> None:
    """Its own id comes before its key, also where only the tables know of it."""
    hold = Hold(scope=Scope("acme"), prompt=Amounts(10, 10), idempotency=Idempotency("k", "same"))
    first = life.ledger.reserve(hold, reservation_id="a").result()
    life.database.write(lambda c: c.execute("INSERT INTO meta (key, value) VALUES ('x', 'x')")).result()
    life.ledger.reserve(plain("globex", 1), reservation_id="b").result()
    again = life.ledger.reserve(hold, reservation_id="a").result()
    assert (again.amounts, again.remaining) == (first.amounts, first.remaining)


def test_a_stranger_who_spoils_a_counter_is_believed(life: Life) -> None:
    """The memory holds no more than the tables: who writes to them is seen by the next hold."""
    life.ledger.reserve(plain("acme", 10), reservation_id="a").result()
    life.database.write(lambda c: c.execute("UPDATE counters SET used = 95")).result()
    assert life.ledger.reserve(plain("acme", 10), reservation_id="b").exception() is not None
    life.database.write(lambda c: c.execute("DELETE FROM counters")).result()
    assert "missing" in str(life.ledger.settle("a", Usage(1, 0)).exception())


def test_fullness_is_told_from_what_stands(life: Life) -> None:
    """Pressure follows each settlement, and a new limit, without a look into the tables."""
    assert life.ledger.pressure(Scope("acme.a")).percent_used == 0
    life.ledger.record(Scope("acme.a"), 50).result()
    assert life.ledger.pressure(Scope("acme.a")).percent_used == 50
    life.ledger.reserve(plain("acme.b", 20), reservation_id="a").result()
    assert life.ledger.pressure(Scope("acme.b")).percent_used == 50
    life.ledger.settle("a", Usage(20, 0)).result()
    assert life.ledger.pressure(Scope("acme.b")).percent_used == 70
    life.ledger.set_limit(Scope("acme"), "daily", 700, author="me").result()
    assert life.ledger.pressure(Scope("acme.b")).percent_used == pytest.approx(70 / 4)
    life.clock.advance(5 * 3600)
    assert life.ledger.pressure(Scope("acme.b")).percent_used == 0


def test_budgets_press_from_the_first_step_on(life: Life) -> None:
    """Nothing is said below it; a charge, a new limit and the end of the window are seen at once."""
    scope, pressing = Scope("acme.a"), life.ledger.pressing
    assert pressing(scope) is None
    life.ledger.record(scope, 69).result()
    assert pressing(scope) is None
    life.ledger.record(Scope("acme.b"), 1).result()
    assert pressing(scope) == life.ledger.pressure(scope)
    assert life.ledger.pressure(scope).actions == {"prefer_cheaper"}
    life.ledger.set_limit(Scope("acme"), "daily", 700, author="me").result()
    assert pressing(scope) is None
    life.ledger.set_limit(scope, "daily", 69, author="me").result()
    life.ledger.reserve(plain("acme.b", 1), reservation_id="a").result()
    assert pressing(Scope("acme.b")) is None
    life.ledger.record(scope, 1).result()
    assert pressing(scope) is not None
    assert pressing(Scope("acme.a.deeper")) is not None
    life.clock.advance(5 * 3600)
    assert pressing(scope) is None


def test_a_call_that_is_kept_outside_is_seen(life: Life) -> None:
    """A hold that is taken over from an outside caller lives as long as it is told to."""
    until_ns = ns_of(life.clock.now() + timedelta(minutes=10))
    hold = Hold(scope=Scope("acme"), prompt=Amounts(10, 10), expires_at_ns=until_ns)
    life.ledger.reserve(hold, reservation_id="d").result()
    call = OutsideCall(decision_id="d", scope=Scope("acme"), key_id="k", facts={})
    life.calls.keep(call).result()
    later_ns = until_ns + 10**12
    life.calls.take_to_execute("d", until_ns=later_ns).result()
    assert life.ledger.reweight("d", Amounts(5, 5), Amounts()).result().expires_at_ns == later_ns
