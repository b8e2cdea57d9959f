"""When tokens that are held may come free, and what a refusal says of it."""

from datetime import timedelta

import pytest

from trivet.budgets import Ledger
from trivet.budgets.prospects import RETRY_MOST_S, Standing, room_in_s
from trivet.budgets.rows import RowKey
from trivet.domain.budgets import NEVER_S, Amounts, Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import BudgetContended
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage.instants import ns_of

ACME, SEARCH = Scope("acme"), Scope("acme.search")
ROW = RowKey(ACME, "tokens", "total", "", 0, NEVER_S)


def standing(age_s: float, tokens: int = 100, within_s: float | None = None) -> Standing:
    """Return a hold of so many tokens."""
    return Standing(age_s, within_s, Amounts(tokens, tokens))


@pytest.mark.parametrize(
    ("age_s", "within_s", "mean_s", "left_s"),
    [
        (3, None, 10, 7),  # it is young: the mean says when
        (10, None, 10, 10),
        (40, None, 10, 40),  # it has outlived the others
        (4, None, None, 4),  # nothing is known of others
        (3, 5, 10, 5),  # it expires before
        (40, 2, 10, 2),
        (40, -1, 10, 0),  # its expiry is over, only the sweep has yet to come
    ],
)
def test_a_hold_may_stand(age_s: float, within_s: float | None, mean_s: float | None, left_s: float) -> None:
    """Until the mean, or as long again as it has stood; never beyond its expiry."""
    assert standing(age_s, within_s=within_s).left_s(mean_s) == left_s


@pytest.mark.parametrize(("lacking", "until_s"), [(0, 0), (1, 1), (100, 1), (101, 4), (250, 9), (900, 9)])
def test_enough_of_them_have_to_end(lacking: int, until_s: float) -> None:
    """The first to end may leave too little; where all of them do, the last one is the best guess."""
    holds = [standing(1), standing(6), standing(9)]
    assert room_in_s(holds, ROW, lacking, 10) == until_s


async def refused(ledger: Ledger, tokens: int = 500, *, name: str = "late") -> float | None:
    """Return after which time the refusal of a hold says that it is worth trying again."""
    with pytest.raises(BudgetContended) as error:
        await ledger.reserve_or_wait(Hold.of_tokens(SEARCH, tokens), reservation_id=name, wait_s=0)
    return error.value.retry_after_s


async def test_the_mean_of_the_latest_holds_says_when(ledger: Ledger, clock: ManualClock) -> None:
    """Holds lasted 20 s lately; this one has stood for 8, and then for 25."""
    for name in "ab":
        await ledger.reserve_or_wait(Hold.of_tokens(ACME, 10), reservation_id=name, wait_s=0)
        clock.advance(20)
        ledger.settle(name, Usage(10, 0)).result()
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 900), reservation_id="long", wait_s=0)
    clock.advance(8)
    assert await refused(ledger) == 12
    clock.advance(17)
    assert await refused(ledger) == 25
    clock.advance(3600)
    assert await refused(ledger) == RETRY_MOST_S


async def test_an_expiry_says_when_at_the_latest(ledger: Ledger, clock: ManualClock) -> None:
    """What an outside caller holds ends when it said; and what others hold elsewhere is not in the way."""
    expires_ns = ns_of(clock.now() + timedelta(seconds=45))
    hold = Hold(scope=ACME, prompt=Amounts(900, 900), expires_at_ns=expires_ns)
    await ledger.reserve_or_wait(hold, reservation_id="outside", wait_s=0)
    await ledger.reserve_or_wait(Hold.of_tokens(Scope("globex"), 900), reservation_id="other", wait_s=0)
    clock.advance(38)
    assert await refused(ledger) == 7


async def test_the_strictest_row_decides(ledger: Ledger, clock: ManualClock) -> None:
    """Where a team's and the organisation's budgets are both in the way, both have to have room."""
    ledger.set_limit(SEARCH, "daily", 600, author="me").result()
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 500), reservation_id="old", wait_s=0)
    clock.advance(10)
    await ledger.reserve_or_wait(Hold.of_tokens(SEARCH, 400), reservation_id="young", wait_s=0)
    clock.advance(3)
    # The team has room once its own hold has ended, the organisation then as well.
    assert await refused(ledger) == 3
    # Room for 590 takes both of them.
    assert await refused(ledger, 590) == 13


async def test_after_a_wait_it_is_told_as_well(ledger: Ledger, clock: ManualClock) -> None:
    """Whoever waited in vain is told the same."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    clock.advance(30)
    with pytest.raises(BudgetContended) as error:
        await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1), reservation_id="r", wait_s=0.05)
    assert error.value.retry_after_s == 30
