"""A store of each kind, a clock and a ledger for every test."""

from collections.abc import Iterator

import pytest

from tests.unit.budgets.stores import EVERY_STORE, close_ledgers, ledger_on
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.clock import ManualClock
from trivet.storage.database import Database


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still at the first instant of 2026 in UTC."""
    return ManualClock()


@pytest.fixture(params=EVERY_STORE)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give a store of each kind."""
    if request.param == "postgres":
        opened = request.getfixturevalue("shared_store").emptied()
    else:
        opened = Database.open(None)
    try:
        yield opened
    finally:
        close_ledgers(opened)
        opened.close()


@pytest.fixture
def ledger(database: Database, clock: ManualClock) -> Ledger:
    """Give a recovered ledger whose organisations have 1000 tokens a day and 10000 a month."""
    settings = BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=10_000)
    opened = ledger_on(database, settings, clock)
    opened.recover()
    return opened
