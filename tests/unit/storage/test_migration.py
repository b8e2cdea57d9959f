"""The migrations and the schema describe the same store."""

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from tests.doubles.revisions import at_revision
from trivet.domain.errors import StoreUnavailable
from trivet.storage import Database
from trivet.storage.migration import HEAD, MIGRATIONS
from trivet.storage.schema import metadata

# A column that was added later stands on the line of the last part.
PARTS = re.compile(r"\n|, (?=[a-z_]+ [A-Z])")


def statements(path: Path) -> dict[str, list[str]]:
    """Return the store's own account of its tables and indexes, the parts of each in order."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
        ).fetchall()
    connection.close()
    return {name: sorted(part.strip(" \t,()") for part in PARTS.split(sql)) for name, sql in rows}


def test_migrated_equals_declared(tmp_path: Path) -> None:
    """A migrated store and one made from the metadata have the same tables, columns, checks and indexes."""
    Database.open(tmp_path / "migrated.db").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    metadata.create_all(engine)
    engine.dispose()
    assert statements(tmp_path / "declared.db") == statements(tmp_path / "migrated.db")


def test_alembic_sees_no_difference() -> None:
    """Alembic's own comparison of a migrated store with the metadata finds nothing to do."""
    with Database.open(None) as database:
        differences = database.transact(
            lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
        ).result()
    assert differences == []


def test_head_is_the_newest_revision() -> None:
    """The revision that opening expects is the newest one that is shipped."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """A store of the current revision is opened as it is."""
    path = tmp_path / "trivet.db"
    Database.open(path).close()
    before = statements(path)
    Database.open(path).close()
    assert before == statements(path)


def test_a_new_store_is_what_the_migrations_make(tmp_path: Path) -> None:
    """To the statement and the row, although a new store is made without them."""
    at_revision(tmp_path / "migrated.db", HEAD)
    Database.open(tmp_path / "new.db").close()
    dumps = []
    for name in ("migrated.db", "new.db"):
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection:
            dumps.append(list(connection.iterdump()))
    assert dumps[0] == dumps[1]
    assert len(dumps[0]) > 20


def test_attempts_are_kept_when_they_get_another_key(tmp_path: Path) -> None:
    """The attempts of an older store are all there in the new table, and in the old one on the way back."""
    path = tmp_path / "trivet.db"
    at_revision(path, "0010")
    before = statements(path)
    row = ("r", "a", "LIGHT", "light", "GPU-1", "m", 1, 5, 9, 4, 12, None, "ok", None)
    columns = (
        "request_id, attempt_id, tier, deployment, devices, model, gpu, dispatched_ns, ended_ns, device_ns,"
        " prompt_tokens, completion_tokens, status, error_code"
    )
    with sqlite3.connect(path) as connection:
        connection.execute(f"INSERT INTO attempts ({columns}) VALUES ({', '.join('?' * 14)})", row)
    connection.close()
    for revision in (HEAD, "0010"):
        at_revision(path, revision)
        with sqlite3.connect(path) as connection:
            assert connection.execute(f"SELECT {columns} FROM attempts").fetchall() == [row]
        connection.close()
    assert statements(path) == before


def test_who_served_a_request_is_put_among_the_attempts_on_the_way_back(tmp_path: Path) -> None:
    """Older versions look for it there, and so do newer ones afterwards; the request's row stays."""
    path = tmp_path / "trivet.db"
    at_revision(path, HEAD)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO outcomes (request_id, at_ns, organisation, scope, key_id, stream, tier, deployment,"
            " model, status, attempts, fallbacks, prompt_tokens, completion_tokens, reasons, devices, gpu,"
            " dispatched_ns, served_ns, device_ns, engine_prompt_tokens)"
            " VALUES ('r', 9, 'acme', 'acme', 'k', 0, 'light', 'l', 'm', 'ok', 1, 0, 12, 3, '[]', 'host', 0,"
            " 5, 8, 3, 12)"
        )
    connection.close()
    for revision in ("0012", HEAD):
        at_revision(path, revision)
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT * FROM attempts").fetchall() == [
                ("r", "r", "light", "l", "host", "m", 0, 5, 8, 3, 12, None, "ok", None)
            ]
            assert connection.execute("SELECT request_id, at_ns, tier FROM outcomes").fetchall() == [
                ("r", 9, "light")
            ]
        connection.close()


def test_a_store_from_before_the_release_is_refused(tmp_path: Path) -> None:
    """Its first revision has a ledger of another form: that is said, and nothing is touched."""
    path = tmp_path / "trivet.db"
    with Database.open(path) as database:
        database.write(
            lambda connection: connection.execute("UPDATE alembic_version SET version_num = '0001'")
        ).result()
    before = statements(path)
    with pytest.raises(StoreUnavailable, match="before the first release"):
        Database.open(path)
    assert before == statements(path)


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    """A store that a newer Trivet made is refused and left untouched."""
    path = tmp_path / "trivet.db"
    with Database.open(path) as database:
        database.write(
            lambda connection: connection.execute("UPDATE alembic_version SET version_num = '9999'")
        ).result()
    before = statements(path)
    with pytest.raises(StoreUnavailable, match="newer"):
        Database.open(path)
    assert before == statements(path)
