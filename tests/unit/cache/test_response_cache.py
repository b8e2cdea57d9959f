"""The cache in the path of a request: nobody waits for it, and nothing fails for its shelf's sake."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.unit.cache.shelves import entry, place
from trivet.cache import Entry, Found, Holdings, Place, ResponseCache, SqliteShelf, opened_cache
from trivet.cache.response_cache import BACKLOG_MAX
from trivet.cache.shelf import Filling
from trivet.config.cache_settings import CacheSettings
from trivet.domain.clock import ManualClock
from trivet.domain.errors import StoreUnavailable
from trivet.domain.scopes import Scope

SETTINGS = CacheSettings(enabled=True, ttl_s=100)


class AwaitedShelf:
    """A shelf that answers when it is told to, or not at all."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.broken = False
        self.put_calls = 0

    async def find(self, place: Place, *, now_ns: int, threshold: float | None) -> Found | None:
        """Wait, then find nothing."""
        await self._answer()
        return None

    async def put(self, entries: Sequence[Entry], used: Sequence[bytes], *, now_ns: int) -> Filling:
        """Wait, then keep nothing."""
        self.put_calls += 1
        await self._answer()
        return Filling()

    async def clear(self, scope: Scope | None) -> int:
        """Wait."""
        await self._answer()
        return 0

    async def holdings(self, scope: Scope | None) -> Holdings:
        """Wait."""
        await self._answer()
        return Holdings(entries=0, bytes=0, hits=0, saved_device_ns=0)

    async def aclose(self) -> None:
        """Do nothing."""

    async def _answer(self) -> None:
        if self.broken:
            raise StoreUnavailable("broken")
        await self.open.wait()


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResponseCache]:
    """A cache on an empty file, with a clock that stands still."""
    shelf = SqliteShelf(tmp_path / "shelf.db", max_bytes=10**6)
    async with opened_cache(shelf, b"s" * 32, SETTINGS, ManualClock()) as opened:
        yield opened


async def test_what_is_kept_is_found_and_counted(cache: ResponseCache) -> None:
    """A miss, then hits; the uses are counted with the next transaction."""
    assert await cache.find(place("a")) is None
    cache.keep(lambda: entry(place("a"), body=b"answer", seconds=3))
    await cache.settled()
    for _ in range(4):
        found = await cache.find(place("a"))
        assert found is not None
        assert found.body == b"answer"
    await cache.settled()
    held = await cache.holdings(None)
    assert (held.entries, held.hits, held.saved_device_ns) == (1, 4, 12 * 10**9)
    assert cache.tally.as_json() | {"bypassed": 0} == {
        "hits": 4,
        "similar_hits": 0,
        "misses": 1,
        "bypassed": 0,
        "failed": 0,
        "kept": 1,
        "not_kept": 0,
        "evicted": 0,
        "saved_device_s": 12.0,
    }
    assert (await cache.clear(None), cache.filling.entries) == (1, 0)


async def test_one_that_cannot_be_made_spoils_no_other(cache: ResponseCache) -> None:
    """Whatever an engine answered, the next answer is kept."""

    def broken() -> Entry:
        raise RecursionError

    for make in (broken, lambda: None, lambda: entry(place("a"))):
        cache.keep(make)
    await cache.settled()
    assert await cache.find(place("a")) is not None


async def test_a_shelf_that_hangs_is_a_miss() -> None:
    """A lookup is given up; answers that come meanwhile wait, up to a bound, and are then let go."""
    shelf = AwaitedShelf()
    async with opened_cache(shelf, b"s" * 32, SETTINGS, ManualClock()) as cache:
        assert await cache.find(place("a")) is None
        assert (cache.tally.failed, cache.tally.misses) == (1, 1)
        for number in range(BACKLOG_MAX + 50):
            cache.keep(lambda number=number: entry(place(f"{number}")))  # type: ignore[misc]
        assert cache.tally.not_kept == 50
        shelf.open.set()
        await cache.settled()
    assert cache.tally.kept == BACKLOG_MAX


async def test_a_shelf_that_breaks_is_a_miss() -> None:
    """Neither lookups nor answers fail for it; who asks for its figures is told."""
    shelf = AwaitedShelf()
    shelf.broken = True
    async with opened_cache(shelf, b"s" * 32, SETTINGS, ManualClock()) as cache:
        assert await cache.find(place("a")) is None
        cache.keep(lambda: entry(place("a")))
        await cache.settled()
        assert (cache.tally.failed, cache.tally.not_kept) == (1, 1)
        with pytest.raises(StoreUnavailable):
            await cache.holdings(None)


async def test_what_waits_is_kept_at_the_end(tmp_path: Path) -> None:
    """Closing the cache keeps what is still queued."""
    path = tmp_path / "shelf.db"
    for expected in (False, True):
        shelf = SqliteShelf(path, max_bytes=10**6)
        async with opened_cache(shelf, b"s" * 32, SETTINGS, ManualClock()) as cache:
            assert (await cache.find(place("a")) is not None) is expected
            cache.keep(lambda: entry(place("a")))
