"""The graduated response: announcements, refusals by policy, and overrides."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from tests.unit.budgets.stores import bury_owners, ledger_on
from trivet.budgets import Ledger, OverrideRequest
from trivet.config.settings import BudgetSettings, LadderStep
from trivet.domain.budgets import Amounts, Hold, OverrideKind
from trivet.domain.clock import ManualClock
from trivet.domain.errors import (
    ApprovalRequired,
    BudgetExhausted,
    NonessentialBlocked,
    NotFound,
    PermissionDenied,
    RequestMalformed,
)
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database
from trivet.storage.schema import outbox

ACME, SEARCH = Scope("acme"), Scope("acme.search")


@pytest.fixture
def strict(database: Database, clock: ManualClock) -> Ledger:
    """Give a ledger with the strict ladder, 1000 tokens a day and no monthly limit."""
    settings = BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=None, ladder="strict")
    ledger = ledger_on(database, settings, clock)
    ledger.recover()
    return ledger


def announced(database: Database) -> list[tuple[str, str, int]]:
    """Return what waits to be delivered: scope, window, threshold."""
    rows = database.read(lambda c: c.execute(select(outbox.c.payload).order_by(outbox.c.seq)).fetchall())
    told = [json.loads(row.payload) for row in rows]
    return [(one["scope"], one["window"], one["threshold"]) for one in told]


def asks(tokens: int, **rest: Any) -> Hold:
    """Return a plain hold of a team."""
    return Hold(scope=SEARCH, prompt=Amounts(tokens, tokens), **rest)


def test_each_threshold_is_announced_once(ledger: Ledger, database: Database, clock: ManualClock) -> None:
    """A charge announces every threshold that it crosses; the next window begins anew."""
    ledger.record(SEARCH, 499).result()
    assert announced(database) == []
    ledger.reserve(asks(300), reservation_id="r").result()
    assert announced(database) == []
    ledger.settle("r", Usage(220, 0)).result()
    ledger.record(SEARCH, 1).result()
    assert announced(database) == [("acme", "daily", 50), ("acme", "daily", 70)]
    clock.advance(86400)
    ledger.record(SEARCH, 500).result()
    assert announced(database)[2:] == [("acme", "daily", 50)]


def test_a_lowered_limit_announces_what_is_passed(ledger: Ledger, database: Database) -> None:
    """Setting a limit below what is used tells at once, but not what was told before."""
    ledger.record(ACME, 500).result()
    ledger.set_limit(ACME, "daily", 600, author="me").result()
    ledger.set_limit(ACME, "daily", 600, author="me").result()
    assert [percent for _, _, percent in announced(database)] == [50, 70, 80]


def test_a_raise_arms_what_it_puts_out_of_reach(ledger: Ledger, database: Database) -> None:
    """What use has yet to reach under the new limit fires once more; what it has passed does not."""
    ledger.record(ACME, 860).result()
    assert percents(database) == [50, 70, 80, 85]
    ledger.set_limit(ACME, "daily", 1200, author="me").result()  # 71 % are used
    ledger.record(ACME, 90).result()
    assert percents(database)[4:] == []
    ledger.record(ACME, 20).result()
    assert percents(database)[4:] == [80]
    ledger.record(ACME, 200).result()
    assert percents(database)[5:] == [85, 95]
    told = [(alert.threshold, alert.limit, alert.rearmed_at is None) for alert in ledger.alerts(ACME)]
    assert sorted(told) == [
        *((50, 1000, True), (70, 1000, True), (80, 1000, False), (80, 1200, True)),
        *((85, 1000, False), (85, 1200, True), (95, 1200, True)),
    ]
    (active,) = (one for one in ledger.status(ACME).active_alerts if one["window"] == "daily")
    assert active["threshold"] == 95


def test_a_raise_and_a_fall_again_and_again(ledger: Ledger, database: Database) -> None:
    """Each raise arms once, also within one instant; a fall tells at once what it makes passed."""
    ledger.record(ACME, 500).result()
    for _ in range(3):
        ledger.set_limit(ACME, "daily", 2000, author="me").result()
        ledger.set_limit(ACME, "daily", 3000, author="me").result()
        ledger.set_limit(ACME, "daily", 1000, author="me").result()
    assert percents(database) == [50] * 4
    ledger.set_limit(ACME, "daily", None, author="me").result()
    ledger.set_limit(ACME, "daily", 700, author="me").result()
    assert percents(database)[4:] == [50, 70]


def test_a_correction_arms_nothing(ledger: Ledger, database: Database, clock: ManualClock) -> None:
    """Use that falls below a threshold and comes back has passed it before."""
    later = int((clock.now() + timedelta(minutes=1)).timestamp() * 1e9)
    ledger.reserve(asks(600, expires_at_ns=later), reservation_id="r").result()
    clock.advance(61)
    assert ledger.expire().result() == 1
    ledger.settle("r", Usage(100, 0)).result()
    ledger.set_limit(ACME, "daily", 1000, author="me").result()
    ledger.record(ACME, 450).result()
    assert percents(database) == [50]


def test_a_configured_limit_that_is_raised_arms_again(
    ledger: Ledger, database: Database, clock: ManualClock
) -> None:
    """A start under higher default limits, or none, counts as a raise."""
    ledger.record(ACME, 600).result()
    for daily in (2000, None, 1000):
        bury_owners(database)
        settings = BudgetSettings(default_daily_tokens=daily, default_monthly_tokens=10_000)
        ledger = ledger_on(database, settings, clock)
        ledger.recover()
    assert percents(database) == [50, 50]


def test_nothing_need_be_announced(database: Database, clock: ManualClock) -> None:
    """Without thresholds a budget is used up in silence; it still binds, and limits may change."""
    settings = BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=None, thresholds=())
    ledger = ledger_on(database, settings, clock)
    ledger.recover()
    ledger.reserve(asks(900), reservation_id="r").result()
    ledger.settle("r", Usage(900, 0)).result()
    ledger.set_limit(ACME, "daily", 950, author="me").result()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(100), reservation_id="s").result()
    assert ledger.status(ACME).active_alerts == ()
    assert announced(database) == []


def percents(database: Database) -> list[int]:
    """Return the thresholds that were announced, in their order."""
    return [percent for _, _, percent in announced(database)]


def test_a_cleared_limit_announces_what_is_passed_of_the_default(ledger: Ledger, database: Database) -> None:
    """Falling back to a lower default tells at once; no later charge would cross what is passed already."""
    ledger.set_limit(ACME, "daily", 5000, author="me").result()
    ledger.record(ACME, 860).result()
    assert announced(database) == []
    ledger.clear_limit(ACME, "daily", author="me").result()
    assert [percent for _, _, percent in announced(database)] == [50, 70, 80, 85]


def test_a_limit_of_another_kind_takes_no_pressure_away(strict: Ledger) -> None:
    """While one limit is edited, what is known of the others stays known."""
    strict.record(SEARCH, 860).result()
    assert strict.pressure(SEARCH).percent_used == 86.0
    strict.set_limit(ACME, "weekly", 100_000, author="me").result()
    assert strict.pressure(SEARCH).percent_used == 86.0


def test_a_new_configuration_announces_what_is_passed(database: Database, clock: ManualClock) -> None:
    """When a start finds a lower default, what is passed is told then, and once."""
    before = ledger_on(database, BudgetSettings(default_daily_tokens=1000), clock)
    before.recover()
    before.record(ACME, 400).result()
    for _ in range(2):
        bury_owners(database)
        settings = BudgetSettings(default_daily_tokens=800, default_monthly_tokens=None)
        lower = ledger_on(database, settings, clock)
        lower.recover()
        assert announced(database) == [("acme", "daily", 50)]
        assert lower.pressure(SEARCH).percent_used == 50.0


def test_a_refused_charge_announces_nothing(ledger: Ledger, database: Database) -> None:
    """An announcement is part of the transaction: if that is undone, so is it."""

    def fail(_: Any) -> None:
        raise RuntimeError

    assert ledger.record(ACME, 900, also=fail).exception() is not None
    assert announced(database) == []


def test_pressure_is_advice_by_settled_use(strict: Ledger, clock: ManualClock) -> None:
    """Pressure follows use, not holds, and what the ladder makes of it; a new day takes it away."""
    assert strict.pressure(SEARCH).actions == frozenset()
    strict.reserve(asks(900), reservation_id="r").result()
    assert strict.pressure(SEARCH).percent_used == 0.0
    strict.settle("r", Usage(860, 0)).result()
    told = strict.pressure(SEARCH)
    assert told.percent_used == 86.0
    assert told.actions == {"prefer_cheaper", "enforce_cheaper", "approve_heavy"}
    assert strict.status(SEARCH).actions == ("approve_heavy", "enforce_cheaper", "prefer_cheaper")
    assert strict.pressure(Scope("globex")).percent_used == 0.0
    clock.advance(86400)
    assert strict.pressure(SEARCH).actions == frozenset()


def test_the_default_ladder_refuses_nothing(ledger: Ledger) -> None:
    """By default a budget can be used to its last token by everybody."""
    ledger.record(ACME, 990).result()
    ledger.reserve(asks(10, priority="batch", dearest=True), reservation_id="r").result()
    assert ledger.pressure(ACME).actions == {"prefer_cheaper"}


def test_the_dearest_tier_takes_an_approval(strict: Ledger, clock: ManualClock) -> None:
    """From 85 % the dearest tier is refused until an approval is in force; other tiers go on."""
    strict.record(ACME, 850).result()
    with pytest.raises(ApprovalRequired) as refused:
        strict.reserve(asks(1, dearest=True, tier="heavy"), reservation_id="r").result()
    facts = {key: refused.value.details[key] for key in ("scope", "window", "used", "limit", "threshold")}
    assert facts == {"scope": "acme", "window": "daily", "used": 850, "limit": 1000, "threshold": 85}
    strict.reserve(asks(1, tier="light"), reservation_id="light").result()
    with pytest.raises(ApprovalRequired):
        strict.reweight("light", Amounts(1, 10), Amounts(), tier="heavy", dearest=True).result()
    strict.request_override(override(clock, "approval", SEARCH, hours=1)).result()
    strict.decide_override("o", approve=True, decider="bob").result()
    strict.reserve(asks(1, dearest=True), reservation_id="r").result()
    strict.reweight("light", Amounts(1, 10), Amounts(), tier="heavy", dearest=True).result()
    clock.advance(3601)
    with pytest.raises(ApprovalRequired):
        strict.reserve(asks(1, dearest=True), reservation_id="late").result()


def test_what_is_not_essential_is_blocked(strict: Ledger) -> None:
    """From 95 % batch requests are refused; interactive ones go on to the limit."""
    strict.record(ACME, 950).result()
    with pytest.raises(NonessentialBlocked) as refused:
        strict.reserve(asks(1, priority="batch"), reservation_id="b").result()
    assert refused.value.details["still_works"] == ["priority interactive", "priority critical"]
    assert refused.value.retry_after_s == 86400
    strict.reserve(asks(1), reservation_id="i").result()


def test_a_block_names_the_budget_that_lasts(strict: Ledger) -> None:
    """Where the month is nearly used as well, the end of the day is no help, however full that is."""
    strict.set_limit(ACME, "monthly", 1000, author="me").result()
    strict.set_limit(ACME, "daily", 951, author="me").result()
    strict.record(ACME, 950).result()
    with pytest.raises(NonessentialBlocked) as refused:
        strict.reserve(asks(1, priority="batch"), reservation_id="b").result()
    assert (refused.value.details["window"], refused.value.retry_after_s) == ("monthly", 31 * 86400)


def test_at_the_limit_only_critical_requests_pass(strict: Ledger) -> None:
    """At 100 % others are exhausted; critical ones have their allowance, on the dearest tier by approval."""
    strict.set_limit(ACME, "daily", 1000, author="me", allowance=50).result()
    strict.record(ACME, 1000).result()
    with pytest.raises(BudgetExhausted):
        strict.reserve(asks(1), reservation_id="i").result()
    strict.reserve(asks(50, priority="critical"), reservation_id="c").result()


def test_steps_of_ones_own(database: Database, clock: ManualClock) -> None:
    """A configuration may say its own steps; `notify` joins the thresholds."""
    steps = (
        LadderStep(percent=33, actions=("notify",)),
        LadderStep(percent=60, actions=("critical_only",)),
    )
    ledger = ledger_on(database, BudgetSettings(default_daily_tokens=100, ladder=steps), clock)
    ledger.record(ACME, 60).result()
    assert announced(database) == [("acme", "daily", 33), ("acme", "daily", 50)]
    with pytest.raises(NonessentialBlocked) as refused:
        ledger.reserve(asks(1), reservation_id="i").result()
    assert refused.value.details["still_works"] == ["priority critical"]


def override(
    clock: ManualClock, kind: OverrideKind, scope: Scope = ACME, *, amount: int = 0, hours: float = 1.0
) -> OverrideRequest:
    """Return Ana's request for an override named `o`."""
    return OverrideRequest(
        override_id="o",
        kind=kind,
        scope=scope,
        amount=amount,
        requester="ana",
        reason="the launch",
        expires_at=clock.now() + timedelta(hours=hours),
    )


def test_an_override_gives_more_for_a_while(ledger: Ledger, clock: ManualClock) -> None:
    """Approved by another it raises what may be used, inside admission, until it ends; audited throughout."""
    ledger.record(ACME, 1000).result()
    ledger.request_override(override(clock, "amount", amount=100)).result()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1), reservation_id="a").result()
    with pytest.raises(PermissionDenied):
        ledger.decide_override("o", approve=True, decider="ana").result()
    approved = ledger.decide_override("o", approve=True, decider="bob").result()
    assert (approved.state, approved.approver) == ("approved", "bob")
    assert ledger.reserve(asks(100), reservation_id="b").result().remaining == 0
    ledger.settle("b", Usage(100, 0)).result()
    status = ledger.status(ACME)
    assert [one.override_id for one in status.overrides] == ["o"]
    assert {row.window: row.overridden for row in status.rows} == {"daily": 100, "monthly": 0}
    clock.advance(3600)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1), reservation_id="c").result()
    assert ledger.status(ACME).overrides == ()
    assert [e.detail["state"] for e in ledger.history(ACME) if e.kind == "override"] == [
        "approved",
        "requested",
    ]
    assert ledger.verify().ok


def test_an_override_can_be_denied_and_revoked(ledger: Ledger, clock: ManualClock) -> None:
    """What is denied never counts, what is revoked no longer; each is decided once."""
    ledger.request_override(override(clock, "amount", amount=100)).result()
    assert ledger.decide_override("o", approve=False, decider="bob").result().state == "denied"
    for again in (
        ledger.decide_override("o", approve=True, decider="bob"),
        ledger.revoke_override("o", author="bob"),
    ):
        assert isinstance(again.exception(), RequestMalformed)
    assert isinstance(ledger.revoke_override("nothing", author="bob").exception(), NotFound)
    assert [one.state for one in ledger.overrides()] == ["denied"]
    assert ledger.verify().ok


def test_a_revoked_override_ends_at_once(ledger: Ledger, clock: ManualClock) -> None:
    """Nothing new is admitted on it; what was admitted stays."""
    ledger.record(ACME, 1000).result()
    ledger.request_override(override(clock, "amount", amount=100)).result()
    ledger.decide_override("o", approve=True, decider="bob").result()
    ledger.reserve(asks(60), reservation_id="a").result()
    ledger.revoke_override("o", author="carol").result()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1), reservation_id="b").result()
    assert ledger.settle("a", Usage(60, 0)).result().charged == 60


def test_an_emergency_is_for_critical_requests_within_its_ceiling(ledger: Ledger, clock: ManualClock) -> None:
    """It is in force at once, but bounded in amount and time, and only critical requests may use it."""
    ledger.record(ACME, 1000).result()
    for wrong in (
        override(clock, "emergency", amount=101),
        override(clock, "emergency", amount=100, hours=4.1),
        override(clock, "emergency", SEARCH, amount=1),
    ):
        assert isinstance(ledger.request_override(wrong).exception(), RequestMalformed)
    given = ledger.request_override(override(clock, "emergency", amount=100)).result()
    assert (given.state, given.approver) == ("approved", None)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1), reservation_id="plain").result()
    ledger.reserve(asks(100, priority="critical"), reservation_id="critical").result()
    assert ledger.verify().ok


@pytest.mark.parametrize(
    ("kind", "scope", "amount", "hours"),
    [
        ("amount", ACME, 0, 1.0),
        ("amount", SEARCH, 10, 1.0),
        ("amount", ACME, 10, 0.0),
        ("approval", ACME, 0, -1.0),
    ],
)
def test_senseless_overrides_are_refused(
    ledger: Ledger, clock: ManualClock, kind: OverrideKind, scope: Scope, amount: int, hours: float
) -> None:
    """Nothing to give, no limit to exceed, or an end that has passed."""
    asked = override(clock, kind, scope, amount=amount, hours=hours)
    assert isinstance(ledger.request_override(asked).exception(), RequestMalformed)
