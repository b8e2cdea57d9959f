"""What rests on the store: ledger, keys, rate limits, outside calls; opened together, kept up while open."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from trivet.access import Keyring, RateLimits, SharedRates, shared_rates
from trivet.app.store import kept_up, opened_store
from trivet.app.upkeep import tidying
from trivet.budgets import Ledger
from trivet.budgets.outside import OutsideCalls
from trivet.config.cache_settings import RedisSettings
from trivet.config.settings import Settings
from trivet.domain.clock import Clock
from trivet.execution.sweeping import sweeping
from trivet.storage import Database, StoreLock
from trivet.storage.redis_link import RedisLink


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
    redis: RedisLink | None
    """None: nothing is shared but the store."""
    shared_rates: SharedRates | None
    """Beside `rates`, where there is a Redis."""
    recovered_holds: int
    """Holds of a process that died, charged in full at this start."""


@asynccontextmanager
async def opened_books(settings: Settings, clock: Clock, *, alone: bool) -> AsyncIterator[Books]:
    """Open the store and all of these, and do what is due from time to time until the block ends.

    That is: learn of other replicas' changes, tidy, end what was not reported.

    Raises:
        StoreLocked: another process owns the store.
        StoreUnavailable: it cannot be opened.
        ConfigError: there is to be a Redis, and its driver is not installed.
    """
    with opened_store(settings.store, alone=alone) as (database, lock):
        ledger = Ledger(database, settings.budgets, clock)
        recovered = ledger.recover()
        keyring = Keyring(database, settings.access, settings.store.path.expanduser(), clock)
        rates, outside_calls = RateLimits(database, clock), OutsideCalls(database, clock)
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(kept_up(database, ledger, keyring, rates))
            await exits.enter_async_context(tidying(keyring, outside_calls))
            await exits.enter_async_context(sweeping(ledger))
            link, shared = await _sharing(exits, settings.redis, rates, clock)
            yield Books(
                database=database,
                lock=lock,
                ledger=ledger,
                keyring=keyring,
                rates=rates,
                outside_calls=outside_calls,
                redis=link,
                shared_rates=shared,
                recovered_holds=recovered,
            )


async def _sharing(
    exits: AsyncExitStack, settings: RedisSettings, rates: RateLimits, clock: Clock
) -> tuple[RedisLink | None, SharedRates | None]:
    """Open what replicas share beside the store; nobody is asked yet."""
    if settings.url is None:
        return None, None
    link = RedisLink(settings.url.get_secret_value(), timeout_s=settings.timeout_s, clock=clock)
    exits.push_async_callback(link.aclose)
    return link, await exits.enter_async_context(shared_rates(rates, link))
