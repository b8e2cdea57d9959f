"""Holds that outside callers have, and requests that are made twice."""

from datetime import timedelta

import pytest

from tests.unit.budgets.stores import bury_owners, ledger_on
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Idempotency
from trivet.domain.clock import ManualClock
from trivet.domain.errors import (
    IdempotencyCompleted,
    IdempotencyInFlight,
    IdempotencyMismatch,
)
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database
from trivet.storage.instants import ns_of

ACME = Scope("acme")
A_HUNDRED_YEARS_S = 3.2e9
"""Longer than any clock may differ: replicas on PostgreSQL go by its own."""


def outside(clock: ManualClock, tokens: int, seconds: float) -> Hold:
    """Return a hold that must be reported within so many seconds."""
    until = clock.now() + timedelta(seconds=seconds)
    return Hold(scope=ACME, prompt=Amounts(tokens, tokens), expires_at_ns=ns_of(until))


def keyed(key: str, fingerprint: str = "f") -> Hold:
    """Return a hold with an idempotency key."""
    return Hold(scope=ACME, prompt=Amounts(10, 10), idempotency=Idempotency(key, fingerprint))


def test_what_is_not_reported_in_time_is_charged(ledger: Ledger, clock: ManualClock) -> None:
    """A hold whose time has passed is charged in full; the truth, when it comes, is a correction."""
    assert ledger.reserve(outside(clock, 100, 60), reservation_id="r").result().expires_at_ns is not None
    ledger.reserve(Hold.of_tokens(ACME, 5), reservation_id="inside").result()
    assert ledger.expire().result() == 0
    clock.advance(60)
    assert ledger.expire().result() == 1
    assert [(row.used, row.held) for row in ledger.rows(ACME)] == [(100, 5)] * 2
    assert ledger.settle("r", Usage(30, 0)).result().charged == 30
    assert ledger.expire().result() == 0
    assert ledger.verify().ok


def test_a_restart_leaves_outside_holds_alone(database: Database, ledger: Ledger, clock: ManualClock) -> None:
    """A dead server does not end what a living caller holds, unless its time has passed."""
    ledger.reserve(outside(clock, 100, 60), reservation_id="short").result()
    ledger.reserve(outside(clock, 10, A_HUNDRED_YEARS_S), reservation_id="long").result()
    clock.advance(61)
    bury_owners(database)
    again = ledger_on(database, BudgetSettings(default_daily_tokens=1000), clock)
    assert again.recover() == 1
    assert [(row.used, row.held) for row in again.rows(ACME)] == [(100, 10)] * 2
    assert again.settle("long", Usage(1, 0)).result().state == "settled"


def test_a_key_stands_for_one_request(ledger: Ledger, clock: ManualClock) -> None:
    """While it runs: in flight. Another content: mismatch. Charged: completed, with the usage."""
    ledger.reserve(keyed("k"), reservation_id="a").result()
    with pytest.raises(IdempotencyInFlight):
        ledger.reserve(keyed("k"), reservation_id="b").result()
    with pytest.raises(IdempotencyMismatch):
        ledger.reserve(keyed("k", "other"), reservation_id="c").result()
    ledger.settle("a", Usage(3, 4)).result()
    with pytest.raises(IdempotencyCompleted) as refused:
        ledger.reserve(keyed("k"), reservation_id="d").result()
    assert refused.value.details["usage"] == {"tokens": 7, "weighted_tokens": 7, "usd_micros": 0}
    clock.advance(86401)
    ledger.expire().result()
    ledger.reserve(keyed("k", "other"), reservation_id="e").result()


def test_what_was_given_back_may_be_tried_again(ledger: Ledger) -> None:
    """A request that no engine worked for was not answered: the same key serves it once more."""
    ledger.reserve(keyed("k"), reservation_id="a").result()
    ledger.release("a").result()
    ledger.reserve(keyed("k"), reservation_id="b").result()
    with pytest.raises(IdempotencyInFlight):
        ledger.reserve(keyed("k"), reservation_id="c").result()


def test_a_refused_hold_uses_no_key(ledger: Ledger) -> None:
    """What was refused was not made: its key is free."""
    ledger.record(ACME, 1000).result()
    assert ledger.reserve(keyed("k"), reservation_id="a").exception() is not None
    ledger.set_limit(ACME, "daily", 2000, author="me").result()
    ledger.reserve(keyed("k", "other"), reservation_id="b").result()


def test_keys_of_others_are_others(ledger: Ledger) -> None:
    """Two scopes that happen to use the same key do not meet."""
    ledger.reserve(keyed("k"), reservation_id="a").result()
    other = Hold(scope=Scope("globex"), prompt=Amounts(1, 1), idempotency=Idempotency("k", "other"))
    ledger.reserve(other, reservation_id="b").result()
