"""A crowd before one small budget, on a virtual clock: however long the line, nobody is refused falsely."""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from trivet.budgets import Ledger
from trivet.budgets.rows import RowKey
from trivet.budgets.sqlite_store import SqliteLedgerStore
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Reservation
from trivet.domain.errors import BudgetContended, BudgetExhausted
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.execution import Settler
from trivet.lab.ledger_judge import WAIT_NS, ns_of
from trivet.lab.virtual_store import Medium, StoreFaults, VirtualDatabase
from trivet.lab.virtual_time import LoopClock, run

ACME = Scope("acme")
WAIT_S = 2.0
PROMPT, LEAST = 100, 20
LIMIT = 10_000
CROWD = 150


@dataclass(slots=True)
class Seen:
    """What became of a crowd."""

    lives: list[list[int | None]] = field(default_factory=list)
    """Begin and end of each hold."""
    served: int = 0
    exhausted: int = 0
    contended: list[BudgetContended] = field(default_factory=list)
    left: int = 0
    longest_s: float = 0.0

    def false(self) -> int:
        """Count the refusals of those before whom no hold had stood for two seconds."""
        return sum(not self._stood(refused.contention.at_ns) for refused in self.contended)

    def _stood(self, at_ns: int) -> bool:
        return any(
            begun is not None and begun <= at_ns - WAIT_NS and (ended is None or ended >= at_ns)
            for begun, ended in self.lives
        )


class Impatient(SqliteLedgerStore):
    """Says of every wait that it was in vain: the fault that the test must see."""

    def lasting(self, rows: Sequence[RowKey], since_ns: int) -> "Future[RowKey | None]":
        """Name a row, whatever stands on it."""
        told: Future[RowKey | None] = Future()
        told.set_result(rows[0])
        return told


def crowd(
    seed: int, works_s: tuple[float, float], *, store: type[SqliteLedgerStore] = SqliteLedgerStore
) -> Seen:
    """Let a crowd come within a second, each wanting a hold; engines work as long as told; some leave."""

    async def live() -> Seen:
        seen, dice, medium, clock = Seen(), random.Random(seed), Medium(), LoopClock()
        loop = asyncio.get_running_loop()
        # A slow disk, that never fails.
        database = VirtualDatabase(medium, dice, StoreFaults(commit_s=0.02, stall=0, fails=0), lambda: None)
        settings = BudgetSettings(default_daily_tokens=LIMIT, default_monthly_tokens=None)
        ledger = Ledger(None, settings, clock, store=store(database, settings, clock))
        ledger.recover()
        settler = Settler(ledger)
        database.begin()

        async def work(held: Reservation) -> None:
            life: list[int | None] = [ns_of(clock.now()), None]
            seen.lives.append(life)
            await asyncio.sleep(dice.uniform(*works_s))
            usage = Usage(dice.randint(10, PROMPT), dice.randint(1, held.max_output))
            life[1] = ns_of(clock.now())
            await settler.settle(held.reservation_id, usage, Amounts(usage.total_tokens), lambda: _nothing)

        async def client() -> None:
            await asyncio.sleep(dice.random())
            output = dice.choice((20, 200, 900))
            hold = Hold(
                scope=Scope(f"acme.t{dice.randrange(3)}"),
                prompt=Amounts(PROMPT, PROMPT),
                output=Amounts(output, output),
                max_output=output,
                min_output=min(output, LEAST),
            )
            asked_s = loop.time()
            try:
                held = await settler.hold(hold, wait_s=WAIT_S)
            except BudgetExhausted:
                seen.exhausted += 1
            except BudgetContended as contended:
                seen.contended.append(contended)
            else:
                seen.served += 1
                await asyncio.shield(asyncio.ensure_future(work(held)))
            seen.longest_s = max(seen.longest_s, loop.time() - asked_s)

        clients = [asyncio.ensure_future(client()) for _ in range(CROWD)]
        for leaving in dice.sample(clients, CROWD // 10):
            loop.call_later(dice.uniform(1.0, 4.0), leaving.cancel)
        await asyncio.wait(clients)
        seen.left = sum(each.cancelled() for each in clients)
        await asyncio.sleep(10)
        await settler.drain()
        assert ledger.verify().ok
        assert {row.held for row in ledger.rows(ACME)} == {0}
        assert not ledger._turnstile._lines
        medium.close()
        return seen

    return run(live())


def _nothing(_: Any) -> None:
    """Write no outcome."""


@pytest.mark.parametrize("seed", range(4))
def test_however_long_the_line_nobody_is_refused_falsely(seed: int) -> None:
    """Where every hold ends in time nobody is called contended, although the line outlasts many waits."""
    seen = crowd(seed, (0.3, 1.5))
    assert seen.contended == []
    assert seen.served + seen.exhausted + seen.left >= CROWD
    assert seen.served > LIMIT // 1000
    assert seen.exhausted
    assert seen.longest_s > WAIT_S


@pytest.mark.parametrize("seed", range(2))
def test_a_hold_that_lasts_ends_a_wait(seed: int) -> None:
    """Where holds outlast a wait, those in line are refused, and each for a hold that stood throughout."""
    seen = crowd(seed, (0.3, 6.0))
    assert seen.contended
    assert seen.false() == 0


def test_the_fault_is_found() -> None:
    """A ledger that refuses after two seconds, whatever stands, is found out."""
    seen = crowd(0, (0.3, 1.5), store=Impatient)
    assert seen.false() > 10
