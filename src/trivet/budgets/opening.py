"""Which books a store takes: those of one owner, or those that replicas share."""

from trivet.budgets.sqlite_store import SqliteLedgerStore
from trivet.budgets.store import LedgerStore
from trivet.config.settings import BudgetSettings
from trivet.domain.clock import Clock
from trivet.storage.database import Database


def books_in(database: Database, settings: BudgetSettings, clock: Clock) -> LedgerStore:
    """Return the books in a store, as suits it; blocks."""
    if not database.shared:
        return SqliteLedgerStore(database, settings, clock)
    # Only who uses PostgreSQL pays for its driver.
    from trivet.budgets.postgres_store import PostgresLedgerStore
    from trivet.storage.postgres import PostgresDatabase

    assert isinstance(database, PostgresDatabase)  # noqa: S101 - there is no other that is shared
    return PostgresLedgerStore(database, settings, clock)
