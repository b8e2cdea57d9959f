"""How many repeated tries a tier may be asked for, on a clock that moves when told."""

from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.clock import ManualClock
from trivet.execution.retry_budget import DEPTH, RetryBudget, RetryBudgets, RetryCounts


def taken(budget: RetryBudget, asked: int) -> int:
    """Return how many of so many tries are allowed."""
    return sum(budget.take() for _ in range(asked))


def test_a_floor_without_traffic() -> None:
    """Ten tries at first, then one a second, however few requests there are."""
    clock = ManualClock()
    budget = RetryBudget(clock, "light", {})
    assert taken(budget, 100) == DEPTH
    clock.advance(3)
    assert taken(budget, 100) == 3
    clock.advance(3600)
    assert taken(budget, 100) == DEPTH


def test_a_tenth_of_the_traffic() -> None:
    """A thousand requests at once that all fail are repeated a hundred times, and the ten of the floor."""
    budget = RetryBudget(ManualClock(), "light", {})
    allowed = 0
    for _ in range(1000):
        budget.request()
        allowed += budget.take()
    assert 100 <= allowed <= 110


def test_tiers_have_their_own() -> None:
    """One tier's failures leave the others' tries alone."""
    counts: RetryCounts = {}
    budgets = RetryBudgets(ManualClock(), counts)
    taken(budgets.of("light"), 100)
    assert budgets.of("heavy").take()
    assert counts == {("light", "made"): 10, ("light", "refused"): 90, ("heavy", "made"): 1}


@given(st.lists(st.one_of(st.just("request"), st.just("take"), st.floats(0.001, 20)), max_size=200))
def test_never_more_than_promised(steps: list[str | float]) -> None:
    """Whatever happens in whatever order: at most 10 + a tenth of the requests + the seconds gone by."""
    clock = ManualClock()
    budget = RetryBudget(clock, "light", {})
    requests, allowed, gone_s = 0, 0, 0.0
    for step in steps:
        if step == "request":
            budget.request()
            requests += 1
        elif step == "take":
            allowed += budget.take()
        elif isinstance(step, float):
            clock.advance(step)
            gone_s += step
        assert allowed <= DEPTH + requests / 10 + gone_s + 1e-6
