"""Whatever is tampered with is found, and named."""

import sqlite3
from datetime import timedelta
from functools import partial

import pytest

from trivet.budgets import Ledger, OverrideRequest
from trivet.domain.budgets import Hold
from trivet.domain.clock import ManualClock
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database

ACME, SEARCH = Scope("acme"), Scope("acme.search")


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    """Give a ledger with entries of every kind, of two organisations: numbers 1 to 8."""
    ledger.set_limit(ACME, "daily", 500, author="me").result()
    ledger.reserve(Hold.of_tokens(SEARCH, 100), reservation_id="settled").result()
    ledger.settle("settled", Usage(10, 20)).result()
    ledger.reserve(Hold.of_tokens(Scope("globex"), 50), reservation_id="released").result()
    ledger.release("released").result()
    ledger.record(ACME, 7, note="batch").result()
    ledger.reserve(Hold.of_tokens(SEARCH, 40), reservation_id="open").result()
    ledger.record(Scope("globex"), 3).result()
    return ledger


@pytest.fixture
def ruled(busy: Ledger, clock: ManualClock) -> Ledger:
    """Give the same ledger with an opened counter, an override and a tenant's zone: numbers 9 to 13."""
    busy.set_limit(ACME, "weekly", 900, author="me", meter="weighted_tokens").result()
    asked = OverrideRequest(
        override_id="o",
        kind="amount",
        scope=ACME,
        amount=10,
        requester="ana",
        reason="the launch",
        expires_at=clock.now() + timedelta(days=1),
    )
    busy.request_override(asked).result()
    busy.decide_override("o", approve=True, decider="bob").result()
    busy.set_time_zone(ACME, "Europe/Berlin", author="me").result()
    return busy


def tamper(database: Database, *statements: str) -> None:
    """Change the store behind the ledger's back."""
    for statement in statements:
        assert database.write(partial(changed_rows, statement)).result() == 1


def changed_rows(statement: str, connection: sqlite3.Connection) -> int:
    """Run a statement and return how many rows it changed."""
    return connection.execute(statement).rowcount


def found(ledger: Ledger) -> list[tuple[str, ...]]:
    """Return the differences in short."""
    report = ledger.verify()
    assert report.ok == (not report.differences)
    names = {"entry": ("seq",), "counter": ("scope", "window"), "reservation": ("reservation_id",)}
    keys = {**names, "limit": ("scope", "window"), "override": ("override_id",), "zone": ("scope",)}
    return [(item["kind"], *(str(item[key]) for key in keys[item["kind"]])) for item in report.differences]


def test_an_honest_ledger_is_ok(busy: Ledger) -> None:
    """Nothing differs, and the report counts what was compared."""
    report = busy.verify()
    assert report.as_json() == {"ok": True, "rows": 6, "entries": 8, "differences": []}


def test_an_empty_ledger_is_ok(ledger: Ledger) -> None:
    """Nothing is as it should be when there is nothing."""
    assert ledger.verify().as_json() == {"ok": True, "rows": 0, "entries": 0, "differences": []}


COUNTER = "WHERE scope = 'acme.search' AND window = 'daily'"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"UPDATE counters SET used = used - 1 {COUNTER}", ("counter", "acme.search", "daily")),
        (f"UPDATE counters SET held = 0 {COUNTER}", ("counter", "acme.search", "daily")),
        (f"DELETE FROM counters {COUNTER}", ("counter", "acme.search", "daily")),
        (
            "INSERT INTO counters VALUES ('acme.new', 'tokens', 'daily', '', 0, 86400, 1, 0)",
            ("counter", "acme.new", "daily"),
        ),
        ("UPDATE entries SET note = 'other' WHERE seq = 6", ("entry", "6")),
        ("UPDATE entries SET at_ns = at_ns + 1 WHERE seq = 3", ("entry", "3")),
        ("UPDATE entries SET detail = '{}' WHERE seq = 3", ("entry", "3")),
        ("UPDATE reservations SET charged_tokens = 31 WHERE id = 'settled'", ("reservation", "settled")),
        ("UPDATE reservations SET state = 'released' WHERE id = 'open'", ("reservation", "open")),
        ("DELETE FROM reservations WHERE id = 'open'", ("reservation", "open")),
        ("UPDATE limits SET amount = 501", ("limit", "acme", "daily")),
        ("DELETE FROM limits", ("limit", "acme", "daily")),
        (
            "INSERT INTO limits VALUES ('globex', 'tokens', 'daily', NULL, 0, 1, 'nobody', 0)",
            ("limit", "globex", "daily"),
        ),
    ],
)
def test_one_change_is_one_difference(
    busy: Ledger, database: Database, statement: str, expected: tuple[str, ...]
) -> None:
    """A single change is reported once, by the name of what was changed."""
    tamper(database, statement)
    assert found(busy) == [expected]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE counters SET used = used + 1 WHERE window = 'weekly'", ("counter", "acme", "weekly")),
        ("UPDATE reservations SET rows = '[]' WHERE id = 'open'", ("reservation", "open")),
        ("UPDATE reservations SET usd_micros = 1 WHERE id = 'open'", ("reservation", "open")),
        ("UPDATE limits SET allowance = 1 WHERE window = 'weekly'", ("limit", "acme", "weekly")),
        ("UPDATE overrides SET amount = 11", ("override", "o")),
        ("UPDATE overrides SET approver = 'ana'", ("override", "o")),
        ("DELETE FROM overrides", ("override", "o")),
        ("UPDATE tenants SET time_zone = 'UTC'", ("zone", "acme")),
        ("UPDATE entries SET detail = replace(detail, 'bob', 'eve') WHERE seq = 12", ("entry", "12")),
    ],
)
def test_rules_that_were_changed_are_found(
    ruled: Ledger, database: Database, statement: str, expected: tuple[str, ...]
) -> None:
    """Opened counters, adopted rows, allowances, overrides and zones are proven like everything else."""
    assert ruled.verify().as_json() == {"ok": True, "rows": 7, "entries": 13, "differences": []}
    tamper(database, statement)
    assert found(ruled)[0] == expected


def test_a_counter_difference_shows_both_numbers(busy: Ledger, database: Database) -> None:
    """For a counter the report shows what it says and what the entries say."""
    tamper(database, f"UPDATE counters SET used = 29 {COUNTER}")
    assert busy.verify().differences == (
        {
            "kind": "counter",
            "scope": "acme.search",
            "meter": "tokens",
            "window": "daily",
            "subject": "",
            "window_start": "2026-01-01T00:00:00+00:00",
            "used": {"counter": 29, "entries": 30},
            "held": {"counter": 40, "entries": 40},
        },
    )


def test_a_dropped_entry_breaks_the_chain_and_the_sums(busy: Ledger, database: Database) -> None:
    """Dropping an entry shows at the one that followed it, and at every row that it had changed."""
    tamper(database, "DELETE FROM entries WHERE seq = 6")
    assert found(busy) == [("entry", "7"), ("counter", "acme", "daily"), ("counter", "acme", "monthly")]


def test_the_last_entry_cannot_be_dropped_unseen(busy: Ledger, database: Database) -> None:
    """The end of a chain has no successor to miss it, but the sums do."""
    tamper(database, "DELETE FROM entries WHERE seq = 8")
    assert found(busy) == [("counter", "globex", "daily"), ("counter", "globex", "monthly")]


def test_swapped_entries_are_found(busy: Ledger, database: Database) -> None:
    """Two entries of one organisation that change places are out of their chain, and so is who follows."""
    tamper(
        database,
        "UPDATE entries SET seq = 100 WHERE seq = 6",
        "UPDATE entries SET seq = 6 WHERE seq = 7",
        "UPDATE entries SET seq = 7 WHERE seq = 100",
    )
    assert found(busy) == [("entry", "6"), ("entry", "7")]


def test_a_rehashed_entry_breaks_the_chain(busy: Ledger, database: Database) -> None:
    """Giving an entry a new hash shows at the next one of its organisation."""
    tamper(database, "UPDATE entries SET hash = 'x' WHERE seq = 2")
    assert found(busy) == [("entry", "2"), ("entry", "3")]


def test_an_entry_that_claims_another_predecessor_is_found(busy: Ledger, database: Database) -> None:
    """The hash of the one before need not be told, but where it is, it must be true."""
    tamper(database, "UPDATE entries SET prev_hash = (SELECT hash FROM entries WHERE seq = 2) WHERE seq = 6")
    assert set(found(busy)) == {("entry", "6")}


def test_a_doubled_settlement_is_found(busy: Ledger, database: Database) -> None:
    """An entry that ends a reservation for a second time is named."""
    copied = (
        "organisation, at_ns, kind, reservation_id, scope, used_tokens, used_weighted, used_usd,"
        " held_tokens, held_weighted, held_usd, overrun"
    )
    tamper(
        database,
        f"INSERT INTO entries ({copied}, rows, detail, note, prev_hash, hash) "
        f"SELECT {copied}, '[]', detail, note, prev_hash, hash FROM entries WHERE seq = 3",
    )
    assert ("entry", "9") in found(busy)
