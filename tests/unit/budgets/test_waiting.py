"""Waiting for tokens that others hold: in order, not longer than agreed, leaving nothing behind."""

import asyncio
from dataclasses import replace

import pytest

from trivet.budgets import Ledger
from trivet.domain.budgets import Amounts, Hold, Reservation
from trivet.domain.errors import BudgetContended, BudgetExhausted
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope

ACME, SEARCH, ADS = Scope("acme"), Scope("acme.search"), Scope("acme.ads")
LONG_S = 60.0


def start(ledger: Ledger, scope: Scope, amount: int, name: str) -> "asyncio.Task[Reservation]":
    """Ask for a hold in a task of its own."""
    return asyncio.ensure_future(
        ledger.reserve_or_wait(Hold.of_tokens(scope, amount), reservation_id=name, wait_s=LONG_S)
    )


async def come_to_rest(ledger: Ledger) -> None:
    """Let every task go on until all of them wait for something that only the test can bring."""
    for _ in range(20):
        await asyncio.wrap_future(ledger.note(lambda _: None))
        await asyncio.sleep(0)


async def end(ledger: Ledger, name: str) -> None:
    """Give a hold back, and let who waits for it take it."""
    await asyncio.wrap_future(ledger.release(name))
    await come_to_rest(ledger)


async def test_what_fits_does_not_wait(ledger: Ledger) -> None:
    """With room a hold is granted at once."""
    reservation = await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="r", wait_s=LONG_S)
    assert (reservation.amount, reservation.remaining) == (1000, 0)


async def test_a_settlement_wakes_who_waits(ledger: Ledger) -> None:
    """A hold that was contended is granted when another one settles for less."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="first", wait_s=0)
    waiting = start(ledger, SEARCH, 500, "second")
    await come_to_rest(ledger)
    assert not waiting.done()
    await asyncio.wrap_future(ledger.settle("first", Usage(100, 100)))
    assert (await waiting).remaining == 300


async def test_first_come_first_served(ledger: Ledger) -> None:
    """Waiters are served in the order of arrival, and a newcomer does not overtake them."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    waiting = {}
    for name in "abcd":
        waiting[name] = start(ledger, ACME, 1000, name)
        await come_to_rest(ledger)
    served = []
    previous = "all"
    for _ in range(4):
        await end(ledger, previous)
        done = [name for name, task in waiting.items() if task.done() and name not in served]
        served += done
        assert len(done) == 1
        previous = done[0]
    assert served == list("abcd")


async def test_a_large_request_is_not_starved(ledger: Ledger) -> None:
    """A small newcomer goes behind a large waiter, although it would fit at once."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 600), reservation_id="first", wait_s=0)
    large = start(ledger, ACME, 1000, "large")
    await come_to_rest(ledger)
    small = start(ledger, SEARCH, 1, "small")
    await come_to_rest(ledger)
    assert not small.done()
    await end(ledger, "first")
    assert large.done()
    assert not small.done()
    await end(ledger, "large")
    assert (await small).remaining == 999


async def test_room_for_several_is_passed_on(ledger: Ledger) -> None:
    """When tokens for several come free at once, all of them are served."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    waiting = [start(ledger, ACME, 250, f"w{index}") for index in range(4)]
    await come_to_rest(ledger)
    await asyncio.wrap_future(ledger.release("all"))
    assert sorted((await asyncio.gather(*waiting)), key=lambda one: -(one.remaining or 0))[-1].remaining == 0


async def test_lines_of_strangers_do_not_block_each_other(ledger: Ledger) -> None:
    """Who waits for one team's budget does not hold up another team."""
    for scope in (SEARCH, ADS):
        ledger.set_limit(scope, "daily", 100, author="me").result()
    await ledger.reserve_or_wait(Hold.of_tokens(SEARCH, 100), reservation_id="s", wait_s=0)
    blocked = start(ledger, SEARCH, 100, "blocked")
    await come_to_rest(ledger)
    assert (
        await ledger.reserve_or_wait(Hold.of_tokens(ADS, 100), reservation_id="a", wait_s=0)
    ).remaining == 0
    await end(ledger, "s")
    assert blocked.done()


async def test_contention_may_move_up_the_tree(ledger: Ledger) -> None:
    """A waiter whose team has room again, but whose organisation has not, waits for the organisation."""
    ledger.set_limit(SEARCH, "daily", 100, author="me").result()
    await ledger.reserve_or_wait(Hold.of_tokens(SEARCH, 100), reservation_id="team", wait_s=0)
    waiting = start(ledger, SEARCH, 100, "waiting")
    await come_to_rest(ledger)
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 900), reservation_id="rest", wait_s=0)
    ledger.set_limit(ACME, "daily", 950, author="me").result()
    await end(ledger, "team")
    assert not waiting.done()
    await end(ledger, "rest")
    assert waiting.done()


async def test_a_raised_limit_wakes_who_waits(ledger: Ledger) -> None:
    """More budget is as good as a settlement."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    waiting = start(ledger, ACME, 10, "r")
    await come_to_rest(ledger)
    await asyncio.wrap_future(ledger.set_limit(ACME, "daily", 2000, author="me"))
    assert (await waiting).remaining == 990


async def test_exhaustion_ends_the_wait(ledger: Ledger) -> None:
    """A waiter is refused as soon as waiting cannot help any more."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    waiting = start(ledger, ACME, 10, "r")
    await come_to_rest(ledger)
    await asyncio.wrap_future(ledger.settle("all", Usage(1000, 0)))
    with pytest.raises(BudgetExhausted):
        await waiting


@pytest.mark.parametrize("wait_s", [0, 0.05])
async def test_the_wait_ends(ledger: Ledger, wait_s: float) -> None:
    """After the agreed time the refusal is contended, with an honest time to come back."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    with pytest.raises(BudgetContended) as refused:
        await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1), reservation_id="r", wait_s=wait_s)
    # It had stood for an instant, and for all that is known may stand for another.
    assert refused.value.retry_after_s == 1.0
    await end(ledger, "all")
    assert (
        await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="s", wait_s=wait_s)
    ).remaining == 0


async def test_a_wait_that_ends_tries_once_more(ledger: Ledger) -> None:
    """Behind a large waiter, what fits is granted at the end of the wait: no false refusal."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 600), reservation_id="first", wait_s=0)
    large = start(ledger, ACME, 1000, "large")
    await come_to_rest(ledger)
    assert (
        await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1), reservation_id="small", wait_s=0.05)
    ).remaining == 399
    large.cancel()
    await asyncio.wait([large])


async def test_cancelled_waiters_step_out(ledger: Ledger) -> None:
    """A waiter that is cancelled leaves the line, holds nothing, and the next one is served."""
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="all", wait_s=0)
    first, second = start(ledger, ACME, 1000, "first"), start(ledger, ACME, 1000, "second")
    await come_to_rest(ledger)
    first.cancel()
    await end(ledger, "all")
    assert first.cancelled()
    assert (await second).remaining == 0


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_reservation_leaves_no_hold(ledger: Ledger, steps: int) -> None:
    """Whenever a caller is cancelled, either it has its reservation or nothing is held."""
    task = start(ledger, ACME, 100, "r")
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await come_to_rest(ledger)
    held = {row.held for row in ledger.rows(ACME)}
    assert held == ({0} if task.cancelled() else {100})
    assert ledger.verify().ok


async def test_a_session_keeps_nobody_else_waiting(ledger: Ledger) -> None:
    """Who waits for a session's own budget is in the way of that session alone."""
    await asyncio.wrap_future(ledger.set_limit(ACME, "session", 100, author="me"))
    of_session = Hold(scope=SEARCH, prompt=Amounts(100, 100), session="s")
    await ledger.reserve_or_wait(of_session, reservation_id="first", wait_s=0)
    second = asyncio.ensure_future(ledger.reserve_or_wait(of_session, reservation_id="second", wait_s=LONG_S))
    await come_to_rest(ledger)
    plain = start(ledger, SEARCH, 100, "plain")
    other = asyncio.ensure_future(
        ledger.reserve_or_wait(replace(of_session, session="t"), reservation_id="other", wait_s=LONG_S)
    )
    await come_to_rest(ledger)
    assert (plain.done(), other.done(), second.done()) == (True, True, False)
    await end(ledger, "first")
    assert (await second).amount == 100


async def test_the_critical_stand_behind_nobody(ledger: Ledger) -> None:
    """A critical request takes its allowance while others wait for the ordinary budget."""
    await asyncio.wrap_future(ledger.set_limit(ACME, "daily", 1000, author="me", allowance=100))
    await ledger.reserve_or_wait(Hold.of_tokens(ACME, 1000), reservation_id="first", wait_s=0)
    waiting = start(ledger, ACME, 100, "waiting")
    await come_to_rest(ledger)
    critical = Hold(scope=ACME, prompt=Amounts(100, 100), priority="critical")
    granted = asyncio.ensure_future(
        ledger.reserve_or_wait(critical, reservation_id="critical", wait_s=LONG_S)
    )
    await come_to_rest(ledger)
    assert (granted.done(), waiting.done()) == (True, False)
    await end(ledger, "critical")
    await end(ledger, "first")
    assert (await waiting).amount == 100
