"""A store, a clock and a ledger for every test."""

from collections.abc import Iterator

import pytest

from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.clock import ManualClock
from trivet.storage import Database


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still at the first instant of 2026 in UTC."""
    return ManualClock()


@pytest.fixture
def database() -> Iterator[Database]:
    """Give a store in memory."""
    with Database.open(None) as opened:
        yield opened


@pytest.fixture
def ledger(database: Database, clock: ManualClock) -> Ledger:
    """Give a recovered ledger whose organisations have 1000 tokens a day and 10000 a month."""
    settings = BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=10_000)
    opened = Ledger(database, settings, clock)
    opened.recover()
    return opened
