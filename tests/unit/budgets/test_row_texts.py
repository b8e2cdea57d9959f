"""Rows that are told by a name, beside those that an older Trivet told in full."""

import itertools
import sqlite3
from pathlib import Path

import pytest

from tests.doubles.revisions import at_revision
from trivet.budgets import Ledger
from trivet.budgets.entries import FIRST_HASH, chained
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import SystemClock
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database

SCOPES = (Scope("acme.search"), Scope("globex"))


def work(path: Path, name: str) -> None:
    """Open a store; settle a hold, leave one, end one that was left before; the books must agree."""
    with Database.open(path) as database:
        ledger = Ledger(database, BudgetSettings(), SystemClock())
        assert ledger.verify().ok
        ledger.recover()
        for scope in SCOPES:
            ledger.reserve(Hold.of_tokens(scope, 100), reservation_id=f"{name}-{scope}").result()
            ledger.settle(f"{name}-{scope}", Usage(10, 20)).result()
        ledger.reserve(Hold.of_tokens(SCOPES[0], 5), reservation_id=f"{name}-left").result()
        assert ledger.verify().ok


def told(path: Path, query: str) -> list[tuple[object, ...]]:
    """Return what a query reads from a store."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_a_text_is_told_once(tmp_path: Path) -> None:
    """All reservations and entries of a scope name the same text; nothing else lies in its place."""
    path = tmp_path / "trivet.db"
    work(path, "first")
    work(path, "second")
    texts = {name for (name,) in told(path, "SELECT name FROM row_texts")}
    assert len(texts) == len(SCOPES)
    assert {name for (name,) in told(path, "SELECT rows FROM reservations")} == texts
    assert {name for (name,) in told(path, "SELECT rows FROM entries WHERE rows <> '[]'")} == texts


@pytest.mark.parametrize(
    "change", ["UPDATE row_texts SET text = replace(text, 'acme', 'evil')", "DELETE FROM row_texts"]
)
def test_another_text_is_found(tmp_path: Path, change: str) -> None:
    """Whoever changes a text changes every entry that names it, and its hash does not."""
    path = tmp_path / "trivet.db"
    work(path, "first")
    named = told(path, "SELECT seq FROM entries WHERE scope LIKE 'acme%' AND reservation_id IS NOT NULL")
    told(path, f"{change} WHERE text LIKE '%acme%'")
    with Database.open(path) as database:
        differences = Ledger(database, BudgetSettings(), SystemClock()).verify().differences
    assert {(item["seq"],) for item in differences if item["kind"] == "entry"} == set(named)
    assert ("acme.search", "daily") in {(item.get("scope"), item.get("window")) for item in differences}


def test_a_store_that_tells_all_in_full_goes_on(tmp_path: Path) -> None:
    """The chains of the version before are those of the present: proven before, between and after."""
    path = tmp_path / "trivet.db"
    work(path, "new")
    hashes = told(path, "SELECT seq, lower(hex(hash)) FROM entries")
    at_revision(path, "0011")
    old = told(path, "SELECT * FROM entries ORDER BY organisation, seq")
    assert [(row[0], row[-1]) for row in sorted(old)] == hashes
    for _, chain in itertools.groupby(old, key=lambda row: row[1]):
        previous = FIRST_HASH
        for entry in chain:
            assert entry[-2:] == (previous, chained(previous, entry[1:-2]))
            previous = str(entry[-1])
    work(path, "newer")
    after = told(path, "SELECT * FROM entries ORDER BY organisation, seq")
    assert set(old) < set(after)
