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
        StoreUnavailable: the store was made by a newer Trivet.
    """
    revision = _revision(connection)
    if revision == HEAD:
        # The usual case; importing Alembic would be the larger part of a command's start.
        return
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
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    return None if row is None else str(row[0])
