"""Many clients against an almost empty budget: nothing is overspent, and nothing is left over."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.counts import scaled
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import BudgetContended, BudgetExhausted
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database

CLIENTS = 64
HOLD = 500
LIMIT = 20_000
SCOPES = tuple(Scope(f"acme.team{team}.user{user}") for team in range(3) for user in range(4))


def check(ledger: Ledger, charged: int) -> None:
    """Check that the books agree with the clients, and that the budget is spent but for less than a hold."""
    rows = {(row.scope, row.window): row for row in ledger.rows()}
    organisation = rows[Scope("acme"), "daily"]
    teams = sum(
        row.used for (scope, window), row in rows.items() if scope.count(".") == 1 and window == "daily"
    )
    assert {row.held for row in rows.values()} == {0}
    assert organisation.used == charged == teams
    assert LIMIT - HOLD < organisation.used <= LIMIT
    assert ledger.verify().differences == ()
    assert ledger.overruns() == 0


def spend_until_exhausted(ledger: Ledger, client: int) -> int:
    """Reserve and settle from a thread, coming back when contended; return what was used."""
    dice, total, number = random.Random(client), 0, 0
    pause = threading.Event()
    while True:
        number += 1
        name = f"{client}-{number}"
        try:
            ledger.reserve(Hold.of_tokens(dice.choice(SCOPES), HOLD), reservation_id=name).result()
        except BudgetContended:
            pause.wait(0.002)
            continue
        except BudgetExhausted:
            return total
        if dice.random() < 0.2:
            ledger.release(name).result()
        else:
            tokens = dice.randint(50, HOLD)
            total += ledger.settle(name, Usage(0, tokens)).result().charged


async def wait_until_exhausted(ledger: Ledger, client: int) -> int:
    """Reserve, waiting in line, and settle from a coroutine; return what was used."""
    dice, total, number = random.Random(client), 0, 0
    while True:
        number += 1
        name = f"{client}-{number}"
        try:
            await ledger.reserve_or_wait(
                Hold.of_tokens(dice.choice(SCOPES), HOLD), reservation_id=name, wait_s=60
            )
        except BudgetExhausted:
            return total
        await asyncio.sleep(0)
        settlement = await asyncio.wrap_future(ledger.settle(name, Usage(0, dice.randint(50, HOLD))))
        total += settlement.charged


async def all_of(ledger: Ledger, clients: range) -> int:
    """Run many clients in one event loop."""
    return sum(await asyncio.gather(*(wait_until_exhausted(ledger, client) for client in clients)))


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_storm_of_threads(tmp_path: Path, kind: str) -> None:
    """64 threads drain a budget: overspent 0, left over less than one hold, counters equal entries."""
    for round_ in range(scaled(1)):
        path = tmp_path / f"{round_}.db" if kind == "file" else None
        with Database.open(path) as database, ThreadPoolExecutor(CLIENTS) as threads:
            ledger = Ledger(database, BudgetSettings(default_daily_tokens=LIMIT), ManualClock())
            clients = range(round_ * CLIENTS, (round_ + 1) * CLIENTS)
            charged = sum(threads.map(lambda client: spend_until_exhausted(ledger, client), clients))  # noqa: B023
            check(ledger, charged)


def test_a_storm_of_waiters_in_several_loops(tmp_path: Path) -> None:
    """64 coroutines in four event loops wait in line for a budget and drain it; nobody is refused falsely."""
    for round_ in range(scaled(1)):
        with Database.open(tmp_path / f"{round_}.db") as database, ThreadPoolExecutor(4) as threads:
            ledger = Ledger(database, BudgetSettings(default_daily_tokens=LIMIT), ManualClock())
            first = round_ * CLIENTS
            parts = [range(first + part * 16, first + (part + 1) * 16) for part in range(4)]
            charged = sum(threads.map(lambda part: asyncio.run(all_of(ledger, part)), parts))  # noqa: B023
            check(ledger, charged)
