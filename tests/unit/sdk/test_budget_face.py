"""BudgetManager: check, record and report over the ledger."""

import contextlib
import gc
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trivet import BudgetManager, ModelTier
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import ConfigError, RequestMalformed
from trivet.domain.scopes import Scope
from trivet.storage import Database


@pytest.fixture
def clock() -> ManualClock:
    """Noon of an ordinary day."""
    return ManualClock(datetime(2026, 5, 10, 12, tzinfo=UTC))


@pytest.fixture
def budgets(clock: ManualClock) -> BudgetManager:
    """Budgets of 1,000 tokens a day and 5,000 a month."""
    return BudgetManager(default_daily_limit=1_000, default_monthly_limit=5_000, clock=clock)


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    """A ledger on disk whose organisations may use 1,000 tokens a day."""
    with Database.open(tmp_path / "trivet.db") as database:
        yield Ledger(database, BudgetSettings(default_daily_tokens=1_000), clock)


def test_an_unknown_tenant_has_the_default_limits(budgets: BudgetManager) -> None:
    """Any UUID is an organisation with the limits that the manager was made with."""
    tenant = uuid.uuid4()
    assert [budgets.check_budget(tenant, tokens) for tokens in (0, 1_000, 1_001)] == [True, True, False]
    rows = budgets.get_status(tenant)["rows"]
    assert [(row["scope"], row["window"], row["limit"]) for row in rows] == [
        (str(tenant), "daily", 1_000),
        (str(tenant), "monthly", 5_000),
    ]


def test_usage_counts_against_the_limits(budgets: BudgetManager) -> None:
    """What is recorded is gone from what may be used."""
    settlement = budgets.record_usage("acme", ModelTier.STANDARD, 300, 100, complexity_score=0.5)
    assert (settlement.charged, settlement.overrun, settlement.remaining) == (400, 0, 600)
    assert (budgets.check_budget("acme", 600), budgets.check_budget("acme", 601)) == (True, False)
    assert budgets.check_budget("other", 1_000)


def test_an_overrun_is_booked_flagged_and_blocks(budgets: BudgetManager, clock: ManualClock) -> None:
    """Usage beyond the limit is never lost; nothing follows until the day is over."""
    settlement = budgets.record_usage("acme", "heavy", 900, 400)
    assert (settlement.charged, settlement.overrun, settlement.remaining) == (1_300, 300, 0)
    assert not budgets.check_budget("acme", 0)
    assert budgets.get_status("acme")["status"] == "exhausted"
    clock.advance(12 * 3600)
    assert budgets.check_budget("acme", 1_000)


def test_the_monthly_limit_holds_across_days(budgets: BudgetManager, clock: ManualClock) -> None:
    """Five full days use up the month."""
    for _ in range(5):
        budgets.record_usage("acme", "light", 1_000, 0)
        clock.advance(24 * 3600)
    assert not budgets.check_budget("acme", 1)


def test_a_team_counts_for_its_organisation(ledger: Ledger) -> None:
    """A tenant may be a scope below an organisation; both are charged, and the organisation's limit binds."""
    budgets = BudgetManager(ledger=ledger)
    budgets.record_usage("acme.search", "light", 700, 200)
    assert (budgets.check_budget("acme.ads", 100), budgets.check_budget("acme.ads", 101)) == (True, False)


def test_a_uuid_and_its_text_are_one_tenant(budgets: BudgetManager) -> None:
    """A tenant may be named by the UUID or by its text."""
    tenant = uuid.uuid4()
    budgets.record_usage(tenant, "light", 1_000, 0)
    assert not budgets.check_budget(str(tenant), 1)


def test_it_is_a_face_of_a_given_ledger(ledger: Ledger, tmp_path: Path) -> None:
    """With a ledger, its limits count, and each usage is one entry of it that says tier and tokens."""
    budgets = BudgetManager(default_daily_limit=5, ledger=ledger)
    assert budgets.check_budget("acme", 1_000)
    budgets.record_usage("acme", ModelTier.HEAVY, 10, 5, complexity_score=0.71)
    assert [(row.used, row.held) for row in ledger.rows(Scope("acme"))] == [(15, 0), (15, 0)]
    with contextlib.closing(sqlite3.connect(tmp_path / "trivet.db")) as connection:
        found = connection.execute("SELECT kind, used_tokens, used_weighted, note FROM entries").fetchall()
    assert found == [("record", 15, 150, "tier=heavy input=10 output=5 complexity=0.71")]
    assert ledger.verify().as_json()["ok"] is True


def test_holds_count_in_the_advice(ledger: Ledger) -> None:
    """What others hold is not free."""
    ledger.reserve(Hold.of_tokens(Scope("acme"), 900), reservation_id=uuid.uuid4().hex).result()
    assert not BudgetManager(ledger=ledger).check_budget("acme", 101)


def test_no_limits() -> None:
    """None is unlimited."""
    budgets = BudgetManager(None, None)
    budgets.record_usage("acme", "heavy", 10**12, 0)
    assert budgets.check_budget("acme", 10**12)


def test_savings_report(budgets: BudgetManager) -> None:
    """Saved tokens are tokens * (10 - weight) / 10, by the guide's weights; the report has every key."""
    budgets.record_usage("acme", ModelTier.LIGHT, 60, 40, latency_ms=3_600_000)
    budgets.record_usage("acme", ModelTier.STANDARD, 100, 0)
    budgets.record_usage("acme", ModelTier.HEAVY, 0, 50)
    budgets.record_usage("acme", "unheard-of", 0, 50)
    report = budgets.get_savings_report("acme")
    assert report == {
        "tenant_id": "acme",
        "requests": 4,
        "tokens_used": 300,
        "tokens_saved": 160,
        "cost_reduction_pct": 53.33,
        "by_tier": {
            "light": {
                "requests": 1, "tokens": 100, "input_tokens": 60, "output_tokens": 40, "tokens_saved": 90
            },
            "standard": {
                "requests": 1, "tokens": 100, "input_tokens": 100, "output_tokens": 0, "tokens_saved": 70
            },
            "heavy": {"requests": 1, "tokens": 50, "input_tokens": 0, "output_tokens": 50, "tokens_saved": 0},
            "unheard-of": {
                "requests": 1, "tokens": 50, "input_tokens": 0, "output_tokens": 50, "tokens_saved": 0
            },
        },
        "gpu_hours_saved": 0.0,
        "engine_hours_saved": 9.0,
        "basis": "modelled",
    }  # fmt: skip


def test_savings_report_of_nobody(budgets: BudgetManager) -> None:
    """A tenant that used nothing saved nothing."""
    report = budgets.get_savings_report(uuid.uuid4())
    assert (report["tokens_saved"], report["cost_reduction_pct"], report["gpu_hours_saved"]) == (0, 0.0, 0.0)


def test_own_weights() -> None:
    """The weights of other tiers may be given."""
    budgets = BudgetManager(cost_weights={"light": 1.0, "cloud": 40.0})
    budgets.record_usage("acme", "light", 400, 0)
    assert budgets.get_savings_report("acme")["tokens_saved"] == 390


@pytest.mark.parametrize("tokens", [-1, 1.5, "12", None, True, 2**60])
def test_senseless_numbers_are_refused(budgets: BudgetManager, tokens: Any) -> None:
    """Tokens are whole numbers of at least 0; nothing is booked otherwise."""
    with pytest.raises(RequestMalformed, match="estimated_tokens"):
        budgets.check_budget("acme", tokens)
    with pytest.raises(RequestMalformed, match="input_tokens"):
        budgets.record_usage("acme", "light", tokens, 1)
    with pytest.raises(RequestMalformed, match="output_tokens"):
        budgets.record_usage("acme", "light", 1, tokens)
    assert budgets.get_savings_report("acme")["tokens_used"] == 0
    assert budgets.check_budget("acme", 1_000)


@pytest.mark.parametrize("tenant", ["", "Acme Inc", "a..b", "x" * 70])
def test_senseless_tenants_are_refused(budgets: BudgetManager, tenant: str) -> None:
    """A tenant is a UUID or a scope."""
    with pytest.raises(RequestMalformed, match="scope"):
        budgets.check_budget(tenant, 1)


@pytest.mark.parametrize("tier", ["", "x" * 65, "a\nb"])
def test_senseless_tiers_are_refused(budgets: BudgetManager, tier: str) -> None:
    """A tier has a name."""
    with pytest.raises(RequestMalformed, match="model_tier"):
        budgets.record_usage("acme", tier, 1, 1)


@pytest.mark.parametrize("limit", [0, -5, 1.5, "many", True])
def test_senseless_limits_are_refused(limit: Any) -> None:
    """A limit is a whole number of at least 1, or None."""
    with pytest.raises(ConfigError, match="default_daily_limit"):
        BudgetManager(default_daily_limit=limit)


@pytest.mark.parametrize("weights", [{}, {"light": 0.0}, {"light": float("nan")}])
def test_senseless_weights_are_refused(weights: dict[str, float]) -> None:
    """A weight is a number above 0."""
    with pytest.raises(ConfigError, match="cost_weights"):
        BudgetManager(cost_weights=weights)


async def test_inside_a_running_loop(budgets: BudgetManager) -> None:
    """The plain functions work inside a coroutine."""
    assert budgets.check_budget("acme", 10)
    assert budgets.record_usage("acme", ModelTier.LIGHT, 5, 5).charged == 10
    assert budgets.get_status("acme")["rows"][0]["used"] == 10
    assert budgets.get_savings_report("acme")["tokens_used"] == 10


def test_from_many_threads(ledger: Ledger) -> None:
    """Nothing is lost when many threads book at once; the ledger's proof agrees."""
    budgets = BudgetManager(ledger=ledger)

    def book(number: int) -> int:
        budgets.check_budget("acme", 1)
        return budgets.record_usage("acme", ModelTier.LIGHT if number % 2 else "heavy", 2, 1).charged

    with ThreadPoolExecutor(16) as pool:
        charged = sum(pool.map(book, range(400)))
    report = budgets.get_savings_report("acme")
    assert (charged, report["tokens_used"], report["requests"]) == (1_200, 1_200, 400)
    assert ledger.rows(Scope("acme"))[0].used == 1_200
    assert ledger.overruns() == 200
    assert ledger.verify().as_json()["ok"] is True


def test_a_forgotten_manager_leaves_no_thread() -> None:
    """The private store closes when the manager is collected."""
    before = set(threading.enumerate())
    budgets = BudgetManager()
    budgets.record_usage("acme", "light", 1, 1)
    (writer,) = set(threading.enumerate()) - before
    del budgets
    gc.collect()
    writer.join(30)
    assert not writer.is_alive()


def test_a_program_ends_without_a_warning() -> None:
    """A program that never closes its manager ends quietly, with every warning an error."""
    script = (
        "from trivet import BudgetManager\n"
        "keep = BudgetManager()\n"
        "print(keep.record_usage('acme', 'light', 1, 1).charged)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-W", "error::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
