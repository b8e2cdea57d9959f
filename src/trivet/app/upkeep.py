"""Small work that is due from time to time and that no request should wait for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from trivet.access import Keyring
from trivet.budgets.outside import OutsideCalls
from trivet.domain.errors import StoreError

log = structlog.get_logger(__name__)

TIDY_EVERY_S = 60.0


@contextlib.asynccontextmanager
async def tidying(
    keyring: Keyring, outside_calls: OutsideCalls, *, interval_s: float = TIDY_EVERY_S
) -> AsyncIterator[None]:
    """Write down which keys were used and forget old decisions, every `interval_s` seconds and at the end."""

    async def tidy() -> None:
        while True:
            await asyncio.sleep(interval_s)
            await _tidy(keyring, outside_calls)

    task = asyncio.get_running_loop().create_task(tidy())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        await _tidy(keyring, outside_calls)


async def _tidy(keyring: Keyring, outside_calls: OutsideCalls) -> None:
    try:
        await asyncio.to_thread(keyring.note_uses)
        await asyncio.wrap_future(outside_calls.prune())
    except StoreError as error:
        log.warning("upkeep.failed", error=str(error))
