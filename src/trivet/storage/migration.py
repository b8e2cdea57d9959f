"""Brings a store to the schema that this Trivet knows."""

import sqlite3
from pathlib import Path

from sqlalchemy import Engine

from trivet.domain.errors import StoreUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0002"
"""The newest revision in `migrations/versions`."""


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
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    connection.execute("BEGIN IMMEDIATE")
    try:
        with engine.connect() as core:
            config.attributes["connection"] = core
            command.upgrade(config, "head")
        connection.execute("COMMIT")
    except CommandError as error:
        connection.execute("ROLLBACK")
        raise StoreUnavailable(
            f"The store has revision {revision}, which this Trivet does not know: a newer one made it.",
            hint="Upgrade Trivet, or choose another store.path.",
        ) from error


def _revision(connection: sqlite3.Connection) -> str | None:
    known = _has_table(connection, "alembic_version")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    return None if row is None else str(row[0])


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None
