"""A hold gets to its end, whatever fails on the way, and whoever waits."""

import asyncio
import sqlite3
from collections.abc import Iterator

import pytest

from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold
from trivet.domain.clock import ManualClock
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.execution.settler import AlsoWrite, Settler
from trivet.storage import Database

ACME = Scope("acme")


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Give an open ledger in memory."""
    with Database.open(None) as database:
        opened = Ledger(database, BudgetSettings(), ManualClock())
        opened.recover()
        yield opened


def write_nothing() -> AlsoWrite:
    """Make a write of nothing."""
    return lambda _: None


def cannot_be_made() -> AlsoWrite:
    """Fail to make a write."""
    raise ValueError("no")


def cannot_be_written() -> AlsoWrite:
    """Make a write that fails."""

    def write(_: sqlite3.Connection) -> None:
        raise ValueError("no")

    return write


async def held(settler: Settler) -> str:
    """Hold ten tokens; return the reservation's name."""
    return (await settler.hold(Hold.of_tokens(ACME, 10), wait_s=0.0)).reservation_id


@pytest.mark.parametrize("also", [write_nothing, cannot_be_made, cannot_be_written])
@pytest.mark.parametrize("waits", [True, False])
async def test_a_hold_ends_without_its_record(ledger: Ledger, also: object, waits: bool) -> None:
    """What is to be written beside it is not worth a hold; draining waits for all that were begun."""
    settler = Settler(ledger)
    ending = settler.settle(await held(settler), Usage(3, 4), Amounts(7, 7), also)  # type: ignore[arg-type]
    if waits:
        settlement = await ending
        assert settlement is not None
        assert (settlement.state, settlement.charged) == ("settled", 7)
    await settler.drain()
    assert [(row.used, row.held) for row in ledger.rows(ACME) if row.meter == "tokens"] == [(7, 0), (7, 0)]
    assert ledger.verify().ok


async def test_who_waits_may_leave(ledger: Ledger) -> None:
    """A wait that is cancelled cancels nothing, before the first try has ended or after it failed."""
    settler = Settler(ledger)
    for also, after_s in ((write_nothing, 0.0), (cannot_be_written, 0.05)):
        ending = settler.release(await held(settler), also)

        async def wait(ending: object = ending) -> None:
            await ending  # type: ignore[misc]

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(after_s)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        settlement = await ending
        assert settlement is not None
        assert settlement.state == "released"
    await settler.drain()
    assert ledger.verify().ok
