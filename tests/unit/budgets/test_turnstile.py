"""Lines of waiters: how many try in one turn, and who goes before whom."""

import asyncio

from trivet.budgets.turnstile import MOST_AT_ONCE, Line, Turnstile, Waiter
from trivet.domain.scopes import Scope

ACME = Line(Scope("acme"))


async def called(waiters: list[Waiter]) -> list[int]:
    """Return which of the waiters were called since this was asked last."""
    await asyncio.sleep(0)
    found = [index for index, waiter in enumerate(waiters) if waiter.turn.is_set()]
    for waiter in waiters:
        waiter.turn.clear()
    return found


async def test_a_line_that_moves_moves_faster() -> None:
    """Each head that is served lets one more try with the next; one that finds nothing stops that."""
    turnstile = Turnstile()
    waiters = [turnstile.join(ACME) for _ in range(12)]
    assert await called(waiters) == [0]
    turnstile.leave(waiters[0], served=True)
    assert await called(waiters) == [1, 2]
    turnstile.leave(waiters[1], served=True)
    turnstile.leave(waiters[2], served=True)
    assert await called(waiters) == [2, 3, 4, 5, 6]
    turnstile.refused(waiters[3], ACME)
    turnstile.freed(Scope("acme.search"))
    assert await called(waiters) == [3]


async def test_who_is_served_behind_the_head_widens_nothing() -> None:
    """Only heads widen the front: else a large one would be overtaken again and again."""
    turnstile = Turnstile()
    waiters = [turnstile.join(ACME) for _ in range(8)]
    turnstile.leave(waiters[0], served=True)
    turnstile.refused(waiters[1], ACME)
    turnstile.leave(waiters[2], served=True)
    await called(waiters)
    turnstile.freed(Scope("acme"))
    assert await called(waiters) == [1]


async def test_the_front_is_bounded() -> None:
    """However long heads are served, no more try at once than share a commit."""
    turnstile = Turnstile()
    waiters = [turnstile.join(ACME) for _ in range(3 * MOST_AT_ONCE)]
    for waiter in waiters[: 2 * MOST_AT_ONCE]:
        turnstile.leave(waiter, served=True)
    await called(waiters)
    turnstile.freed(Scope("acme"))
    assert len(await called(waiters)) == MOST_AT_ONCE


async def test_all_are_told_once_that_a_budget_is_spent() -> None:
    """Everybody in the line tries at once when its head finds the budget spent, and nobody twice."""
    turnstile = Turnstile()
    waiters = [turnstile.join(ACME) for _ in range(5)]
    stranger = turnstile.join(Line(Scope("globex")))
    await called([*waiters, stranger])
    turnstile.spent(waiters[0])
    assert await called([*waiters, stranger]) == [1, 2, 3, 4]
    turnstile.spent(waiters[1])
    assert await called([*waiters, stranger]) == [0]


async def test_the_critical_go_first() -> None:
    """A critical line is called before an ordinary one that came earlier."""
    turnstile = Turnstile()
    order: list[str] = []
    ordinary, critical = turnstile.join(ACME), turnstile.join(ACME._replace(critical=True))
    await called([ordinary, critical])

    async def go(waiter: Waiter, name: str) -> None:
        await waiter.turn.wait()
        order.append(name)

    tasks = [asyncio.ensure_future(go(ordinary, "ordinary")), asyncio.ensure_future(go(critical, "critical"))]
    await asyncio.sleep(0)
    turnstile.freed(Scope("acme"))
    await asyncio.gather(*tasks)
    assert order == ["critical", "ordinary"]


async def test_who_leaves_lets_the_next_try() -> None:
    """A head that leaves unserved makes way; the last one takes the line with it."""
    turnstile = Turnstile()
    waiters = [turnstile.join(ACME) for _ in range(2)]
    await called(waiters)
    turnstile.leave(waiters[0], served=False)
    assert await called(waiters) == [1]
    turnstile.leave(waiters[1], served=False)
    assert not turnstile._lines
