"""What an operator reads off the budgets."""

from datetime import UTC, datetime

import pytest

from trivet.budgets import Ledger
from trivet.budgets.burn import CHARGES_READ
from trivet.domain.budgets import Hold
from trivet.domain.clock import ManualClock
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope

ACME, SEARCH, ANA = Scope("acme"), Scope("acme.search"), Scope("acme.search.ana")


def test_an_unused_budget(ledger: Ledger) -> None:
    """Before any use all is well: nothing burns, nothing breaks, nothing is known of request sizes."""
    expected = {
        "scope": "acme",
        "status": "ok",
        "time_zone": "UTC",
        "rows": [
            {
                "scope": "acme",
                "meter": "tokens",
                "window": "daily",
                "window_start": "2026-01-01T00:00:00+00:00",
                "resets_at": "2026-01-02T00:00:00+00:00",
                "used": 0,
                "held": 0,
                "limit": 1000,
                "overridden": 0,
                "critical_allowance": 0,
                "remaining": 1000,
                "percent_used": 0.0,
            },
            {
                "scope": "acme",
                "meter": "tokens",
                "window": "monthly",
                "window_start": "2026-01-01T00:00:00+00:00",
                "resets_at": "2026-02-01T00:00:00+00:00",
                "used": 0,
                "held": 0,
                "limit": 10_000,
                "overridden": 0,
                "critical_allowance": 0,
                "remaining": 10_000,
                "percent_used": 0.0,
            },
        ],
        "caps": [],
        "burn_rate_per_hour": 0.0,
        "burn_rates": {"tokens": 0, "weighted_tokens": 0, "usd_micros": 0},
        "projected_total": 0,
        "projected_row": {"scope": "acme", "meter": "tokens", "window": "daily"},
        "breach_at": None,
        "requests_remaining": None,
        "thresholds": [50, 70, 80, 85, 95, 100],
        "active_alerts": [],
        "overrides": [],
        "actions": [],
    }
    assert expected == ledger.status(ACME).as_json()


def test_what_critical_requests_may_use_is_told(ledger: Ledger) -> None:
    """An allowance that was set can be read back, row by row, and is gone with a limit that has none."""
    ledger.set_limit(ACME, "daily", 900, author="me", allowance=300).result()
    assert [row.critical_allowance for row in ledger.status(ACME).rows] == [300, 0]
    assert [row.critical_allowance for row in ledger.rows(ACME)] == [300, 0]
    ledger.set_limit(ACME, "daily", 900, author="me").result()
    assert [row.critical_allowance for row in ledger.status(ACME).rows] == [0, 0]


def test_a_zone_that_was_set_can_be_read_back(ledger: Ledger) -> None:
    """It is the organisation's, and told at once although the open windows stay as they are."""
    ledger.set_time_zone(ACME, "Pacific/Auckland", author="me").result()
    status = ledger.status(ANA)
    assert status.time_zone == "Pacific/Auckland"
    assert status.rows[0].window_start == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_projection_names_its_row(ledger: Ledger) -> None:
    """What is projected for a user may be the budget of whoever stands above it."""
    ledger.set_limit(SEARCH, "monthly", 300, author="me").result()
    ledger.record(ANA, 100).result()
    told = ledger.status(ANA).as_json()["projected_row"]
    assert told == {"scope": "acme.search", "meter": "tokens", "window": "monthly"}


def test_rows_above_are_included(ledger: Ledger) -> None:
    """A user's status shows its own rows and those of the team and the organisation that bind it."""
    assert [row.scope for row in ledger.status(ANA).rows] == [ACME, ACME, SEARCH, SEARCH, ANA, ANA]


def test_burn_rate_and_breach(ledger: Ledger, clock: ManualClock) -> None:
    """What the last hour charged is the rate; at that rate the breach and the total are projected."""
    ledger.record(ACME, 100).result()
    clock.advance(7200)
    ledger.record(SEARCH, 60).result()
    ledger.reserve(Hold.of_tokens(ANA, 500), reservation_id="r").result()
    ledger.settle("r", Usage(20, 20)).result()
    status = ledger.status(ACME)
    assert status.burn_rate_per_hour == 100.0
    assert status.breach_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert status.projected_total == 200 + 22 * 100
    assert ledger.status(ANA).burn_rate_per_hour == 40.0
    assert ledger.status(Scope("acme.searching")).burn_rate_per_hour == 0.0
    clock.advance(3600)
    assert ledger.status(ACME).burn_rate_per_hour == 0.0
    assert ledger.status(ACME).breach_at is None


def test_no_breach_within_the_window(ledger: Ledger, clock: ManualClock) -> None:
    """A rate that the reset overtakes breaks nothing; the total at the reset is still told."""
    clock.advance(23 * 3600)
    ledger.record(ACME, 10).result()
    status = ledger.status(ACME)
    assert status.breach_at is None
    assert status.projected_total == 20


def test_requests_remaining_at_the_recent_mean(ledger: Ledger) -> None:
    """The room of the tightest row, holds included, is divided by the mean of recent charges."""
    for index, tokens in enumerate((10, 20, 30)):
        ledger.reserve(Hold.of_tokens(SEARCH, 50), reservation_id=str(index)).result()
        ledger.settle(str(index), Usage(tokens, 0)).result()
    ledger.reserve(Hold.of_tokens(SEARCH, 135), reservation_id="open").result()
    ledger.release("2").result()
    assert ledger.status(SEARCH).requests_remaining == (1000 - 60 - 135) // 20


def test_requests_remaining_without_limits(ledger: Ledger) -> None:
    """Without any limit there is no number of requests that remain."""
    for window in ("daily", "monthly"):
        ledger.set_limit(ACME, window, None, author="me").result()
    ledger.record(ACME, 10).result()
    status = ledger.status(ACME)
    assert status.requests_remaining is None
    assert status.projected_total == 10 + 10 * 24


@pytest.mark.parametrize(
    ("tokens", "status", "threshold"),
    [
        (0, "ok", None),
        (499, "ok", None),
        (500, "warning", 50),
        (849, "warning", 80),
        (1000, "exhausted", 100),
    ],
)
def test_thresholds(ledger: Ledger, tokens: int, status: str, threshold: int | None) -> None:
    """The highest threshold that use has passed is the alert of a row."""
    ledger.record(ACME, tokens).result()
    found = ledger.status(SEARCH)
    assert found.status == status
    assert [alert["threshold"] for alert in found.active_alerts] == [threshold] * (threshold is not None)


def test_holds_alert_nobody(ledger: Ledger) -> None:
    """Thresholds look at use: a burst of worst-case holds is no alarm."""
    ledger.reserve(Hold.of_tokens(ACME, 1000), reservation_id="r").result()
    assert ledger.status(ACME).status == "ok"


def test_an_alert_names_its_row(ledger: Ledger) -> None:
    """An alert tells which row passed which threshold, and until when."""
    ledger.set_limit(SEARCH, "monthly", 0, author="me").result()
    (alert,) = ledger.status(SEARCH).active_alerts
    assert alert == {
        "scope": "acme.search",
        "meter": "tokens",
        "window": "monthly",
        "threshold": 100,
        "percent_used": 100.0,
        "fired_at": "2026-01-01T00:00:00+00:00",
        "resets_at": "2026-02-01T00:00:00+00:00",
    }


def test_a_busy_hour_is_read_by_its_latest_charges(ledger: Ledger, clock: ManualClock) -> None:
    """However many charges the hour had, a bounded number is read, and the rate is over their time."""
    ledger.set_limit(ACME, "daily", None, author="me").result()
    ledger.set_limit(ACME, "monthly", None, author="me").result()
    for _ in range(30):
        for _ in range(CHARGES_READ // 20):
            charged = ledger.record(ACME, 1)
        charged.result()
        clock.advance(10)
    # Twenty of the thirty rounds are read, which took 200 seconds.
    rate = ledger.status(ACME).burn_rate_per_hour
    assert rate == pytest.approx(CHARGES_READ * 3600 / 200, rel=0.06)


def test_a_quiet_scope_is_judged_by_the_mean_above_it(ledger: Ledger) -> None:
    """Who had no request lately still learns how many of the usual size would fit."""
    ledger.record(Scope("acme.search"), 100).result()
    assert ledger.status(Scope("acme.ads")).requests_remaining == 9
