"""A wall clock that is wrong for a moment, and one that was set: what the ledger makes of it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tests.counts import scaled
from trivet.budgets import Ledger
from trivet.budgets.calendar import LedgerCalendar, Standing
from trivet.budgets.steady_clock import CONFIRMED_AFTER_NS, TOLERANCE_NS, SteadyClock
from trivet.budgets.windows import bounds_at
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.errors import BudgetExhausted
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import Database

NS, DAY_S = 1_000_000_000, 86_400
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ACME = Scope("acme")
CONFIRMED_S = CONFIRMED_AFTER_NS // NS
_names = itertools.count()


class ScriptedClock:
    """Two clocks: one that counts, and one on the wall that is `off_s` wrong."""

    def __init__(self, start: datetime = NOON) -> None:
        self.start = start
        self.passed_s = 0.0
        self.off_s = 0.0

    def now(self) -> datetime:
        """Return what the wall shows."""
        return self.start + timedelta(seconds=self.passed_s + self.off_s)

    def monotonic_ns(self) -> int:
        """Return what was counted."""
        return round(self.passed_s * NS)

    @property
    def true_ns(self) -> int:
        """Return the time that a right clock would show."""
        return round((self.start.timestamp() + self.passed_s) * NS)


jumps_s = st.one_of(st.integers(-3 * DAY_S, 3 * DAY_S), st.sampled_from((-3600, 3600, DAY_S, 365 * DAY_S)))
# How long the clock is right, how wrong it is then, and for how long: never as long as it takes to insist.
troubles = st.lists(
    st.tuples(st.floats(0, 40_000), jumps_s, st.floats(0, CONFIRMED_S - 1)), min_size=1, max_size=8
)


@given(troubles, st.floats(0.1, 8.0))
@effort(max_examples=scaled(60), deadline=None)
def test_moments_of_a_wrong_clock_leave_no_trace(
    script: list[tuple[float, int, float]], step_s: float
) -> None:
    """Whatever it shows meanwhile: time is the true one, goes on, and windows open when it is their time."""
    clock = ScriptedClock()
    calendar = LedgerCalendar(SteadyClock(clock), ZoneInfo("UTC"), Standing(0, {}, {}))
    before_ns = 0

    def look() -> None:
        nonlocal before_ns
        now_ns = calendar.now_ns()
        assert now_ns >= before_ns
        assert abs(now_ns - clock.true_ns) <= TOLERANCE_NS
        assert calendar.windows(ACME, now_ns)["daily"] == bounds_at("daily", now_ns // NS, ZoneInfo("UTC"))
        before_ns = now_ns

    for right_s, off_s, wrong_s in script:
        clock.passed_s += right_s
        look()
        until_s = clock.passed_s + wrong_s
        clock.off_s = off_s if abs(off_s) * NS > TOLERANCE_NS else 3600
        while clock.passed_s < until_s:
            look()
            clock.passed_s += step_s
        clock.passed_s, clock.off_s = until_s, 0
        look()


@contextmanager
def spent(clock: ScriptedClock) -> Iterator[Ledger]:
    """Give a ledger whose organisation has spent its day."""
    with Database.open(None) as database:
        settings = BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=None)
        ledger = Ledger(database, settings, clock)
        ledger.recover()
        hold(ledger, 1000)
        yield ledger
        assert ledger.verify().ok


def hold(ledger: Ledger, tokens: int) -> None:
    """Hold and use so many tokens."""
    name = f"r{next(_names)}"
    ledger.reserve(Hold.of_tokens(ACME, tokens), reservation_id=name).result()
    ledger.settle(name, Usage(tokens, 0)).result()


def refused(ledger: Ledger) -> bool:
    """Tell whether the day has nothing left."""
    try:
        hold(ledger, 1)
    except BudgetExhausted:
        return True
    return False


@pytest.mark.parametrize("off_s", [DAY_S, -DAY_S, 40 * DAY_S])
def test_a_wrong_clock_gives_no_second_budget_and_takes_none_away(off_s: int) -> None:
    """A day that is spent stays so while the clock errs; the next one begins in time, and is a whole one."""
    clock = ScriptedClock()
    with spent(clock) as ledger:
        clock.off_s = off_s
        for _ in range(CONFIRMED_S // 5):
            assert refused(ledger)
            clock.passed_s += 5
        clock.off_s = 0
        assert refused(ledger)
        clock.passed_s = DAY_S / 2 - 1
        assert refused(ledger)
        clock.passed_s += 2
        hold(ledger, 1000)
        assert refused(ledger)


def test_a_machine_that_slept_is_believed() -> None:
    """A jump that lasts was none of the clock's errors: the new day begins half a minute late."""
    clock = ScriptedClock()
    with spent(clock) as ledger:
        clock.off_s = DAY_S
        assert refused(ledger)
        clock.passed_s += CONFIRMED_S - 1
        assert refused(ledger)
        clock.passed_s += 1
        hold(ledger, 1000)
        assert refused(ledger)


def test_a_clock_set_back_for_good_resets_no_window() -> None:
    """Where it insists on the past, the ledger's time stands until that has caught up."""
    clock = ScriptedClock()
    with spent(clock) as ledger:
        clock.off_s = -DAY_S
        for _ in range(20):
            assert refused(ledger)
            clock.passed_s += 10
        clock.passed_s = DAY_S * 1.5 - 1
        assert refused(ledger)
        clock.passed_s += 2
        hold(ledger, 1000)


def test_jumps_that_disagree_confirm_nothing() -> None:
    """A clock that is wrong in another way each time is not believed, however long."""
    clock = ScriptedClock()
    steady = SteadyClock(clock)
    for index in range(50):
        clock.passed_s += 10
        clock.off_s = 3600 * (1 + index % 7)
        assert steady.now_ns() == clock.true_ns
