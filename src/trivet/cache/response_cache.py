"""The cache: finds kept answers in the path of a request, keeps new ones beside it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from trivet.cache.places import Places
from trivet.cache.shelf import Entry, Filling, Found, Holdings, Place, Shelf
from trivet.config.cache_settings import CacheSettings
from trivet.domain.clock import Clock
from trivet.domain.errors import StoreError
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment
from trivet.storage.instants import ns_of

BACKLOG_MAX = 1000
"""Answers that wait to be kept; beyond it they are not kept: nobody waits for a cache."""
BATCH_MAX = 64
COUNT_EVERY_S = 1.0
"""How long uses may wait to be counted, so that hits do not each take a transaction."""
USES_MAX = 10_000
"""Uses that wait to be counted; beyond it some are not, and an entry may go a little earlier."""
LOOKUP_TIMEOUT_S = 0.5
"""A lookup that takes longer is a miss: asking the engine is the surer way by then."""

log = structlog.get_logger(__name__)

MakeEntry = Callable[[], Entry | None]
"""Makes an entry out of what was recorded; may take a moment, and runs on a thread. None: not fit to keep."""


@dataclass(slots=True)
class Tally:
    """What became of lookups and answers since the start."""

    exact: int = 0
    similar: int = 0
    misses: int = 0
    bypassed: int = 0
    """Requests that the rules keep away from the cache, or that asked for that."""
    failed: int = 0
    """Lookups that the shelf did not answer; counted as misses, too."""
    kept: int = 0
    not_kept: int = 0
    """Answers that were to be kept and were not: too many at once, or the shelf failed."""
    evicted: int = 0
    saved_device_ns: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the figures as the API shows them."""
        return {
            "hits": self.exact + self.similar,
            "similar_hits": self.similar,
            "misses": self.misses,
            "bypassed": self.bypassed,
            "failed": self.failed,
            "kept": self.kept,
            "not_kept": self.not_kept,
            "evicted": self.evicted,
            "saved_device_s": round(self.saved_device_ns / 1e9, 6),
        }


class ResponseCache:
    """Answers of the past. For the event loop's thread; use `opened_cache`."""

    def __init__(self, shelf: Shelf, places: Places, settings: CacheSettings, clock: Clock) -> None:
        self.settings = settings
        self.tally = Tally()
        self._shelf = shelf
        self._places = places
        self._clock = clock
        self._threshold = settings.similarity_threshold if settings.mode == "similar" else None
        self._waiting: asyncio.Queue[MakeEntry] = asyncio.Queue(BACKLOG_MAX)
        self._used: list[bytes] = []
        self.filling = Filling()
        """As of the last time that something was kept or removed."""

    def place_of(self, scope: Scope, deployment: Deployment, body: Mapping[str, Any]) -> Place:
        """Return where the answer to a body lies; see `Places.of`."""
        return self._places.of(scope, deployment, body)

    async def find(self, place: Place) -> Found | None:
        """Look an answer up, and count that; never raises for the shelf's sake: what fails is a miss."""
        found: Found | None = None
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                found = await self._shelf.find(place, now_ns=self._now_ns(), threshold=self._threshold)
        except (StoreError, TimeoutError) as error:
            self.tally.failed += 1
            log.warning("cache.lookup_failed", error=type(error).__name__)
        body = None if found is None else self._places.unsealed(found.exact, found.body)
        if found is None or body is None:
            self.tally.misses += 1
            return None
        if found.exact == place.exact:
            self.tally.exact += 1
        else:
            self.tally.similar += 1
        self.tally.saved_device_ns += found.device_ns
        if len(self._used) < USES_MAX:
            self._used.append(found.exact)
        return replace(found, body=body)

    def keep(self, make: MakeEntry) -> None:
        """Keep an answer, some time soon, or not at all if too many wait."""
        try:
            self._waiting.put_nowait(make)
        except asyncio.QueueFull:
            self.tally.not_kept += 1

    def expiry_ns(self) -> int:
        """Return until when an answer that is kept now will be given."""
        return self._now_ns() + int(self.settings.ttl_s * 1e9)

    async def clear(self, scope: Scope | None) -> int:
        """Remove what is kept for a scope and all below it, or for everybody; return how many answers.

        Raises:
            StoreUnavailable: the shelf cannot be changed now.
        """
        await self.settled()
        removed = await self._shelf.clear(scope)
        self.filling = await self._shelf.put((), (), now_ns=self._now_ns())
        return removed

    async def holdings(self, scope: Scope | None) -> Holdings:
        """Tell what is kept.

        Raises:
            StoreUnavailable: the shelf cannot be read now.
        """
        return await self._shelf.holdings(scope)

    async def settled(self) -> None:
        """Return when everything that was to be kept or counted so far is."""
        await self._waiting.put(_nothing)
        await self._waiting.join()

    async def run(self) -> None:
        """Keep what is queued, until cancelled; uses are counted with it, or after a while."""
        await self._put([])
        while True:
            makers: list[MakeEntry] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COUNT_EVERY_S):
                    makers.append(await self._waiting.get())
            while makers and len(makers) < BATCH_MAX and not self._waiting.empty():
                makers.append(self._waiting.get_nowait())
            try:
                if makers or self._used:
                    await self._put(makers)
            finally:
                for _ in makers:
                    self._waiting.task_done()

    async def _put(self, makers: list[MakeEntry]) -> None:
        used, self._used = self._used, []
        entries = await asyncio.to_thread(self._made, makers) if makers else []
        try:
            self.filling = await self._shelf.put(entries, used, now_ns=self._now_ns())
            self.tally.evicted += self.filling.evicted
            self.tally.kept += len(entries)
        except StoreError as error:
            self.tally.not_kept += len(entries)
            log.warning("cache.not_kept", error=type(error).__name__, answers=len(entries))

    def _now_ns(self) -> int:
        return ns_of(self._clock.now())

    def _made(self, makers: list[MakeEntry]) -> list[Entry]:
        entries = [entry for entry in map(_made, makers) if entry is not None]
        return [replace(each, body=self._places.sealed(each.place.exact, each.body)) for each in entries]


def _nothing() -> None:
    """Keep nothing."""


def _made(make: MakeEntry) -> Entry | None:
    try:
        return make()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # Engines answer anything; what cannot be read is not kept.
        log.warning("cache.not_made", error=type(error).__name__)
        return None


@asynccontextmanager
async def opened_cache(
    shelf: Shelf, secret: bytes, settings: CacheSettings, clock: Clock
) -> AsyncIterator[ResponseCache]:
    """Run a cache over a shelf until the block ends; then keep what still waits, and close the shelf."""
    places = Places(secret, partition=settings.partition, similar=settings.mode == "similar")
    cache = ResponseCache(shelf, places, settings, clock)
    task = asyncio.get_running_loop().create_task(cache.run())
    try:
        yield cache
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await cache.settled()
    finally:
        task.cancel()
        await asyncio.wait({task})
        await shelf.aclose()
