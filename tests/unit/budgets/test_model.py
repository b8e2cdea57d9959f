"""The ledger against a model that is too simple to be wrong."""

import itertools
from datetime import datetime

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import scaled
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import WINDOW_KINDS, WindowKind
from trivet.domain.clock import ManualClock
from trivet.domain.errors import BudgetContended, BudgetError, BudgetExhausted, RequestTooLarge
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope, lineage
from trivet.storage import Database

SCOPES = tuple(Scope(text) for text in ("acme", "acme.a", "acme.a.ana", "acme.b", "globex"))
DEFAULTS: dict[WindowKind, int] = {"daily": 100, "monthly": 300}
SETTINGS = BudgetSettings(default_daily_tokens=100, default_monthly_tokens=300)

# Sizes of which two or three fill a day, so that every kind of refusal is met within a few steps.
amounts = st.sampled_from((0, 1, 30, 40, 60, 101))
scopes = st.sampled_from(SCOPES)
Row = tuple[Scope, WindowKind, str]


class LedgerModel(RuleBasedStateMachine):
    """Drives a ledger and, beside it, plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.database = Database.open(None)
        self.clock = ManualClock(datetime.fromisoformat("2026-01-30T00:00:00+00:00"))
        self.numbers = itertools.count()
        self.used: dict[Row, int] = {}
        self.held: dict[Row, int] = {}
        self.limits: dict[tuple[Scope, WindowKind], int | None] = {}
        self.open: dict[str, tuple[int, list[Row]]] = {}
        self.ended: dict[str, tuple[str, int]] = {}
        self.ledger = Ledger(self.database, SETTINGS, self.clock)
        self.ledger.recover()

    def teardown(self) -> None:
        """Prove the books at the end."""
        assert self.ledger.verify().differences == ()
        self.database.close()

    def rows(self, scope: Scope) -> list[Row]:
        """Return the rows that a request touches now; a window is named by its date or month."""
        now = self.clock.now()
        names: dict[WindowKind, str] = {"daily": f"{now:%Y-%m-%d}", "monthly": f"{now:%Y-%m}"}
        return [(above, kind, names[kind]) for above in lineage(scope) for kind in WINDOW_KINDS]

    def limit(self, row: Row) -> int | None:
        """Return the limit of a row."""
        scope, kind, _ = row
        default = None if "." in scope else DEFAULTS[kind]
        return self.limits.get((scope, kind), default)

    def refused(self, scope: Scope, amount: int) -> type[BudgetError] | None:
        """Return the refusal that the rules demand."""
        limited = [(row, limit) for row in self.rows(scope) if (limit := self.limit(row)) is not None]
        if any(amount > limit for _, limit in limited):
            return RequestTooLarge
        if any(self.used.get(row, 0) + amount > limit for row, limit in limited):
            return BudgetExhausted
        if any(self.used.get(row, 0) + self.held.get(row, 0) + amount > limit for row, limit in limited):
            return BudgetContended
        return None

    @rule(scope=scopes, amount=amounts)
    def reserve(self, scope: Scope, amount: int) -> None:
        """Hold on all rows or be refused for the right reason."""
        name = f"r{next(self.numbers)}"
        error = self.ledger.reserve(scope, amount, reservation_id=name).exception()
        expected = self.refused(scope, amount)
        assert (None if error is None else type(error)) == expected
        if expected is None:
            rows = self.rows(scope)
            self.open[name] = (amount, rows)
            for row in rows:
                self.held[row] = self.held.get(row, 0) + amount

    def end(self, name: str, state: str, charged: int) -> None:
        """Move a hold of the model to where it belongs."""
        amount, rows = self.open.pop(name)
        self.ended[name] = (state, charged)
        for row in rows:
            self.held[row] -= amount
            self.used[row] = self.used.get(row, 0) + charged

    @precondition(lambda self: self.open)
    @rule(data=st.data(), prompt=amounts, completion=st.sampled_from((0, 10, 30)))
    def settle(self, data: st.DataObject, prompt: int, completion: int) -> None:
        """Replace a hold by any usage, also a larger one."""
        name = data.draw(st.sampled_from(sorted(self.open)))
        amount = self.open[name][0]
        settlement = self.ledger.settle(name, Usage(prompt, completion)).result()
        total = prompt + completion
        assert (settlement.state, settlement.charged) == ("settled", total)
        assert settlement.overrun == max(0, total - amount)
        self.end(name, "settled", total)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Give a hold back."""
        name = data.draw(st.sampled_from(sorted(self.open)))
        self.ledger.release(name).result()
        self.end(name, "released", 0)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), tokens=amounts)
    def end_again(self, data: st.DataObject, tokens: int) -> None:
        """Settle what has ended: nothing changes, the first answer comes again."""
        name = data.draw(st.sampled_from(sorted(self.ended)))
        settlement = self.ledger.settle(name, Usage(tokens, 0)).result()
        assert (settlement.state, settlement.charged) == self.ended[name]

    @rule(scope=scopes, tokens=amounts)
    def record(self, scope: Scope, tokens: int) -> None:
        """Charge without a hold, whether it fits or not."""
        self.ledger.record(scope, tokens).result()
        for row in self.rows(scope):
            self.used[row] = self.used.get(row, 0) + tokens

    @rule(scope=scopes, kind=st.sampled_from(WINDOW_KINDS), amount=st.sampled_from((None, 0, 50, 100, 200)))
    def set_limit(self, scope: Scope, kind: WindowKind, amount: int | None) -> None:
        """Edit a limit, also below what is used."""
        self.ledger.set_limit(scope, kind, amount, author="model").result()
        self.limits[scope, kind] = amount

    @rule(scope=scopes, kind=st.sampled_from(WINDOW_KINDS))
    def clear_limit(self, scope: Scope, kind: WindowKind) -> None:
        """Go back to the default."""
        self.ledger.clear_limit(scope, kind, author="model").result()
        self.limits.pop((scope, kind), None)

    @rule()
    def restart(self) -> None:
        """Lose the process: what was held is charged in full."""
        self.ledger = Ledger(self.database, SETTINGS, self.clock)
        assert self.ledger.recover() == len(self.open)
        for name in list(self.open):
            self.end(name, "expired_charged", self.open[name][0])

    @rule(hours=st.sampled_from((0, 1, 30)))
    def advance(self, hours: int) -> None:
        """Let time pass, into other days and another month."""
        self.clock.advance(hours * 3600)

    @invariant()
    def books_agree(self) -> None:
        """Every current row is what the model says."""
        for row in self.ledger.rows():
            name = f"{row.window_start:%Y-%m-%d}" if row.window == "daily" else f"{row.window_start:%Y-%m}"
            key: Row = (row.scope, row.window, name)
            assert (row.used, row.held, row.limit) == (
                self.used.get(key, 0),
                self.held.get(key, 0),
                self.limit(key),
            )


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(
    max_examples=scaled(40),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
