"""Stores as an older Trivet left them."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from trivet.storage.migration import MIGRATIONS


def at_revision(path: Path, revision: str) -> None:
    """Bring a SQLite store to a revision, up or down."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        known = MigrationContext.configure(connection).get_current_revision()
        (command.upgrade if known is None or known < revision else command.downgrade)(config, revision)
    engine.dispose()
