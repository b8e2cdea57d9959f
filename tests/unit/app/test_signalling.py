"""What a scrape says of budgets: how full the fullest is; names only where the operator wants them."""

import asyncio
from collections.abc import Iterator

import pytest

from trivet.app.signalling import ORGANISATIONS_SHOWN, fullest, signalling
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.config.signal_settings import SignalSettings
from trivet.domain.clock import ManualClock, SystemClock
from trivet.domain.scopes import Scope
from trivet.metering import DeviceClock, Metrics, TrivetCollector
from trivet.storage import Database


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Give a ledger in which acme has used 90 % of its day and globex nothing."""
    with Database.open(None) as database:
        opened = Ledger(database, BudgetSettings(default_daily_tokens=1000), ManualClock())
        opened.recover()
        opened.record(Scope("acme"), 900).result()
        opened.record(Scope("acme.search"), 0).result()
        opened.record(Scope("globex.ads"), 10).result()
        yield opened


async def scraped(ledger: Ledger, settings: SignalSettings) -> str:
    """Return what /metrics says once the budgets were read."""
    with Database.open(None) as database:
        async with signalling(database, ledger, settings, SystemClock(), delivering=True) as found:
            collector = TrivetCollector(Metrics(), DeviceClock(ManualClock()))
            found.register(collector)
            for _ in range(1000):
                if not found.rows:
                    await asyncio.sleep(0.01)
            return collector.render().decode()


async def test_the_fullest_is_told_without_a_name(ledger: Ledger) -> None:
    """By default anybody may know how full the fullest budget is, and nobody whose it is."""
    text = await scraped(ledger, SignalSettings())
    assert "trivet_budget_fullest_ratio 0.9\n" in text
    assert "acme" not in text


async def test_organisations_are_named_if_wanted(ledger: Ledger) -> None:
    """Limits, use and holds of organisations, never of what lies below them."""
    text = await scraped(ledger, SignalSettings(metrics_name_tenants=True))
    assert 'trivet_budget_used_ratio{meter="tokens",scope="acme",window="daily"} 0.9\n' in text
    assert 'trivet_budget_limit{meter="tokens",scope="globex",window="daily"} 1000.0\n' in text
    assert "search" not in text


def test_a_scrape_is_bounded() -> None:
    """However many organisations there are, the fullest are shown and no more."""
    with Database.open(None) as database:
        ledger = Ledger(
            database, BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=None), ManualClock()
        )
        ledger.recover()
        for number in range(ORGANISATIONS_SHOWN + 20):
            ledger.record(Scope(f"o{number}"), number)
        rows = fullest(ledger.organisation_rows())
    assert len(rows) == ORGANISATIONS_SHOWN
    assert rows[0].scope == f"o{ORGANISATIONS_SHOWN + 19}"
