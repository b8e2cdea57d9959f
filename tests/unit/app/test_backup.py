"""A backup is a proven snapshot of a store in use; a restore replaces nothing that it cannot vouch for."""

import sqlite3
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.doubles.revisions import at_revision
from trivet.app.backup import back_up, restore
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings, StoreSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import ConfigError, StoreError, StoreLocked
from trivet.domain.scopes import Scope
from trivet.storage import Database, StoreLock

ACME = Scope("acme")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def ledger_in(database: Database) -> Ledger:
    """Return a recovered ledger."""
    ledger = Ledger(database, BudgetSettings(), ManualClock())
    ledger.recover()
    return ledger


def used(path: Path) -> tuple[int, int]:
    """Return what acme used and holds today, after a restart."""
    with Database.open(path) as database:
        ledger = ledger_in(database)
        assert ledger.verify().ok
        row = next(row for row in ledger.rows(ACME) if row.window == "daily")
        return row.used, row.held


def test_a_store_in_use_is_copied_and_put_back(tmp_path: Path) -> None:
    """Beside the owner that goes on; what came later is not in it; an open hold counts as after a kill."""
    path, copy = tmp_path / "store" / "trivet.db", tmp_path / "backups" / "copy.db"
    settings = StoreSettings(path=path)
    with StoreLock.acquire(path), Database.open(path) as database:
        ledger = ledger_in(database)
        ledger.record(ACME, 100).result()
        ledger.reserve(Hold.of_tokens(ACME, 7), reservation_id="open").result()
        copied = back_up(settings, copy)
        ledger.record(ACME, 1000).result()
        with pytest.raises(StoreLocked):
            restore(settings, copy)
    assert copied.entries == 2
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [found.name for found in copy.parent.iterdir()] == ["copy.db"]
    with pytest.raises(StoreError, match="exists"):
        back_up(settings, copy)

    put_back = restore(settings, copy, NOW)
    assert put_back.former == path.with_name("trivet.db.before-20261126T120000Z")
    assert used(path) == (107, 0)
    assert used(put_back.former) == (1107, 0)


def test_a_store_without_owner_is_copied_too(tmp_path: Path) -> None:
    """What a crash left in the log beside the file is in the copy."""
    path, copy = tmp_path / "trivet.db", tmp_path / "copy.db"
    with Database.open(path) as database:
        ledger_in(database).record(ACME, 5).result()
        # As a crash leaves them: the file, and the log that is not folded in.
        crashed = tmp_path / "crashed.db"
        for suffix in ("", "-wal"):
            crashed.with_name(crashed.name + suffix).write_bytes(
                path.with_name(path.name + suffix).read_bytes()
            )
    back_up(StoreSettings(path=crashed), copy)
    assert used(copy) == (5, 0)


def test_what_is_not_sound_is_not_put_back(tmp_path: Path) -> None:
    """No database, a torn one, one whose books do not agree, one of a newer Trivet: the store stays."""
    path = tmp_path / "trivet.db"
    settings = StoreSettings(path=path)
    with Database.open(path) as database:
        ledger_in(database).record(ACME, 5).result()
    damaged = tmp_path / "damaged.db"

    def refuse(words: str) -> None:
        with pytest.raises(StoreError, match=words):
            restore(settings, damaged)
        damaged.unlink(missing_ok=True)

    refuse("no file")
    damaged.write_text("this is no database, and never was one " * 200)
    refuse("no store of Trivet's")
    back_up(settings, damaged)
    with sqlite3.connect(damaged) as connection:
        connection.execute("UPDATE counters SET used = used + 1")
    connection.close()
    refuse("does not agree")
    back_up(settings, damaged)
    with sqlite3.connect(damaged) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    refuse("does not know")
    assert used(path) == (5, 0)
    assert sorted(found.name for found in tmp_path.iterdir() if "before" in found.name) == []


def test_a_store_that_does_not_agree_gives_no_backup(tmp_path: Path) -> None:
    """A copy that could not be restored is not left lying about as if it could."""
    path, copy = tmp_path / "trivet.db", tmp_path / "copy.db"
    with Database.open(path) as database:
        ledger_in(database).record(ACME, 5).result()
        database.write(lambda connection: connection.execute("UPDATE counters SET used = 1")).result()
    with pytest.raises(StoreError, match="does not agree"):
        back_up(StoreSettings(path=path), copy)
    assert not copy.exists()


def test_postgres_has_tools_of_its_own() -> None:
    """The refusal names them."""
    settings = StoreSettings(url=SecretStr("postgresql://u:p@db/trivet"))
    for attempt in (back_up, restore):
        with pytest.raises(ConfigError, match="pg_dump"):
            attempt(settings, Path("x"))


def test_there_must_be_a_store(tmp_path: Path) -> None:
    """A misspelt path makes no empty backup, and no store."""
    with pytest.raises(StoreError, match="no store"):
        back_up(StoreSettings(path=tmp_path / "absent.db"), tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_of_an_older_trivet_is_proven_in_the_present_form(tmp_path: Path) -> None:
    """It is raised elsewhere to be proven, and put back as it is."""
    path, copy = tmp_path / "trivet.db", tmp_path / "copy.db"
    with Database.open(path) as database:
        ledger_in(database).record(ACME, 5).result()
    back_up(StoreSettings(path=path), copy)
    at_revision(copy, "0004")
    assert restore(StoreSettings(path=path), copy, NOW).revision == "0004"
    assert used(path) == (5, 0)
