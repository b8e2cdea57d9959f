"""What attempts before the last one owe: an entry each, one sum, one hold, on either store."""

from datetime import timedelta

import pytest

from trivet.budgets import Ledger
from trivet.budgets.history import EntryRecord
from trivet.domain.budgets import Amounts, Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import RequestMalformed
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage.instants import ns_of

ANA = Scope("acme.search.ana")
LAST = Amounts(70, 140, 9)


def left(name: str, tokens: int, weight: int = 1) -> AttemptCharge:
    """Return an attempt whose engine read a prompt and then fell silent."""
    return AttemptCharge(
        attempt_id=name,
        deployment=f"{name}-engine",
        tier="light",
        usage=Usage(tokens, 0, "ceiling"),
        charged=Amounts(tokens, tokens * weight, tokens // 10),
    )


def entries_of(ledger: Ledger) -> list[EntryRecord]:
    """Return the entries of the reservation, the first one first."""
    return [entry for entry in reversed(ledger.history(ANA)) if entry.reservation_id == "r"]


def hold(ledger: Ledger, tokens: int = 200, *, until_ns: int | None = None) -> None:
    """Hold what the tests settle."""
    asked = Hold(scope=ANA, prompt=Amounts(tokens, 3 * tokens, tokens), expires_at_ns=until_ns)
    ledger.reserve(asked, reservation_id="r").result()


def test_each_attempt_has_its_own_entry(ledger: Ledger) -> None:
    """They stand before the settlement's, at their own tariff; it gives the whole hold back."""
    hold(ledger)
    earlier = [left("first", 30), left("second", 20, weight=3)]
    settlement = ledger.settle("r", Usage(50, 20), LAST, earlier=earlier).result()
    assert (settlement.charged, settlement.charged_amounts) == (120, Amounts(120, 230, 14))
    assert (settlement.overrun, settlement.remaining) == (0, 880)
    reserved, first, second, last = entries_of(ledger)
    assert [entry.kind for entry in (reserved, first, second, last)] == [
        "reserve",
        "attempt",
        "attempt",
        "settle",
    ]
    assert [entry.used for entry in (first, second, last)] == [
        Amounts(30, 30, 3),
        Amounts(20, 60, 2),
        LAST,
    ]
    assert [entry.held for entry in (first, second, last)] == [
        Amounts(),
        Amounts(),
        Amounts(-200, -600, -200),
    ]
    assert first.detail == {
        "attempt_id": "first",
        "deployment": "first-engine",
        "tier": "light",
        "prompt_tokens": 30,
        "completion_tokens": 0,
        "cached_tokens": 0,
        "source": "ceiling",
    }
    assert {(row.used, row.held) for row in ledger.rows()} == {(120, 0)}
    assert ledger.verify().ok


def test_a_repeated_settlement_charges_nothing_again(ledger: Ledger) -> None:
    """The first one counts, with its sum."""
    hold(ledger)
    first = ledger.settle("r", Usage(50, 20), LAST, earlier=[left("a", 30)]).result()
    again = ledger.settle("r", Usage(50, 20), LAST, earlier=[left("a", 30), left("b", 30)]).result()
    assert first.charged == again.charged == 100
    assert len(entries_of(ledger)) == 3
    assert {row.used for row in ledger.rows()} == {100}


def test_a_sum_beyond_the_hold_is_an_overrun(ledger: Ledger) -> None:
    """Flagged on the settlement's entry, on every meter in the answer."""
    hold(ledger, 80)
    settlement = ledger.settle("r", Usage(50, 20), LAST, earlier=[left("a", 30, weight=5)]).result()
    assert (settlement.charged, settlement.overrun) == (100, 20)
    assert settlement.overrun_amounts == Amounts(20, 50, 0)
    assert [entry.overrun for entry in entries_of(ledger)] == [0, 0, 20]
    assert (ledger.overruns(), ledger.verify().ok) == (20, True)


def test_late_truth_of_several_attempts(ledger: Ledger, clock: ManualClock) -> None:
    """Of a hold that was charged on expiry the difference to the sum is corrected."""
    until_ns = ns_of(clock.now() + timedelta(minutes=1))
    hold(ledger, 200, until_ns=until_ns)
    clock.advance(120)
    assert ledger.expire().result() == 1
    settlement = ledger.settle("r", Usage(50, 20), LAST, earlier=[left("a", 30)]).result()
    assert settlement.charged == 100
    assert [(entry.kind, entry.used.tokens) for entry in entries_of(ledger)] == [
        ("reserve", 0),
        ("expire", 200),
        ("attempt", 30),
        ("correct", -130),
    ]
    assert {row.used for row in ledger.rows()} == {100}
    assert ledger.verify().ok


def test_a_threshold_looks_at_the_sum(ledger: Ledger) -> None:
    """The 50 % of a day are passed by attempts and settlement together, once."""
    hold(ledger, 600)
    ledger.settle("r", Usage(200, 100), Amounts(300, 300), earlier=[left("a", 250)]).result()
    assert [(alert.threshold, alert.used) for alert in ledger.alerts(Scope("acme"))] == [(50, 550)]


def test_requests_remaining_counts_requests(ledger: Ledger, clock: ManualClock) -> None:
    """What a request costs in the mean is the sum of its attempts; the burn rate has all of it."""
    ledger.set_limit(ANA, "daily", 1000, author="me").result()
    hold(ledger)
    ledger.settle("r", Usage(50, 20), Amounts(70, 70), earlier=[left("a", 30)]).result()
    clock.advance(60)
    status = ledger.status(ANA)
    assert (status.requests_remaining, status.burn_rate_per_hour) == (9, 100.0)


def test_a_senseless_attempt_charges_nothing(ledger: Ledger) -> None:
    """A negative charge is refused, and the hold stays open."""
    hold(ledger)
    refused = ledger.settle("r", Usage(1, 1), LAST, earlier=[left("a", -5)])
    with pytest.raises(RequestMalformed):
        refused.result()
    assert {row.held for row in ledger.rows()} == {200}
