"""Limits of every meter and kind, clamps, priorities: the rules that go beyond plain tokens."""

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from tests.unit.budgets.stores import ledger_on
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Idempotency
from trivet.domain.clock import ManualClock
from trivet.domain.errors import (
    BudgetContended,
    BudgetExhausted,
    IdempotencyInFlight,
    PriceUnknown,
    RequestMalformed,
    RequestTooLarge,
)
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database

ACME, SEARCH = Scope("acme"), Scope("acme.search")


def asks(prompt: int, output: int, least: int | None = None, **rest: object) -> Hold:
    """Return a hold of weight 2 that may be cut down to `least` output tokens."""
    return Hold(
        scope=SEARCH,
        prompt=Amounts(prompt, 2 * prompt),
        output=Amounts(output, 2 * output),
        max_output=output,
        min_output=output if least is None else least,
        **rest,  # type: ignore[arg-type]
    )


def rows(ledger: Ledger, scope: Scope = ACME) -> dict[tuple[str, str], tuple[int, int]]:
    """Return used and held by meter and window."""
    return {(row.meter, row.window): (row.used, row.held) for row in ledger.rows(scope) if row.scope == scope}


def test_the_output_is_cut_down_to_what_fits(ledger: Ledger) -> None:
    """With little left the largest output that fits is granted, and exactly that is held."""
    ledger.record(ACME, 800).result()
    granted = ledger.reserve(asks(100, 500, 50), reservation_id="r").result()
    assert (granted.max_output, granted.clamped, granted.amount, granted.remaining) == (100, True, 200, 0)
    assert rows(ledger)["tokens", "daily"] == (800, 200)


def test_too_little_for_the_least_output_is_exhausted(ledger: Ledger) -> None:
    """Below the least useful output nothing is granted, and the refusal says what would fit."""
    ledger.record(ACME, 860).result()
    with pytest.raises(BudgetExhausted) as refused:
        ledger.reserve(asks(100, 500, 50), reservation_id="r").result()
    assert refused.value.details["largest_max_tokens"] == 40
    assert refused.value.details["still_works"] == ["max_tokens of at most 40"]


def test_who_can_wait_is_not_cut_down_for_others_holds(ledger: Ledger) -> None:
    """If the whole will fit when holds settle, a caller that waits is contended; one that will not is cut."""
    ledger.reserve(Hold.of_tokens(ACME, 800), reservation_id="others").result()
    future = ledger.reserve(asks(100, 500, 50), reservation_id="waits", final=False)
    assert isinstance(future.exception(), BudgetContended)
    assert ledger.reserve(asks(100, 500, 50), reservation_id="final").result().max_output == 100


def test_too_large_names_the_largest_output(ledger: Ledger) -> None:
    """A request beyond the whole limit is told which max_tokens would be accepted."""
    with pytest.raises(RequestTooLarge) as refused:
        ledger.reserve(asks(100, 5000), reservation_id="r").result()
    assert refused.value.details["largest_max_tokens"] == 900
    assert "max_tokens of at most 900" in str(refused.value)


def test_the_strictest_meter_wins(ledger: Ledger) -> None:
    """A limit of weighted tokens binds although plain tokens would fit, and cuts the output accordingly."""
    ledger.set_limit(ACME, "daily", 400, author="me", meter="weighted_tokens").result()
    granted = ledger.reserve(asks(100, 500, 10), reservation_id="r").result()
    assert (granted.max_output, granted.amounts) == (100, Amounts(200, 400))
    assert rows(ledger)["weighted_tokens", "daily"] == (0, 400)
    settlement = ledger.settle("r", Usage(50, 50), Amounts(100, 200, 7)).result()
    assert settlement.charged_amounts == Amounts(100, 200, 7)
    assert rows(ledger)["weighted_tokens", "daily"] == (200, 0)


def test_a_charge_without_amounts_is_as_the_hold_weighed(ledger: Ledger) -> None:
    """Where only tokens are known, the other meters follow in proportion, rounded up."""
    hold = Hold(scope=ACME, prompt=Amounts(30, 100, 10))
    ledger.reserve(hold, reservation_id="r").result()
    assert ledger.settle("r", Usage(10, 0)).result().charged_amounts == Amounts(10, 34, 4)


def test_an_overrun_on_any_meter_is_logged(ledger: Ledger) -> None:
    """A charge that is dearer than its hold, though no longer, is reported too."""
    ledger.reserve(Hold(scope=ACME, prompt=Amounts(30, 30)), reservation_id="r").result()
    with capture_logs() as logs:
        settlement = ledger.settle("r", Usage(10, 0), Amounts(10, 90)).result()
        ledger.note(lambda _: None).result()
    assert (settlement.overrun, settlement.overrun_amounts) == (0, Amounts(0, 60))
    assert [(log["event"], log["overrun_weighted"]) for log in logs] == [("budget.overrun", 60)]


def test_each_request_stays_within_its_own_cap(ledger: Ledger) -> None:
    """A request limit needs no counter; beyond it is too large, and the output is cut down to it."""
    ledger.set_limit(SEARCH, "request", 150, author="me").result()
    assert ledger.reserve(asks(100, 500, 50), reservation_id="cut").result().amount == 150
    with pytest.raises(RequestTooLarge) as refused:
        ledger.reserve(asks(100, 51), reservation_id="r").result()
    facts = {key: refused.value.details[key] for key in ("window", "limit", "resets_at")}
    assert facts == {"window": "request", "limit": 150, "resets_at": None}
    assert ledger.status(SEARCH).as_json()["caps"] == [
        {"scope": "acme.search", "meter": "tokens", "window": "request", "limit": 150}
    ]
    assert ledger.verify().ok


def test_a_task_is_limited_on_its_own(ledger: Ledger) -> None:
    """A limit by task counts each task apart, over any time; sessions likewise; others are not counted."""
    ledger.set_limit(ACME, "task", 100, author="me").result()
    ledger.set_limit(SEARCH, "session", 60, author="me").result()
    ledger.reserve(asks(60, 0, task="t1", session="s1"), reservation_id="a").result()
    ledger.settle("a", Usage(60, 0)).result()
    with pytest.raises(BudgetExhausted) as refused:
        ledger.reserve(asks(41, 0, task="t1"), reservation_id="b").result()
    assert (refused.value.details["window"], refused.value.details["subject"]) == ("task", "t1")
    assert refused.value.retry_after_s is None
    ledger.reserve(asks(41, 0, task="t2"), reservation_id="c").result()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1, 0, session="s1"), reservation_id="d").result()
    ledger.reserve(asks(200, 0), reservation_id="e").result()
    assert ledger.verify().ok


@pytest.mark.parametrize("subject", ["", "x" * 201, "two\nlines"])
def test_senseless_subjects_are_refused(ledger: Ledger, subject: str) -> None:
    """A task's id is a short printable text."""
    with pytest.raises(RequestMalformed):
        ledger.reserve(asks(1, 0, task=subject), reservation_id="r").result()


def test_critical_requests_have_their_own_bounded_allowance(ledger: Ledger) -> None:
    """Beyond the limit only critical requests pass, and only up to the allowance."""
    ledger.set_limit(ACME, "daily", 100, author="me", allowance=20).result()
    ledger.record(ACME, 100).result()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1, 0), reservation_id="plain").result()
    ledger.reserve(asks(20, 0, priority="critical"), reservation_id="critical").result()
    with pytest.raises(BudgetContended):
        ledger.reserve(asks(1, 0, priority="critical"), reservation_id="more").result()
    ledger.settle("critical", Usage(20, 0)).result()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(asks(1, 0, priority="critical"), reservation_id="more").result()
    assert ledger.verify().ok


def test_a_limit_on_what_was_not_counted_counts_from_the_windows_start(
    ledger: Ledger, clock: ManualClock
) -> None:
    """Setting a weekly limit takes in what the week has used and holds; what is open adopts the counter."""
    ledger.reserve(asks(30, 0), reservation_id="settled").result()
    ledger.settle("settled", Usage(20, 0)).result()
    ledger.record(ACME, 7).result()
    ledger.reserve(asks(40, 0), reservation_id="open").result()
    ledger.set_limit(ACME, "weekly", 100, author="me").result()
    assert rows(ledger)["tokens", "weekly"] == (27, 40)
    ledger.set_limit(SEARCH, "total", 100, author="me", meter="weighted_tokens").result()
    assert rows(ledger, SEARCH)["weighted_tokens", "total"] == (40, 80)
    with pytest.raises(BudgetContended):
        ledger.reserve(Hold.of_tokens(ACME, 34), reservation_id="r").result()
    ledger.settle("open", Usage(10, 0)).result()
    assert rows(ledger)["tokens", "weekly"] == (37, 0)
    assert ledger.verify().ok
    clock.advance(7 * 86400)
    assert rows(ledger)["tokens", "weekly"] == (0, 0)
    assert rows(ledger, SEARCH)["weighted_tokens", "total"] == (60, 0)


def test_a_limit_that_comes_back_takes_in_what_passed_by(ledger: Ledger) -> None:
    """Between a limit's removal and its return nothing is lost, and nothing is counted twice."""
    ledger.set_limit(ACME, "weekly", 500, author="me").result()
    ledger.record(ACME, 100).result()
    ledger.reserve(Hold.of_tokens(ACME, 10), reservation_id="before").result()
    ledger.clear_limit(ACME, "weekly", author="me").result()
    ledger.record(ACME, 50).result()
    ledger.reserve(Hold.of_tokens(ACME, 5), reservation_id="between").result()
    ledger.set_limit(ACME, "weekly", 500, author="me").result()
    ledger.set_limit(ACME, "weekly", 400, author="me").result()
    assert rows(ledger)["tokens", "weekly"] == (150, 15)
    ledger.clear_limit(ACME, "weekly", author="me").result()
    ledger.set_limit(ACME, "weekly", 500, author="me").result()
    assert rows(ledger)["tokens", "weekly"] == (150, 15)
    ledger.settle("before", Usage(1, 0)).result()
    ledger.settle("between", Usage(1, 0)).result()
    assert rows(ledger)["tokens", "weekly"] == (152, 0)
    assert ledger.verify().ok


def test_a_hold_moves_to_another_tier_whole_or_not_at_all(ledger: Ledger) -> None:
    """Reweighting holds the new amounts on all rows; where they do not fit the hold stays."""
    ledger.set_limit(ACME, "daily", 300, author="me", meter="weighted_tokens").result()
    ledger.reserve(asks(50, 50), reservation_id="r").result()
    moved = ledger.reweight("r", Amounts(50, 150), Amounts(50, 150)).result()
    assert (moved.amounts, moved.max_output) == (Amounts(100, 300), 50)
    with pytest.raises(RequestTooLarge):
        ledger.reweight("r", Amounts(50, 500), Amounts(50, 500)).result()
    assert rows(ledger)["weighted_tokens", "daily"] == (0, 300)
    ledger.reweight("r", Amounts(50, 50), Amounts(50, 50)).result()
    assert rows(ledger)["weighted_tokens", "daily"] == (0, 100)
    ledger.settle("r", Usage(50, 10), Amounts(60, 60)).result()
    with pytest.raises(RequestMalformed):
        ledger.reweight("r", Amounts(1), Amounts()).result()
    assert [entry.kind for entry in ledger.history(ACME)][:3] == ["settle", "reweight", "reweight"]
    assert ledger.verify().ok


def test_a_tenants_calendar_has_its_zone(database: Database) -> None:
    """An organisation's zone applies from the next window, to it alone, and survives a restart."""
    clock = ManualClock(datetime(2026, 3, 2, 12, tzinfo=UTC))
    plain = BudgetSettings(default_daily_tokens=1000)
    ledger = ledger_on(database, plain, clock)
    ledger.record(ACME, 10).result()
    ledger.record(Scope("globex"), 10).result()
    ledger.set_time_zone(ACME, "Asia/Tokyo", author="me").result()
    resets = {row.window: row.resets_at for row in ledger.rows(ACME)}
    assert resets["daily"] == datetime(2026, 3, 3, tzinfo=UTC)
    clock.advance(86400)
    for opened in (ledger, ledger_on(database, plain, clock)):
        ends = {row.scope: row.resets_at for row in opened.rows() if row.window == "daily"}
        assert ends == {
            ACME: datetime(2026, 3, 3, 15, tzinfo=UTC),
            "globex": datetime(2026, 3, 4, tzinfo=UTC),
        }
    assert ledger.verify().ok


@pytest.mark.parametrize(
    ("scope", "zone"), [("acme.search", "UTC"), ("acme", "Mars/Olympus"), ("acme", "../etc")]
)
def test_only_organisations_have_a_calendar_and_only_real_zones(
    ledger: Ledger, scope: str, zone: str
) -> None:
    """A team's zone, or one that does not exist, is refused."""
    with pytest.raises(RequestMalformed):
        ledger.set_time_zone(Scope(scope), zone, author="me").result()


def test_a_week_begins_on_monday(ledger: Ledger) -> None:
    """2026 began on a Thursday; its first week began on the Monday before."""
    ledger.set_limit(ACME, "weekly", 1, author="me").result()
    (row,) = [row for row in ledger.rows(ACME) if row.window == "weekly"]
    assert (row.window_start.isoformat(), row.resets_at) == (
        "2025-12-29T00:00:00+00:00",
        datetime(2026, 1, 5, tzinfo=UTC),
    )


def test_a_total_never_resets(ledger: Ledger, clock: ManualClock) -> None:
    """What is given for ever has no reset, and no Retry-After that would promise one."""
    ledger.set_limit(ACME, "total", 10, author="me").result()
    ledger.record(ACME, 10).result()
    clock.advance(400 * 86400)
    with pytest.raises(BudgetExhausted) as refused:
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()
    assert (refused.value.details["resets_at"], refused.value.retry_after_s) == (None, None)
    assert ledger.status(ACME).status == "exhausted"


def test_a_late_truth_reaches_a_counter_that_was_opened_after_the_expiry(ledger: Ledger) -> None:
    """What was charged in full on expiry, and then counted in, is corrected there too."""
    hold = Hold(scope=ACME, prompt=Amounts(100, 100), expires_at_ns=1)
    ledger.reserve(hold, reservation_id="r").result()
    assert ledger.expire().result() == 1
    ledger.set_limit(ACME, "weekly", 500, author="me").result()
    assert rows(ledger)["tokens", "weekly"] == (100, 0)
    ledger.settle("r", Usage(30, 0)).result()
    assert rows(ledger)["tokens", "weekly"] == (30, 0)
    assert ledger.verify().ok


def test_no_model_of_unknown_price_where_dollars_are_limited(ledger: Ledger) -> None:
    """Without a limit in dollars it is held as if free; with one, on any level, it is refused as such."""
    free = ledger.reserve(asks(10, 10, unpriced=True), reservation_id="free").result()
    assert not free.dollars_limited
    ledger.set_limit(ACME, "monthly", 5_000_000, author="me", meter="usd_micros").result()
    with pytest.raises(PriceUnknown) as refused:
        ledger.reserve(asks(10, 10, unpriced=True, tier="cloud"), reservation_id="dear").result()
    assert refused.value.details["scope"] == ACME
    assert refused.value.details["window"] == "monthly"
    assert ledger.reserve(asks(10, 10), reservation_id="known").result().dollars_limited
    assert rows(ledger)["tokens", "daily"] == (0, 40)
    assert ledger.verify().ok


def test_a_cap_on_a_request_binds_when_it_is_weighed_anew(ledger: Ledger) -> None:
    """A dearer tier may not lift a request above its own cap; what does not grow is not in the way."""
    ledger.set_limit(ACME, "request", 100, author="me", meter="weighted_tokens").result()
    ledger.reserve(Hold(scope=SEARCH, prompt=Amounts(50, 60)), reservation_id="r").result()
    with pytest.raises(BudgetContended):
        ledger.reweight("r", Amounts(50, 101), Amounts()).result()
    assert ledger.reweight("r", Amounts(50, 100), Amounts()).result().amounts == Amounts(50, 100)
    ledger.set_limit(ACME, "request", 80, author="me", meter="weighted_tokens").result()
    assert ledger.reweight("r", Amounts(50, 90), Amounts()).result().amounts == Amounts(50, 90)


def test_no_output_tokens_have_no_amounts(ledger: Ledger) -> None:
    """What is held for the output always shrinks with it; else a clamp to nothing would hold all of it."""
    hold = Hold(scope=ACME, prompt=Amounts(50, 50), output=Amounts(5000, 5000))
    with pytest.raises(RequestMalformed):
        ledger.reserve(hold, reservation_id="r").result()


def test_a_hold_with_an_idempotency_key_can_be_asked_for_again(ledger: Ledger) -> None:
    """Asking again by the same id, as after a lost connection, repeats no request: it is the same hold."""
    hold = asks(10, 20, idempotency=Idempotency("key", "digest"))
    first = ledger.reserve(hold, reservation_id="r").result()
    assert ledger.reserve(hold, reservation_id="r").result() == first
    with pytest.raises(IdempotencyInFlight):
        ledger.reserve(hold, reservation_id="another").result()
    assert rows(ledger)["tokens", "daily"] == (0, 30)


def test_what_becomes_of_keys_is_proven(ledger: Ledger) -> None:
    """Entries about keys stand in a chain of their own, by the scope of the key, and change no budget."""
    ledger.record(SEARCH, 5).result()
    before = ledger.rows()
    for scope, event in ((SEARCH, "created"), (Scope("acme_x"), "created"), (SEARCH, "revoked")):
        ledger.enter_key(scope, event, author="ana", key_id="k").result()
    found = ledger.key_changes(ACME)
    assert [(e.scope, e.kind, e.detail["event"]) for e in found] == [
        (SEARCH, "key", "revoked"),
        (SEARCH, "key", "created"),
    ]
    assert [e.seq for e in ledger.key_changes(None, before=found[0].seq)][1:] == [found[1].seq]
    assert (ledger.rows(), ledger.rule_changes(None)) == (before, [])
    assert ledger.verify().ok
