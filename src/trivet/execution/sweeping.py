"""Ends the holds that outside callers never reported, as long as Trivet runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from trivet.budgets import Ledger
from trivet.domain.errors import StoreError

log = structlog.get_logger(__name__)

SWEEP_INTERVAL_S = 5.0


@contextlib.asynccontextmanager
async def sweeping(ledger: Ledger, *, interval_s: float = SWEEP_INTERVAL_S) -> AsyncIterator[None]:
    """Sweep every `interval_s` seconds while the block runs; a store that fails is asked again."""
    task = asyncio.get_running_loop().create_task(_sweep(ledger, interval_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _sweep(ledger: Ledger, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await asyncio.wrap_future(ledger.expire())
        except StoreError as error:
            log.warning("budget.sweep_failed", error=str(error))
