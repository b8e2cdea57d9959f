"""Opens the store that the configuration names, and keeps up with what other replicas change in it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from trivet.access import Keyring, RateLimits
from trivet.budgets import Ledger
from trivet.config.settings import StoreSettings
from trivet.domain.errors import StoreError
from trivet.storage import Database, StoreLock

KEYS_READ_EVERY_S = 2.0


@contextlib.contextmanager
def opened_store(settings: StoreSettings, *, alone: bool) -> Iterator[tuple[Database, StoreLock | None]]:
    """Open the store, and hold the lock on what lies at its path.

    A file has one owner, whatever that does. In PostgreSQL the lock guards only this replica's own files, so
    whoever runs no engines may do without it.

    Args:
        settings: the section of the configuration.
        alone: whether the lock is needed in any case.

    Raises:
        StoreLocked: another process holds it.
        StoreUnavailable: the store cannot be opened.
    """
    path = settings.path.expanduser()
    with contextlib.ExitStack() as exits:
        lock: StoreLock | None = None
        if settings.url is None or alone:
            lock = exits.enter_context(StoreLock.acquire(path))
        yield exits.enter_context(_database(settings, path)), lock


@contextlib.asynccontextmanager
async def kept_up(
    database: Database, ledger: Ledger, keyring: Keyring, rates: RateLimits
) -> AsyncIterator[None]:
    """Learn of keys, rate limits and approvals that other replicas change, within seconds."""
    if not database.shared:
        yield
        return

    async def keep_up() -> None:
        while True:
            await asyncio.sleep(KEYS_READ_EVERY_S)
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(keyring.refresh)
                await asyncio.to_thread(rates.refresh)
                await asyncio.to_thread(ledger.refresh)

    task = asyncio.create_task(keep_up())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _database(settings: StoreSettings, path: Path) -> Database:
    if settings.url is None:
        return Database.open(path)
    # Only who uses PostgreSQL pays for its driver.
    from trivet.storage.postgres import PostgresDatabase

    return PostgresDatabase.at(settings.url.get_secret_value())
