"""A PostgreSQL store that tests empty for each other, which is quicker than making one."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from trivet.storage.postgres import PostgresDatabase
from trivet.storage.schema import metadata


@dataclass(frozen=True, slots=True)
class SharedStore:
    """A PostgreSQL store that tests use one after the other."""

    url: str

    def emptied(self) -> PostgresDatabase:
        """Return it open, as if new."""
        opened = PostgresDatabase.at(self.url)

        def empty(connection: Any) -> None:
            names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))

        opened.transact(empty).result()
        return opened
