"""Brings a store to the schema that this Trivet knows."""

import contextlib
import functools
import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import StaticPool

from trivet.domain.errors import StoreUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0014"
"""The newest revision in `migrations/versions`."""
_SHARED_LOCK = 0x7472_6976_6574_0001
_BYTEWISE = """
    DO $$
    DECLARE
        found record;
    BEGIN
        FOR found IN
            SELECT table_name,
                   string_agg(format('ALTER COLUMN %I TYPE text COLLATE "C"', column_name), ', ') AS changes
              FROM information_schema.columns
             WHERE table_schema = current_schema()
               AND data_type = 'text'
               AND collation_name IS DISTINCT FROM 'C'
             GROUP BY table_name
        LOOP
            EXECUTE format('ALTER TABLE %I ', found.table_name) || found.changes;
        END LOOP;
    END
    $$
"""


def migrate(engine: Engine, connection: sqlite3.Connection) -> None:
    """Run the missing migrations, all in one transaction. `engine` must stand on `connection`.

    Raises:
        StoreUnavailable: the store was made by a newer Trivet, or by one from before the first release.
    """
    revision = _revision(connection)
    if revision == HEAD:
        # The usual case; importing Alembic would be the larger part of a command's start.
        return
    if revision == "0001" and _has_table(connection, "entries"):
        # Before the release the first revision made a ledger too, of another form than the second's.
        raise StoreUnavailable(
            "A Trivet from before the first release made the store, and this one cannot read its ledger.",
            hint="Choose another store.path, or move the file away; the old one is untouched.",
        )
    from alembic.util import CommandError

    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            for statement in _new_store():
                connection.execute(statement)
        else:
            _upgrade(engine)
        connection.execute("COMMIT")
    except CommandError as error:
        connection.execute("ROLLBACK")
        raise StoreUnavailable(
            f"The store has revision {revision}, which this Trivet does not know: a newer one made it.",
            hint="Upgrade Trivet, or choose another store.path.",
        ) from error


def migrate_shared(connection: Connection) -> None:
    """Run the missing migrations on PostgreSQL, in the connection's transaction.

    Replicas that start at once wait for the first, and find it done.

    Raises:
        StoreUnavailable: the store was made by a newer Trivet.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SHARED_LOCK})
    known = connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    revision = connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None
    if revision == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnavailable(
            f"The store has revision {revision}, which this Trivet does not know: a newer one made it.",
            hint="Upgrade Trivet, or choose another store.url.",
        ) from error
    # Text is compared by its bytes, as in SQLite: ranges of scopes rest on it, and it is quicker.
    connection.execute(text(_BYTEWISE))


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.connect() as core:
        config.attributes["connection"] = core
        command.upgrade(config, "head")


@functools.cache
def _new_store() -> tuple[str, ...]:
    """Return the statements that make a new store: what all migrations leave behind, told by SQLite itself.

    A process that makes many stores, as simulations and tests do, runs the migrations for the first only;
    that takes 50 ms, the statements 3.
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _upgrade(create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool))
        return tuple(line for line in connection.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;"))


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _revision(connection: sqlite3.Connection) -> str | None:
    known = _has_table(connection, "alembic_version")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    return None if row is None else str(row[0])


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None
