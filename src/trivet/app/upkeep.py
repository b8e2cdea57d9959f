"""Small work that is due from time to time and that no request should wait for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from trivet.access import Keyring
from trivet.domain.errors import StoreError

log = structlog.get_logger(__name__)

KEY_USES_EVERY_S = 60.0


@contextlib.asynccontextmanager
async def noting_uses(keyring: Keyring, *, interval_s: float = KEY_USES_EVERY_S) -> AsyncIterator[None]:
    """Write down which keys were used, every `interval_s` seconds and at the end."""
    task = asyncio.get_running_loop().create_task(_note(keyring, interval_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        with contextlib.suppress(StoreError):
            await asyncio.to_thread(keyring.note_uses)


async def _note(keyring: Keyring, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await asyncio.to_thread(keyring.note_uses)
        except StoreError as error:
            log.warning("keys.uses_not_noted", error=str(error))
