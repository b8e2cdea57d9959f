"""Ledgers over stores of every kind, and owners of theirs that die."""

from trivet.budgets import Ledger
from trivet.budgets.postgres_store import PostgresLedgerStore
from trivet.config.settings import BudgetSettings
from trivet.domain.clock import Clock, ManualClock
from trivet.storage.database import Database
from trivet.storage.postgres import PostgresDatabase

EVERY_STORE = ("memory", "postgres")
"""SQLite in a file is for the storms and the kills; in memory it runs by the same operations."""
PATIENCE_S = 20.0
"""A loaded machine is no reason to call a store unavailable, unless that is what is tested."""

_opened: dict[int, list[PostgresLedgerStore]] = {}


def ledger_on(
    database: Database,
    settings: BudgetSettings,
    clock: Clock,
    *,
    answer_within_s: float = PATIENCE_S,
    lease_s: float = 15.0,
) -> Ledger:
    """Return a ledger over a store of any kind. A manual clock decides the time on PostgreSQL too."""
    if not isinstance(database, PostgresDatabase):
        return Ledger(database, settings, clock)
    store = PostgresLedgerStore(
        database,
        settings,
        clock,
        own_time=not isinstance(clock, ManualClock),
        answer_within_s=answer_within_s,
        lease_s=lease_s,
    )
    _opened.setdefault(id(database), []).append(store)
    return Ledger(None, settings, clock, store=store)


def bury_owners(database: Database) -> None:
    """Let whoever owned reservations until now be dead. On SQLite that shows when it is opened anew."""
    close_ledgers(database)


def close_ledgers(database: Database) -> None:
    """Close the ledgers over a store."""
    for store in _opened.pop(id(database), []):
        store.close()
