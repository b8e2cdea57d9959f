"""The ledger against a model that is too simple to be wrong; and the model against ledgers with faults."""

import itertools
import sqlite3
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.counts import scaled
from tests.unit.budgets.model import Books, Deed, windows_at
from trivet.budgets import Ledger, OverrideRequest
from trivet.budgets.rows import TRACKED, Stored
from trivet.budgets.sqlite_reserving import Reserving
from trivet.budgets.sqlite_settling import Settling
from trivet.budgets.sqlite_standing import CounterSet
from trivet.budgets.sqlite_store import SqliteLedgerStore
from trivet.budgets.store import Closing
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, LimitKind, Meter, Priority
from trivet.domain.clock import ManualClock
from trivet.domain.errors import BudgetError, StoreError
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database
from trivet.storage.instants import ns_of

SCOPES = tuple(Scope(text) for text in ("acme", "acme.a", "acme.a.ana", "acme.b", "globex"))
SETTINGS = BudgetSettings(default_daily_tokens=100, default_monthly_tokens=300)
LIMITED: tuple[tuple[Meter, LimitKind], ...] = (
    ("tokens", "daily"),
    ("tokens", "monthly"),
    ("tokens", "weekly"),
    ("tokens", "total"),
    ("tokens", "request"),
    ("weighted_tokens", "request"),
    ("weighted_tokens", "daily"),
    ("usd_micros", "monthly"),
)

# Sizes of which two or three fill a day, so that every kind of refusal is met within a few steps.
amounts = st.sampled_from((0, 1, 30, 40, 60, 101))
scopes = st.sampled_from(SCOPES)
limited = st.sampled_from(LIMITED)
weights = st.sampled_from((1, 3))


def weighed(tokens: int, weight: int) -> Amounts:
    """Return tokens on every meter."""
    return Amounts(tokens, weight * tokens, (weight - 1) * tokens)


class LedgerModel(RuleBasedStateMachine):
    """Drives a ledger and, beside it, a plain history."""

    reserving: type[Reserving] = Reserving
    settling: type[Settling] = Settling

    def __init__(self) -> None:
        super().__init__()
        self.database: Database = Database.open(None)
        self.clock = ManualClock(datetime.fromisoformat("2026-01-30T00:00:00+00:00"))
        self.numbers = itertools.count()
        self.books = Books(daily=100, monthly=300)
        self.start()

    def start(self) -> int:
        """Open the ledger; return how many holds it recovered."""
        self.ledger = Ledger(
            self.database,
            SETTINGS,
            self.clock,
            store=SqliteLedgerStore(
                self.database, SETTINGS, self.clock, reserving=self.reserving, settling=self.settling
            ),
        )
        return self.ledger.recover()

    def teardown(self) -> None:
        """Prove the books at the end."""
        try:
            assert self.ledger.verify().differences == ()
        finally:
            self.database.close()

    def named(self, *states: str) -> list[str]:
        """Return the reservations in one of these states."""
        return [name for name, deed in self.books.deeds.items() if deed.state in states]

    @rule(
        scope=scopes,
        prompt=amounts,
        output=st.sampled_from((0, 20, 50)),
        least=st.sampled_from((5, 50)),
        weight=weights,
        priority=st.sampled_from(("interactive", "critical")),
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
        hours: int | None,
    ) -> None:
        """Hold on all rows, or what fits of it, or be refused for the right reason."""
        expires_at = None if hours is None else self.clock.now() + timedelta(hours=hours)
        hold = Hold(
            scope=scope,
            prompt=weighed(prompt, weight),
            output=weighed(output, weight),
            max_output=output,
            min_output=min(output, least),
            priority=priority,
            expires_at_ns=None if expires_at is None else ns_of(expires_at),
        )
        self._ask(hold, expires_at)

    @rule(scope=scopes, prompt=st.sampled_from((30, 60)))
    def squeeze(self, scope: Scope, prompt: int) -> None:
        """Ask for more than a day has, to be content with what is left of it."""
        hold = Hold(
            scope=scope,
            prompt=weighed(prompt, 1),
            output=weighed(90, 1),
            max_output=90,
            min_output=1,
        )
        self._ask(hold, None)

    def _ask(self, hold: Hold, expires_at: datetime | None) -> None:
        now, output = self.clock.now(), hold.max_output
        name = f"r{next(self.numbers)}"
        expected = self.books.verdict(hold, now)
        future = self.ledger.reserve(hold, reservation_id=name)
        if not isinstance(expected, int):
            assert type(future.exception()) is expected
            return
        granted = future.result()
        assert (granted.max_output, granted.clamped) == (expected, expected < output)
        assert granted.amounts == hold.amounts(expected)
        self.books.deeds[name] = Deed(
            hold.scope,
            windows_at(now),
            "held",
            held=granted.amounts,
            critical=hold.priority == "critical",
            expires_at=expires_at,
        )

    @precondition(lambda self: self.named("held"))
    @rule(data=st.data(), prompt=amounts, completion=st.sampled_from((0, 10, 30)), weight=weights)
    def settle(self, data: st.DataObject, prompt: int, completion: int, weight: int) -> None:
        """Replace a hold by any usage, also a larger one."""
        name = data.draw(st.sampled_from(self.named("held")))
        deed = self.books.deeds[name]
        charged = weighed(prompt + completion, weight)
        settlement = self.ledger.settle(name, Usage(prompt, completion), charged).result()
        assert (settlement.state, settlement.charged_amounts) == ("settled", charged)
        assert settlement.overrun_amounts == (charged - deed.held).at_least(0)
        deed.state, deed.charged = "settled", charged

    @precondition(lambda self: self.named("held"))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Give a hold back."""
        name = data.draw(st.sampled_from(self.named("held")))
        self.ledger.release(name).result()
        self.books.deeds[name].state = "released"

    @precondition(lambda self: self.named("held"))
    @rule(data=st.data(), weight=weights)
    def reweight(self, data: st.DataObject, weight: int) -> None:
        """Move a hold to another tier, if that fits."""
        name = data.draw(st.sampled_from(self.named("held")))
        deed = self.books.deeds[name]
        wanted = weighed(deed.held.tokens, weight)
        now = self.clock.now()
        more = wanted - deed.held
        # Only what grows is in the way, and only in the windows of admission.
        blocked = any(
            more.of(row[1]) > 0
            and self._in_its_window(deed, row, now) + more.of(row[1])
            > self.books.ceiling(row, critical=deed.critical)
            for row in self.books.limited(deed.scope)
        )
        future = self.ledger.reweight(name, wanted, Amounts())
        if blocked:
            assert isinstance(future.exception(), BudgetError)
        else:
            assert future.result().amounts == wanted
            deed.held = wanted

    def _in_its_window(self, deed: Deed, row: tuple[Scope, Meter, LimitKind], now: datetime) -> int:
        """Return what stands in the row in a deed's own windows, not today's; in a cap its own hold."""
        scope, meter, kind = row
        if kind == "request":
            return deed.held.of(meter)
        total = 0
        for other in self.books.deeds.values():
            inside = other.scope == scope or other.scope.startswith(f"{scope}.")
            if inside and other.windows[kind] == deed.windows[kind]:
                total += other.charged.of(meter) + (other.held.of(meter) if other.state == "held" else 0)
        return total

    @precondition(lambda self: self.named("settled", "released"))
    @rule(data=st.data(), tokens=amounts)
    def end_again(self, data: st.DataObject, tokens: int) -> None:
        """Settle what has ended: nothing changes, the first answer comes again."""
        name = data.draw(st.sampled_from(self.named("settled", "released")))
        settlement = self.ledger.settle(name, Usage(tokens, 0)).result()
        deed = self.books.deeds[name]
        assert (settlement.state, settlement.charged_amounts) == (deed.state, deed.charged)

    @precondition(lambda self: self.named("expired_charged"))
    @rule(data=st.data(), tokens=amounts)
    def settle_late(self, data: st.DataObject, tokens: int) -> None:
        """Learn the truth about a hold that was charged on expiry."""
        name = data.draw(st.sampled_from(self.named("expired_charged")))
        charged = weighed(tokens, 1)
        assert self.ledger.settle(name, Usage(tokens, 0), charged).result().charged_amounts == charged
        deed = self.books.deeds[name]
        deed.state, deed.charged = "settled", charged

    @rule(scope=scopes, tokens=amounts)
    def record(self, scope: Scope, tokens: int) -> None:
        """Charge without a hold, whether it fits or not."""
        self.ledger.record(scope, weighed(tokens, 1)).result()
        deed = Deed(scope, windows_at(self.clock.now()), "recorded", charged=weighed(tokens, 1))
        self.books.deeds[f"n{next(self.numbers)}"] = deed

    @rule(
        scope=scopes,
        what=limited,
        amount=st.sampled_from((None, 0, 50, 100, 200)),
        allowance=st.sampled_from((0, 20)),
    )
    def set_limit(
        self, scope: Scope, what: tuple[Meter, LimitKind], amount: int | None, allowance: int
    ) -> None:
        """Edit a limit, also below what is used; a counter that was not kept is opened."""
        meter, kind = what
        self.ledger.set_limit(scope, kind, amount, author="model", meter=meter, allowance=allowance).result()
        self.books.limits[scope, meter, kind] = (amount, allowance)

    @rule(scope=scopes, what=limited)
    def clear_limit(self, scope: Scope, what: tuple[Meter, LimitKind]) -> None:
        """Go back to the default."""
        meter, kind = what
        self.ledger.clear_limit(scope, kind, author="model", meter=meter).result()
        self.books.limits.pop((scope, meter, kind), None)

    @rule(scope=st.sampled_from((Scope("acme"), Scope("globex"))))
    def override(self, scope: Scope) -> None:
        """Give an organisation more, once another has approved it."""
        row = (scope, "tokens", "daily")
        if self.books.limit(row) is None:  # type: ignore[arg-type]
            return
        asked = OverrideRequest(
            override_id=f"o{next(self.numbers)}",
            kind="amount",
            scope=scope,
            amount=25,
            requester="ana",
            reason="the demo",
            expires_at=self.clock.now() + timedelta(days=365),
        )
        self.ledger.request_override(asked).result()
        self.ledger.decide_override(asked.override_id, approve=True, decider="bob").result()
        self.books.grants[row] = self.books.grants.get(row, 0) + 25  # type: ignore[index, arg-type]

    @rule()
    def restart(self) -> None:
        """Lose the process: what was held is charged in full, but for what outside callers hold."""
        lost = [n for n in self.named("held") if self._ends_with_its_owner(self.books.deeds[n])]
        assert self.start() == len(lost)
        self._charge(lost)

    @rule()
    def expire(self) -> None:
        """Sweep: what outside callers did not report in time is charged in full."""
        now = self.clock.now()
        due = [
            name
            for name in self.named("held")
            if (until := self.books.deeds[name].expires_at) is not None and until <= now
        ]
        assert self.ledger.expire().result() == len(due)
        self._charge(due)

    def _ends_with_its_owner(self, deed: Deed) -> bool:
        return deed.expires_at is None or deed.expires_at <= self.clock.now()

    def _charge(self, names: list[str]) -> None:
        for name in names:
            deed = self.books.deeds[name]
            deed.state, deed.charged = "expired_charged", deed.held

    @rule(hours=st.sampled_from((0, 1, 30)))
    def advance(self, hours: int) -> None:
        """Let time pass, into other days, another week and another month."""
        self.clock.advance(hours * 3600)

    @invariant()
    def books_agree(self) -> None:
        """Every current row that is kept is what the history says."""
        now = self.clock.now()
        for row in self.ledger.rows():
            key = (row.scope, row.meter, row.window)
            assert row.limit == self.books.limit(key)
            if (row.meter, row.window) in TRACKED or row.limit is not None:
                assert (row.used, row.held) == (self.books.used(key, now), self.books.held(key, now))


class PartialReserve(Reserving):
    """Holds on the first row only."""

    def _hold_on_rows(self, counters: CounterSet, amounts: Amounts) -> None:
        super()._hold_on_rows(CounterSet(counters.counters[:1]), amounts)


class ClampKeepsHold(Reserving):
    """Grants less output, but does not hold less."""

    def _amounts(self, hold: Hold, output: int) -> Amounts:
        return super()._amounts(hold, hold.max_output)


class DoubleSettle(Settling):
    """Ends a hold as often as it is asked to."""

    def _has_ended(self, stored: Stored) -> bool:
        return False


class ReleaseOnExpiry(Settling):
    """Gives back what nobody reported, as if no engine had worked."""

    def _expire_one(self, connection: sqlite3.Connection, reservation_id: str) -> Closing:
        return self.release(connection, reservation_id)


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(
    max_examples=scaled(40),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("fault", [PartialReserve, ClampKeepsHold, DoubleSettle, ReleaseOnExpiry])
def test_the_model_finds_planted_faults(fault: type[Reserving] | type[Settling]) -> None:
    """A ledger with any of these faults does not pass: the test of the test."""

    class Faulty(LedgerModel):
        reserving = fault if issubclass(fault, Reserving) else Reserving
        settling = fault if issubclass(fault, Settling) else Settling

    searching = settings(
        max_examples=400,
        stateful_step_count=80,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, StoreError, Flaky, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=searching)
