"""The ledger's rules, one at a time."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.counts import scaled
from tests.unit.budgets.stores import bury_owners, ledger_on
from trivet.budgets import Ledger
from trivet.budgets.rows import LARGEST_AMOUNT
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Settlement
from trivet.domain.clock import ManualClock
from trivet.domain.errors import (
    BudgetContended,
    BudgetExhausted,
    NotFound,
    RequestMalformed,
    RequestTooLarge,
    StoreError,
    StoreUnavailable,
)
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.writes import Writes

ACME, SEARCH, ANA = Scope("acme"), Scope("acme.search"), Scope("acme.search.ana")


def used(total: int) -> Usage:
    """Return a usage of so many tokens."""
    return Usage(total // 2, total - total // 2)


def told(settlement: Settlement) -> tuple[str, str, int, int | None, int]:
    """Return a settlement in short: id, state, charged, remaining, overrun; in tokens."""
    assert settlement.charged_amounts.tokens == settlement.charged
    return (
        settlement.reservation_id,
        settlement.state,
        settlement.charged,
        settlement.remaining,
        settlement.overrun,
    )


def standing(ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Return used and held of every current daily row."""
    return {row.scope: (row.used, row.held) for row in ledger.rows() if row.window == "daily"}


def test_a_hold_lies_on_every_scope_and_window(ledger: Ledger) -> None:
    """A reservation holds on its scope and all above, for the day and for the month, limited or not."""
    reservation = ledger.reserve(Hold.of_tokens(ANA, 100), reservation_id="r").result()
    assert (reservation.scope, reservation.amount, reservation.remaining) == (ANA, 100, 900)
    assert reservation.amounts == Amounts(100, 100)
    assert [(row.scope, row.window, row.held, row.limit) for row in ledger.rows()] == [
        ("acme", "daily", 100, 1000),
        ("acme", "monthly", 100, 10_000),
        ("acme.search", "daily", 100, None),
        ("acme.search", "monthly", 100, None),
        ("acme.search.ana", "daily", 100, None),
        ("acme.search.ana", "monthly", 100, None),
    ]


def test_settling_replaces_the_hold(ledger: Ledger) -> None:
    """A settlement charges what was used and frees the rest."""
    ledger.reserve(Hold.of_tokens(ANA, 100), reservation_id="r").result()
    assert told(ledger.settle("r", Usage(10, 20)).result()) == ("r", "settled", 30, 970, 0)
    assert standing(ledger) == dict.fromkeys((ACME, SEARCH, ANA), (30, 0))


def test_releasing_charges_nothing(ledger: Ledger) -> None:
    """A release frees the whole hold."""
    ledger.reserve(Hold.of_tokens(ANA, 100), reservation_id="r").result()
    assert told(ledger.release("r").result()) == ("r", "released", 0, 1000, 0)
    assert standing(ledger) == dict.fromkeys((ACME, SEARCH, ANA), (0, 0))


def test_a_hold_ends_once(ledger: Ledger) -> None:
    """Whatever is asked of a hold that has ended, the first settlement is the answer and nothing changes."""
    ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    first = ledger.settle("r", used(30)).result()
    ledger.record(ACME, 5).result()
    again = [ledger.settle("r", used(99)), ledger.release("r"), ledger.settle("r", used(30))]
    assert [future.result() for future in again] == [first] * 3
    assert standing(ledger) == {ACME: (35, 0)}


def test_reserving_again_is_the_same_hold(ledger: Ledger) -> None:
    """The same id, scope and amount hold once; the answer tells the present room."""
    first = ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    assert ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result() == first
    assert standing(ledger) == {ACME: (0, 100)}


def test_an_id_stands_for_one_hold(ledger: Ledger) -> None:
    """An id that holds something else, or has ended, is refused."""
    ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    for scope, amount in ((ACME, 101), (SEARCH, 100)):
        with pytest.raises(RequestMalformed):
            ledger.reserve(Hold.of_tokens(scope, amount), reservation_id="r").result()
    ledger.release("r").result()
    with pytest.raises(RequestMalformed, match="released"):
        ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()


def test_what_was_never_held_cannot_end(ledger: Ledger) -> None:
    """Settling or releasing an unknown id is not found."""
    for future in (ledger.settle("r", used(1)), ledger.release("r")):
        with pytest.raises(NotFound):
            future.result()


@pytest.mark.parametrize("amount", [-1, LARGEST_AMOUNT + 1, 1.5, True, "7", None])
def test_senseless_amounts_are_refused(ledger: Ledger, amount: Any) -> None:
    """Only whole numbers from 0 to 2^53 are amounts, wherever one is taken; a hold in question stays."""
    ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="held").result()
    futures: list[Callable[[], Any]] = [
        lambda: ledger.reserve(Hold.of_tokens(ACME, amount), reservation_id="r"),
        lambda: ledger.settle("held", Usage(amount, 0)),
        lambda: ledger.settle("held", Usage(0, amount)),
        lambda: ledger.record(ACME, amount),
    ]
    if amount is not None:
        futures.append(lambda: ledger.set_limit(ACME, "daily", amount, author="me"))
    for start in futures:
        with pytest.raises(RequestMalformed):
            start().result()
    assert standing(ledger) == {ACME: (0, 1)}


def test_counters_never_overflow(ledger: Ledger) -> None:
    """Where sums would leave the integers, the store refuses the operation instead of rounding."""
    for window in ("daily", "monthly"):
        ledger.set_limit(ACME, window, None, author="me").result()
    for _ in range(512):
        ledger.record(ACME, LARGEST_AMOUNT)
    with pytest.raises(StoreError):
        ledger.record(ACME, 1).result()
    assert standing(ledger) == {ACME: (2**62, 0)}
    assert ledger.verify().ok


def test_exhausted_names_the_row_and_its_reset(ledger: Ledger) -> None:
    """When use alone leaves too little, the refusal names the row, the reset, and what would still fit."""
    ledger.set_limit(SEARCH, "monthly", 500, author="me").result()
    ledger.record(SEARCH, 450).result()
    ledger.reserve(Hold.of_tokens(SEARCH, 20), reservation_id="held").result()
    with pytest.raises(BudgetExhausted) as refused:
        ledger.reserve(Hold.of_tokens(ANA, 51), reservation_id="r").result()
    assert refused.value.details == {
        "scope": "acme.search",
        "meter": "tokens",
        "window": "monthly",
        "used": 450,
        "held": 20,
        "limit": 500,
        "resets_at": "2026-02-01T00:00:00+00:00",
        "requested": 51,
        "largest_amount": 30,
        "largest_max_tokens": None,
        "still_works": ["requests of at most 30 tokens"],
    }
    assert refused.value.retry_after_s == 31 * 86400
    assert "2026-02-01" in str(refused.value)
    assert "at most 30 tokens" in str(refused.value)
    assert ledger.reserve(Hold.of_tokens(ANA, 30), reservation_id="fits").result().remaining == 0


def test_contended_when_holds_are_in_the_way(ledger: Ledger) -> None:
    """When it would fit once open holds settle, the refusal is contended and asks to come back soon."""
    ledger.reserve(Hold.of_tokens(ACME, 950), reservation_id="held").result()
    with pytest.raises(BudgetContended) as refused:
        ledger.reserve(Hold.of_tokens(ANA, 51), reservation_id="r").result()
    facts = {key: refused.value.details[key] for key in ("scope", "window", "held", "largest_amount")}
    assert facts == {"scope": "acme", "window": "daily", "held": 950, "largest_amount": 50}
    assert refused.value.retry_after_s == 1.0


def test_too_large_when_no_window_could_take_it(ledger: Ledger) -> None:
    """When the whole limit is smaller, waiting is no use and none is suggested; the lowest limit is named."""
    ledger.set_limit(ANA, "daily", 200, author="me").result()
    with pytest.raises(RequestTooLarge) as refused:
        ledger.reserve(Hold.of_tokens(ANA, 1001), reservation_id="r").result()
    facts = {key: refused.value.details[key] for key in ("scope", "limit", "largest_amount")}
    assert facts == {"scope": "acme.search.ana", "limit": 200, "largest_amount": 200}
    assert refused.value.retry_after_s is None


def test_what_lasts_longest_is_named(ledger: Ledger) -> None:
    """Of a day and a month that are both used up, the month is named: the day's reset would not help."""
    for window in ("daily", "monthly"):
        ledger.set_limit(ACME, window, 100, author="me").result()
    ledger.record(ACME, 100).result()
    with pytest.raises(BudgetExhausted) as refused:
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()
    assert refused.value.details["window"] == "monthly"
    assert "Nothing fits now" in str(refused.value)


def test_a_refusal_holds_nothing_anywhere(ledger: Ledger) -> None:
    """When one row of many refuses, no row is touched."""
    ledger.set_limit(SEARCH, "daily", 10, author="me").result()
    with pytest.raises(RequestTooLarge):
        ledger.reserve(Hold.of_tokens(ANA, 11), reservation_id="r").result()
    assert standing(ledger) == {SEARCH: (0, 0)}


def test_exactly_the_limit_fits(ledger: Ledger) -> None:
    """The last token can be held, and when it is used not one more."""
    ledger.reserve(Hold.of_tokens(ACME, 1000), reservation_id="all").result()
    ledger.settle("all", used(1000)).result()
    assert ledger.reserve(Hold.of_tokens(ACME, 0), reservation_id="none").result().remaining == 0
    with pytest.raises(BudgetExhausted):
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="one").result()


def test_more_than_held_is_charged_and_reported(ledger: Ledger) -> None:
    """An engine that used more than was held is charged in truth, flagged, logged and counted."""
    ledger.reserve(Hold.of_tokens(ACME, 10), reservation_id="r").result()
    with capture_logs() as logs:
        settlement = ledger.settle("r", used(15)).result()
        ledger.note(lambda _: None).result()
    assert told(settlement) == ("r", "settled", 15, 985, 5)
    assert settlement.overrun_amounts == Amounts(5, 5)
    assert [(log["log_level"], log["event"], log["overrun"]) for log in logs] == [
        (logging.getLevelName(logging.WARNING).lower(), "budget.overrun", 5)
    ]
    assert ledger.overruns() == 5
    assert ledger.verify().ok


def test_a_record_beyond_the_limit_is_booked_and_blocks(ledger: Ledger) -> None:
    """Usage without a hold is booked even where it does not fit; what follows is refused."""
    assert told(ledger.record(ACME, 900).result()) == ("", "settled", 900, 100, 0)
    assert told(ledger.record(ACME, 150, note="batch").result()) == ("", "settled", 150, 0, 50)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()
    assert ledger.overruns() == 50


def test_unknown_organisations_have_the_defaults(ledger: Ledger) -> None:
    """Only organisations have default limits; teams without a limit of their own have none."""
    assert {(row.window, row.limit) for row in ledger.rows(Scope("new"))} == {
        ("daily", 1000),
        ("monthly", 10_000),
    }
    assert {row.limit for row in ledger.rows(Scope("new.team"))} == {None}


def test_limits_are_set_lifted_and_cleared(ledger: Ledger) -> None:
    """A limit replaces the default, None lifts it, and clearing brings the default back."""

    def daily_limit() -> int | None:
        return next(row.limit for row in ledger.rows(ACME) if row.window == "daily")

    ledger.set_limit(ACME, "daily", 5, author="ana").result()
    assert daily_limit() == 5
    ledger.set_limit(ACME, "daily", None, author="bob").result()
    assert daily_limit() is None
    (limit,) = ledger.limits()
    assert limit.as_json() == {
        "scope": "acme",
        "meter": "tokens",
        "window": "daily",
        "amount": None,
        "critical_allowance": 0,
        "version": 2,
        "author": "bob",
        "updated_at": "2026-01-01T00:00:00+00:00",
    }
    ledger.clear_limit(ACME, "daily", author="ana").result()
    ledger.clear_limit(ACME, "daily", author="ana").result()
    assert daily_limit() == 1000
    assert ledger.limits() == []
    assert ledger.verify().ok


def test_lowering_a_limit_claws_nothing_back(ledger: Ledger) -> None:
    """Below what is used a limit admits nothing new, and what is held may still settle."""
    ledger.reserve(Hold.of_tokens(ACME, 500), reservation_id="r").result()
    ledger.set_limit(ACME, "daily", 100, author="me").result()
    with pytest.raises(BudgetContended):
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="s").result()
    assert told(ledger.settle("r", used(400)).result()) == ("r", "settled", 400, 0, 0)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="t").result()


def test_rows_of_a_scope_are_its_own_and_those_below(ledger: Ledger) -> None:
    """Rows can be asked for a part of the tree; neighbours and scopes above are not in it."""
    for index, scope in enumerate((ANA, Scope("acme.searching"), Scope("globex"))):
        ledger.reserve(Hold.of_tokens(scope, 1), reservation_id=str(index)).result()
    assert {row.scope for row in ledger.rows(SEARCH)} == {SEARCH, ANA}


def test_a_new_day_is_a_new_row(ledger: Ledger, clock: ManualClock) -> None:
    """At midnight the day starts clean, holds of yesterday included; the month goes on."""
    ledger.reserve(Hold.of_tokens(ACME, 600), reservation_id="yesterday").result()
    clock.advance(86400)
    assert ledger.reserve(Hold.of_tokens(ACME, 1000), reservation_id="today").result().remaining == 0
    rows = {row.window: (row.used, row.held) for row in ledger.rows(ACME)}
    assert rows == {"daily": (0, 1000), "monthly": (0, 1600)}


def test_a_charge_goes_to_the_day_of_admission(ledger: Ledger, clock: ManualClock) -> None:
    """What yesterday admitted is charged to yesterday, however late it settles."""
    ledger.reserve(Hold.of_tokens(ACME, 600), reservation_id="r").result()
    clock.advance(86400)
    assert ledger.settle("r", used(600)).result().remaining == 400
    rows = {row.window: (row.used, row.held) for row in ledger.rows(ACME)}
    assert rows == {"daily": (0, 0), "monthly": (600, 0)}
    assert ledger.verify().ok


def test_a_clock_set_back_reopens_nothing(ledger: Ledger, database: Database) -> None:
    """After the wall clock jumped back, also across a restart, the window last seen stays the current one."""
    daily = BudgetSettings(default_daily_tokens=1000)
    ahead = ManualClock(datetime(2026, 1, 2, tzinfo=UTC))
    ledger_on(database, daily, ahead).record(ACME, 1000).result()
    behind = ledger_on(database, daily, ManualClock(datetime(2025, 12, 31, tzinfo=UTC)))
    with pytest.raises(BudgetExhausted):
        behind.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()
    assert {row.window_start.day for row in behind.rows(ACME)} == {1, 2}


def test_a_new_time_zone_counts_from_the_next_window(database: Database) -> None:
    """Editing the zone does not give a second budget for the same day."""
    clock = ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
    ledger_on(database, BudgetSettings(default_daily_tokens=1000), clock).record(ACME, 1000).result()
    moved = ledger_on(database, BudgetSettings(default_daily_tokens=1000, time_zone="Asia/Tokyo"), clock)
    clock.advance(timedelta(hours=4).total_seconds())
    with pytest.raises(BudgetExhausted):
        moved.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()
    clock.advance(timedelta(hours=8).total_seconds())
    assert moved.reserve(Hold.of_tokens(ACME, 1), reservation_id="s").result().remaining == 999
    assert {row.resets_at and row.resets_at.hour for row in moved.rows(ACME) if row.window == "daily"} == {15}


def test_recovery_charges_what_a_dead_owner_held(
    ledger: Ledger, database: Database, clock: ManualClock
) -> None:
    """Holds of an earlier opening are charged in full, once; later truth changes nothing by itself."""
    ledger.reserve(Hold.of_tokens(ANA, 100), reservation_id="lost").result()
    ledger.reserve(Hold.of_tokens(ANA, 50), reservation_id="done").result()
    ledger.settle("done", used(20)).result()
    bury_owners(database)
    again = ledger_on(database, BudgetSettings(default_daily_tokens=1000), clock)
    assert again.recover() == 1
    assert standing(again) == dict.fromkeys((ACME, SEARCH, ANA), (120, 0))
    again.reserve(Hold.of_tokens(ANA, 7), reservation_id="live").result()
    assert again.recover() == 0
    assert again.verify().ok


def test_the_truth_about_an_expired_hold_is_a_correction(
    database: Database, ledger: Ledger, clock: ManualClock
) -> None:
    """What is learnt after a hold was charged in full corrects it, once; a release corrects nothing."""
    for name in ("late", "given back"):
        ledger.reserve(Hold.of_tokens(ANA, 100), reservation_id=name).result()
    bury_owners(database)
    again = ledger_on(database, BudgetSettings(default_daily_tokens=1000), clock)
    assert again.recover() == 2
    assert told(again.release("given back").result()) == ("given back", "expired_charged", 100, 800, 0)
    assert told(again.settle("late", used(30)).result()) == ("late", "settled", 30, 870, 0)
    assert told(again.settle("late", used(90)).result()) == ("late", "settled", 30, 870, 0)
    assert standing(again) == dict.fromkeys((ACME, SEARCH, ANA), (130, 0))
    assert [entry.kind for entry in again.history(ANA)][:2] == ["correct", "expire"]
    assert again.verify().ok


def insert_meta(connection: Writes) -> None:
    """Write something beside a settlement."""
    connection.execute("INSERT INTO meta (key, value) VALUES ('also', 'x')")


def count_meta(database: Database) -> int:
    """Return how often `insert_meta` was committed."""

    def op(connection: Writes) -> int:
        return int(connection.execute("SELECT count(*) FROM meta WHERE key = 'also'").fetchone()[0])

    return database.write(op).result()


def test_also_is_written_with_the_settlement(ledger: Ledger, database: Database) -> None:
    """The further write is committed with the first settlement, and not repeated by a second."""
    ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    ledger.settle("r", used(1), also=insert_meta).result()
    ledger.settle("r", used(1), also=insert_meta).result()
    assert count_meta(database) == 1


def test_a_failing_also_undoes_the_settlement(ledger: Ledger, database: Database) -> None:
    """When the further write fails, the hold stands, and it can be settled without it."""
    ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    ledger.note(insert_meta).result()
    for future in (
        ledger.settle("r", used(1), also=insert_meta),
        ledger.release("r", also=insert_meta),
        ledger.record(ACME, 1, also=insert_meta),
    ):
        with pytest.raises(StoreError):
            future.result()
    assert standing(ledger) == {ACME: (0, 100)}
    assert ledger.settle("r", used(1)).result().state == "settled"
    assert count_meta(database) == 1
    assert ledger.verify().ok


def test_a_closed_store_refuses(ledger: Ledger, database: Database) -> None:
    """Without a store nothing is admitted."""
    database.close()
    with pytest.raises(StoreUnavailable):
        ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()


@settings(max_examples=scaled(25), deadline=None)
@given(st.lists(st.integers(0, 400), max_size=12))
def test_admission_is_exact(amounts: list[int]) -> None:
    """A hold is admitted if and only if it fits: no overspend, and no false refusal."""
    with Database.open(None) as database:
        ledger = ledger_on(database, BudgetSettings(default_daily_tokens=1000), ManualClock())
        total = 0
        for index, amount in enumerate(amounts):
            future = ledger.reserve(Hold.of_tokens(SEARCH, amount), reservation_id=str(index))
            if total + amount <= 1000:
                total += amount
                assert future.result().remaining == 1000 - total
            else:
                assert type(future.exception()) is BudgetContended
