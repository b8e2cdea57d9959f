"""What a refusal says still fits must be true on every meter, and must help."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.budgets.admission import grant
from trivet.budgets.rows import Balance, RowKey
from trivet.domain.budgets import METERS, Amounts, Hold, LimitKind, Meter
from trivet.domain.errors import BudgetContended, BudgetError, BudgetExhausted, RequestTooLarge
from trivet.domain.scopes import Scope

ACME = Scope("acme")
DAY_S = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp())
NOW_NS = (DAY_S - 3600) * 1_000_000_000


def row(
    meter: Meter, used: int, held: int, limit: int, window: LimitKind = "daily", subject: str = ""
) -> Balance:
    """Return a limited row."""
    return Balance(RowKey(ACME, meter, window, subject, DAY_S - 86400, DAY_S), used, held, limit)


def asks(prompt: int, output: int, *, weight: int = 1, price: int = 0) -> Hold:
    """Return a hold whose output may be cut down to one token; the price is of one token."""
    return Hold(
        scope=ACME,
        prompt=Amounts(prompt, weight * prompt, price * prompt),
        output=Amounts(output, weight * output, price * output),
        max_output=output,
        min_output=1,
        tier="heavy",
    )


def refusal(hold: Hold, *balances: Balance) -> BudgetError:
    """Return how the hold is refused."""
    refused = grant(balances, hold, NOW_NS, final=True)
    assert isinstance(refused, BudgetError)
    return refused


def test_of_a_weighted_budget_so_much_fits_as_the_tier_makes_of_it() -> None:
    """910 weighted tokens are 91 tokens of a tier of weight 10, however many plain tokens are left."""
    refused = refusal(
        asks(101, 400, weight=10), row("weighted_tokens", 4090, 0, 5000), row("tokens", 409, 0, 1_000_000)
    )
    assert isinstance(refused, BudgetExhausted)
    assert refused.details["largest_amount"] == 91
    assert refused.details["still_works"] == ["requests of at most 91 tokens", "cheaper tiers"]
    assert "at most 91 tokens" in str(refused)


def test_of_a_dollar_budget_so_much_fits_as_the_dearer_token_costs() -> None:
    """Whether the tokens are prompt or output, what is named fits."""
    hold = Hold(
        scope=ACME,
        prompt=Amounts(100, 100, 100),
        output=Amounts(100, 100, 400),
        max_output=100,
        min_output=1,
    )
    refused = refusal(hold, row("usd_micros", 50, 0, 130), row("tokens", 0, 0, 1000))
    assert refused.details["largest_amount"] == 20
    assert refused.details["still_works"] == ["requests of at most 20 tokens", "models on your own machines"]


def test_nobody_is_told_to_lower_max_tokens_where_the_prompt_is_too_long() -> None:
    """Where not even the prompt fits, the refusal says how much that may need."""
    refused = refusal(asks(101, 400), row("tokens", 619, 0, 700))
    assert refused.details["largest_max_tokens"] == 0
    assert "prompt alone may need 101" in str(refused)
    assert "lower max_tokens" not in str(refused)


def test_who_is_to_try_again_later_is_not_told_to_ask_for_next_to_nothing() -> None:
    """Where open holds leave no room for any output, waiting is the only advice."""
    refused = refusal(asks(91, 400), row("tokens", 0, 499, 500))
    assert isinstance(refused, BudgetContended)
    assert str(refused).endswith("Try again when they have ended.")


@pytest.mark.parametrize("window", ["task", "session"])
def test_a_task_is_named_as_one(window: LimitKind) -> None:
    """The budget of one task or session is named by what it is."""
    refused = refusal(asks(101, 400), row("tokens", 410, 0, 500, window, "t1"))
    assert str(refused).startswith(f"The token budget of {window} 't1' in acme has 90 of 500 tokens left")


@given(
    prompt=st.integers(1, 300),
    output=st.integers(1, 300),
    weights=st.tuples(st.floats(0.5, 12), st.floats(0, 5), st.floats(0, 20)),
    limits=st.tuples(st.integers(0, 500), st.integers(0, 3000), st.integers(0, 3000)),
    share=st.floats(0, 1),
)
def test_what_is_said_to_fit_fits(
    prompt: int,
    output: int,
    weights: tuple[float, float, float],
    limits: tuple[int, int, int],
    share: float,
) -> None:
    """A request of so many tokens, however divided into prompt and output, is admitted."""
    weight, prompt_price, output_price = weights

    def hold(prompt: int, output: int) -> Hold:
        return Hold(
            scope=ACME,
            prompt=Amounts(prompt, up(prompt * weight), up(prompt * prompt_price)),
            output=Amounts(output, up(output * weight), up(output * output_price)),
            max_output=output,
            min_output=output,
        )

    balances = [row(meter, 0, 0, limit) for meter, limit in zip(METERS, limits, strict=True)]
    refused = grant(balances, hold(prompt, output), NOW_NS, final=True)
    if isinstance(refused, RequestTooLarge) and (most := refused.details["largest_amount"]):
        smaller = hold(round(most * share), most - round(most * share))
        assert grant(balances, smaller, NOW_NS, final=True) == smaller.max_output


def up(amount: float) -> int:
    """Round up, as meters are."""
    return -int(-amount // 1)
