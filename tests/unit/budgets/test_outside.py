"""Holds of outside callers, on every store: taken once, by whoever comes first, whatever process that is."""

from datetime import timedelta

import pytest

from trivet.budgets import Ledger
from trivet.budgets.outside import OutsideCall, OutsideCalls
from trivet.domain.budgets import Amounts, Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import DecisionSpent
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.instants import ns_of

ANA = Scope("acme.search.ana")
FACTS = {"model": "auto", "held": {"tokens": 100}}


@pytest.fixture
def calls(database: Database, clock: ManualClock) -> OutsideCalls:
    """Give what was given out: nothing yet."""
    return OutsideCalls(database, clock)


def give(ledger: Ledger, calls: OutsideCalls, clock: ManualClock, name: str, lifetime_s: float = 600) -> None:
    """Hold 100 tokens for an outside caller."""
    expires_ns = ns_of(clock.now() + timedelta(seconds=lifetime_s))
    hold = Hold(scope=ANA, prompt=Amounts(100, 100), expires_at_ns=expires_ns, decision_id=name)
    ledger.reserve(hold, reservation_id=name).result()
    calls.keep(OutsideCall(decision_id=name, scope=ANA, key_id="k", facts=FACTS)).result()


def later(clock: ManualClock, seconds: float) -> int:
    """Return an instant ahead."""
    return ns_of(clock.now() + timedelta(seconds=seconds))


async def test_what_was_given_out_is_found_again(
    database: Database, ledger: Ledger, calls: OutsideCalls, clock: ManualClock
) -> None:
    """By another process, too; what was never given out is not; after a week it is forgotten."""
    give(ledger, calls, clock, "d-1")
    found = await OutsideCalls(database, clock).find("d-1")
    assert found == OutsideCall(decision_id="d-1", scope=ANA, key_id="k", facts=FACTS)
    assert await calls.find("d-2") is None
    calls.prune().result()
    assert await calls.find("d-1") is not None
    clock.advance(7 * 24 * 3600 + 1)
    calls.prune().result()
    assert await calls.find("d-1") is None


def test_it_is_executed_once_and_then_not_reported(
    database: Database, ledger: Ledger, calls: OutsideCalls, clock: ManualClock
) -> None:
    """Of two that want to execute it one does; a report in the midst, or after it, is refused."""
    give(ledger, calls, clock, "d-1")
    other = OutsideCalls(database, clock)
    calls.take_to_execute("d-1", until_ns=later(clock, 3600)).result()
    for refused in (other.take_to_execute("d-1", until_ns=later(clock, 60)), other.take_to_report("d-1")):
        with pytest.raises(DecisionSpent, match="is being executed"):
            refused.result()
    ledger.settle("d-1", Usage(10, 10)).result()
    with pytest.raises(DecisionSpent, match="was reported or executed"):
        other.take_to_report("d-1").result()


def test_what_is_reported_may_be_reported_again_but_not_executed(
    ledger: Ledger, calls: OutsideCalls, clock: ManualClock
) -> None:
    """A report whose answer was lost can be repeated."""
    give(ledger, calls, clock, "d-1")
    calls.take_to_report("d-1").result()
    calls.take_to_report("d-1").result()
    with pytest.raises(DecisionSpent):
        calls.take_to_execute("d-1", until_ns=later(clock, 60)).result()


def test_nobody_executes_what_has_run_out(ledger: Ledger, calls: OutsideCalls, clock: ManualClock) -> None:
    """Neither before the sweep nor after it; a report still can be made, and a refusal took nothing."""
    give(ledger, calls, clock, "d-1", lifetime_s=1)
    clock.advance(2)
    with pytest.raises(DecisionSpent, match="has run out"):
        calls.take_to_execute("d-1", until_ns=later(clock, 60)).result()
    ledger.expire().result()
    with pytest.raises(DecisionSpent, match="was charged"):
        calls.take_to_execute("d-1", until_ns=later(clock, 60)).result()
    calls.take_to_report("d-1").result()
    assert ledger.settle("d-1", Usage(3, 4)).result().charged == 7
    assert ledger.verify().as_json()["ok"]


def test_what_is_executed_does_not_run_out_meanwhile(
    ledger: Ledger, calls: OutsideCalls, clock: ManualClock
) -> None:
    """Taking it moves its end: the sweep leaves it alone, and the truth is charged, not the ceiling."""
    give(ledger, calls, clock, "d-1", lifetime_s=10)
    calls.take_to_execute("d-1", until_ns=later(clock, 300)).result()
    clock.advance(100)
    assert ledger.expire().result() == 0
    assert ledger.settle("d-1", Usage(5, 5)).result().charged == 10
    assert ledger.verify().as_json()["ok"]
