"""What rests on the store: ledger, keys, rate limits, outside calls; opened together, kept up while open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from trivet.access import Keyring, RateLimits
from trivet.app.store import kept_up, opened_store
from trivet.app.upkeep import tidying
from trivet.budgets import Ledger
from trivet.budgets.outside import OutsideCalls
from trivet.config.settings import Settings
from trivet.domain.clock import Clock
from trivet.execution.sweeping import sweeping
from trivet.storage import Database, StoreLock


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The store, and what is in it."""

    database: Database
    lock: StoreLock | None
    """None: the store is shared, and nothing beside it is this process's own."""
    ledger: Ledger
    keyring: Keyring
    rates: RateLimits
    outside_calls: OutsideCalls
    recovered_holds: int
    """Holds of a process that died, charged in full at this start."""


@asynccontextmanager
async def opened_books(settings: Settings, clock: Clock, *, alone: bool) -> AsyncIterator[Books]:
    """Open the store and all of these, and do what is due from time to time until the block ends.

    That is: learn of other replicas' changes, tidy, end what was not reported.

    Raises:
        StoreLocked: another process owns the store.
        StoreUnavailable: it cannot be opened.
    """
    with opened_store(settings.store, alone=alone) as (database, lock):
        ledger = Ledger(database, settings.budgets, clock)
        recovered = ledger.recover()
        keyring = Keyring(database, settings.access, settings.store.path.expanduser(), clock)
        rates, outside_calls = RateLimits(database, clock), OutsideCalls(database, clock)
        async with (
            kept_up(database, ledger, keyring, rates),
            tidying(keyring, outside_calls),
            sweeping(ledger),
        ):
            yield Books(
                database=database,
                lock=lock,
                ledger=ledger,
                keyring=keyring,
                rates=rates,
                outside_calls=outside_calls,
                recovered_holds=recovered,
            )
