"""SQLite and PostgreSQL side by side: the same history leads to the same answers, entries and news."""

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select

from tests.counts import scaled
from tests.doubles.shared_store import SharedStore
from tests.unit.budgets.stores import close_ledgers, ledger_on
from trivet.budgets import Ledger, OverrideRequest
from trivet.budgets.row_texts import entries_in_full, told
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import (
    Amounts,
    Hold,
    Idempotency,
    LimitKind,
    Meter,
    OverrideKind,
    Priority,
)
from trivet.domain.clock import ManualClock
from trivet.domain.errors import TrivetError
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database
from trivet.storage.instants import ns_of
from trivet.storage.schema import alerts, entries, outbox, reservations

SETTINGS = BudgetSettings(default_daily_tokens=100, default_monthly_tokens=400, ladder="strict")
SCOPES = tuple(Scope(text) for text in ("acme", "acme.a", "acme.a.ana", "acme.b", "acme_", "globex"))

scopes = st.sampled_from(SCOPES)
tokens = st.sampled_from((0, 1, 7, 30, 40, 60, 101))
weights = st.sampled_from((1, 3))
meters = st.sampled_from(("tokens", "weighted_tokens", "usd_micros"))
kinds = st.sampled_from(("daily", "weekly", "monthly", "total", "request", "task", "session"))
priorities = st.sampled_from(("batch", "interactive", "critical"))
subjects = st.sampled_from((None, "t1", "t2"))
names = st.integers(0, 9).map("r{}".format)


def weighed(amount: int, weight: int) -> Amounts:
    """Return tokens on every meter, of which the last does not divide evenly."""
    return Amounts(amount, weight * amount, (weight * amount * 2 + 2) // 3)


class Twins(RuleBasedStateMachine):
    """Does everything on both stores, at the same time, and compares."""

    shared: ClassVar[SharedStore]

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(datetime.fromisoformat("2026-03-28T22:00:00+00:00"))
        self.databases: tuple[Database, Database] = (Database.open(None), self.shared.emptied())
        self.ledgers = tuple(ledger_on(database, SETTINGS, self.clock) for database in self.databases)
        for ledger in self.ledgers:
            ledger.recover()
        self.numbers, self.overrides = itertools.count(), itertools.count()

    def teardown(self) -> None:
        """Prove both books at the end."""
        try:
            self.they_agree()
            reports = [ledger.verify() for ledger in self.ledgers]
            assert [report.differences for report in reports] == [(), ()]
            assert reports[0] == reports[1]
        finally:
            close_ledgers(self.databases[1])
            for database in self.databases:
                database.close()

    def both(self, do: Callable[[Ledger], "Future[Any]"]) -> Any:
        """Do the same on both; the answers, also the refusals with all that they tell, are the same."""
        here, there = (_told(do(ledger)) for ledger in self.ledgers)
        assert here == there
        return here

    @rule(
        scope=scopes,
        prompt=tokens,
        output=st.sampled_from((0, 13, 50, 90)),
        least=st.sampled_from((1, 5, 90)),
        weight=weights,
        priority=priorities,
        task=subjects,
        session=subjects,
        dearest=st.booleans(),
        final=st.booleans(),
        key=st.sampled_from((None, None, "k1", "k2")),
        same=st.booleans(),
        hours=st.sampled_from((None, 2)),
    )
    def reserve(
        self,
        scope: Scope,
        prompt: int,
        output: int,
        least: int,
        weight: int,
        priority: Priority,
        task: str | None,
        session: str | None,
        dearest: bool,
        final: bool,
        key: str | None,
        same: bool,
        hours: int | None,
    ) -> None:
        """Hold, or be refused."""
        hold = Hold(
            scope=scope,
            prompt=weighed(prompt, weight),
            output=weighed(output, weight),
            max_output=output,
            min_output=min(output, least),
            priority=priority,
            task=task,
            session=session,
            tier="heavy" if dearest else None,
            dearest=dearest,
            idempotency=Idempotency(key, "same" if same else str(prompt)) if key else None,
            expires_at_ns=ns_of(self.clock.now() + timedelta(hours=hours)) if hours else None,
        )
        name = f"r{next(self.numbers)}"
        self.both(lambda ledger: ledger.reserve(hold, reservation_id=name, final=final))

    @rule(scope=scopes, prompt=tokens, name=names)
    def reserve_again(self, scope: Scope, prompt: int, name: str) -> None:
        """Ask by an id that may stand for something already."""
        self.both(lambda ledger: ledger.reserve(Hold.of_tokens(scope, prompt), reservation_id=name))

    @rule(
        name=names,
        prompt=tokens,
        completion=tokens,
        told=st.booleans(),
        weight=weights,
        left=st.lists(tokens, max_size=2),
    )
    def settle(
        self, name: str, prompt: int, completion: int, told: bool, weight: int, left: list[int]
    ) -> None:
        """End a hold, perhaps again, perhaps one that there never was, perhaps after other attempts."""
        charged = weighed(prompt + completion, weight) if told else None
        earlier = [
            AttemptCharge(
                attempt_id=f"a{number}",
                deployment="l\u00e4rm",
                tier="light",
                usage=Usage(owed, 0, "ceiling"),
                charged=weighed(owed, 4 - weight),
            )
            for number, owed in enumerate(left)
        ]
        self.both(lambda ledger: ledger.settle(name, Usage(prompt, completion), charged, earlier=earlier))

    @rule(name=names)
    def release(self, name: str) -> None:
        """Give a hold back."""
        self.both(lambda ledger: ledger.release(name))

    @rule(name=names, prompt=tokens, output=tokens, weight=weights, dearest=st.booleans())
    def reweight(self, name: str, prompt: int, output: int, weight: int, dearest: bool) -> None:
        """Weigh a hold anew."""
        self.both(
            lambda ledger: ledger.reweight(
                name, weighed(prompt, weight), weighed(output, weight), tier="heavy", dearest=dearest
            )
        )

    @rule(scope=scopes, amount=tokens, weight=weights)
    def record(self, scope: Scope, amount: int, weight: int) -> None:
        """Charge without a hold."""
        self.both(lambda ledger: ledger.record(scope, weighed(amount, weight), note="it's"))

    @rule(
        scope=scopes,
        meter=meters,
        kind=kinds,
        amount=st.sampled_from((None, 0, 50, 100, 200)),
        allowance=st.sampled_from((0, 20)),
    )
    def set_limit(
        self, scope: Scope, meter: Meter, kind: LimitKind, amount: int | None, allowance: int
    ) -> None:
        """Edit a limit."""
        self.both(
            lambda ledger: ledger.set_limit(
                scope, kind, amount, author="me", meter=meter, allowance=allowance
            )
        )

    @rule(scope=scopes, meter=meters, kind=kinds)
    def clear_limit(self, scope: Scope, meter: Meter, kind: LimitKind) -> None:
        """Remove a limit."""
        self.both(lambda ledger: ledger.clear_limit(scope, kind, author="me", meter=meter))

    @rule(
        scope=scopes,
        override=st.sampled_from(("amount", "approval", "emergency")),
        kind=st.sampled_from(("daily", "request")),
        amount=st.sampled_from((1, 5, 30)),
        hours=st.sampled_from((0, 1, 30)),
        then=st.sampled_from(("approve", "deny", "revoke", "wait", "self")),
    )
    def override(
        self, scope: Scope, override: OverrideKind, kind: LimitKind, amount: int, hours: int, then: str
    ) -> None:
        """Ask for more, and decide."""
        name = f"o{next(self.overrides)}"
        asked = OverrideRequest(
            override_id=name,
            kind=override,
            scope=scope,
            window=kind,
            amount=amount,
            requester="ana",
            reason="the demo",
            expires_at=self.clock.now() + timedelta(hours=hours),
        )
        self.both(lambda ledger: ledger.request_override(asked))
        if then == "revoke":
            self.both(lambda ledger: ledger.revoke_override(name, author="eve"))
        elif then != "wait":
            decider = "ana" if then == "self" else "bob"
            self.both(lambda ledger: ledger.decide_override(name, approve=then != "deny", decider=decider))

    @rule(scope=scopes, zone=st.sampled_from(("UTC", "Europe/Berlin", "Asia/Tokyo", "Africa/Cairo", "Mars")))
    def set_time_zone(self, scope: Scope, zone: str) -> None:
        """Move an organisation's midnight, from its next one on."""
        self.both(lambda ledger: ledger.set_time_zone(scope, zone, author="me"))

    @rule()
    def expire(self) -> None:
        """Sweep."""
        self.both(lambda ledger: ledger.expire())

    @rule(minutes=st.sampled_from((0, 30, 60, 119, 25 * 60)))
    def advance(self, minutes: int) -> None:
        """Let time pass, to the instant at which windows and overrides end, and beyond."""
        self.clock.advance(minutes * 60)

    @rule()
    def they_agree(self) -> None:
        """Counters, entries, reservations, alerts and news are the same."""
        here, there = (
            _books(ledger, base) for ledger, base in zip(self.ledgers, self.databases, strict=True)
        )
        for mine, theirs in zip(here, there, strict=True):
            assert mine == theirs


def _told(future: "Future[Any]") -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    assert isinstance(error, TrivetError), error
    return type(error), str(error), getattr(error, "details", None), getattr(error, "hint", None)


def _books(ledger: Ledger, database: Database) -> list[Any]:
    def read(connection: Any) -> list[Any]:
        entered = []
        for row in connection.execute(entries_in_full().order_by(entries.c.organisation, entries.c.seq)):
            # A record bears a mark of its sending on PostgreSQL, and with it other hashes.
            detail = None if row.kind == "record" else row.detail
            entered.append((*tuple(row)[1:-4], detail, row.note))
        held = [
            {name: value for name, value in row._asdict().items() if name not in ("owner", "rows")}
            for row in connection.execute(
                select(reservations, told(reservations.c.rows)).order_by(reservations.c.id)
            )
        ]
        passed = sorted(tuple(row) for row in connection.execute(select(alerts)))
        news = sorted((row.organisation, row.kind, row.at_ns) for row in connection.execute(select(outbox)))
        return [entered, held, passed, news]

    return [
        *database.read(read),
        ledger.rows(),
        [ledger.status(scope).as_json() for scope in SCOPES[:3]],
    ]


def test_both_stores_tell_the_same(shared_store: SharedStore) -> None:
    """Whatever is done in whatever order."""

    class Pair(Twins):
        shared = shared_store

    searching = settings(
        max_examples=scaled(5),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Pair, settings=searching)
