"""Opens the response cache that the configuration asks for, and shows its figures."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from trivet.admin import CacheOffice
from trivet.app.books import Books
from trivet.cache import RedisShelf, ResponseCache, Shelf, SqliteShelf, opened_cache
from trivet.config.cache_settings import CacheSettings
from trivet.config.settings import Settings
from trivet.domain.clock import Clock
from trivet.execution.memory import AnswerMemory
from trivet.metering import TrivetCollector
from trivet.storage.side_file import remove_side_file

Samples = list[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Caching:
    """The cache in all its parts; none of them does anything while it is off."""

    office: CacheOffice
    cache: ResponseCache | None = None
    memory: AnswerMemory | None = None

    def register(self, collector: TrivetCollector) -> None:
        """Register the cache's figures; families without samples while it is off."""
        collector.register_snapshot(
            "trivet_cache_lookups",
            "Requests by what the response cache had for them, since the start.",
            ("result",),
            self._results,
        )
        figures: tuple[tuple[str, str, Callable[[ResponseCache], float]], ...] = (
            ("entries", "Answers that are kept.", lambda c: c.filling.entries),
            ("bytes", "What kept answers take.", lambda c: c.filling.bytes),
            ("evictions", "Answers that had to go for others, since the start.", lambda c: c.tally.evicted),
            (
                "failures",
                "Lookups that the cache's store did not answer, since the start.",
                lambda c: c.tally.failed,
            ),
            (
                "saved_device_seconds",
                "Device time that answers given again had taken when they were made, since the start.",
                lambda c: c.tally.saved_device_ns / 1e9,
            ),
        )
        for name, meaning, read in figures:
            self._gauge(collector, name, meaning, read)

    def _gauge(
        self, collector: TrivetCollector, name: str, meaning: str, read: Callable[[ResponseCache], float]
    ) -> None:
        def samples() -> Samples:
            return [] if self.cache is None else [((), float(read(self.cache)))]

        collector.register_snapshot(f"trivet_cache_{name}", meaning, (), samples)

    def _results(self) -> Samples:
        if self.cache is None:
            return []
        tally = self.cache.tally
        counts = {
            "hit": tally.exact,
            "similar": tally.similar,
            "miss": tally.misses,
            "bypass": tally.bypassed,
        }
        return [((result,), float(count)) for result, count in counts.items()]


def cache_file(settings: CacheSettings, store_path: Path) -> Path:
    """Return where the cache's file lies."""
    if settings.path is not None:
        return settings.path.expanduser()
    store_path = store_path.expanduser()
    return store_path.with_name(store_path.name + ".cache")


def _shelf(settings: Settings, books: Books) -> Shelf | None:
    section = settings.cache
    if section.store == "redis":
        return None if books.redis is None else RedisShelf(books.redis, max_bytes=section.max_bytes)
    if books.lock is None:
        return None
    return SqliteShelf(cache_file(section, settings.store.path), max_bytes=section.max_bytes)


async def _removed(path: Path) -> int:
    """Remove a cache's file that nobody has open; return how many answers were in it."""
    if not await asyncio.to_thread(path.exists):
        return 0
    shelf = await asyncio.to_thread(lambda: SqliteShelf(path, max_bytes=2**62))
    held = await shelf.holdings(None)
    await shelf.aclose()
    await asyncio.to_thread(remove_side_file, path)
    return held.entries


@asynccontextmanager
async def caching(settings: Settings, books: Books, clock: Clock) -> AsyncIterator[Caching]:
    """Give the cache. Where files beside the store are not this process's own, there is none in a file.

    Raises:
        StoreUnavailable: its file cannot be opened.
    """
    section = settings.cache
    shelf = _shelf(settings, books) if section.enabled else None
    if shelf is None:
        alone = books.lock is not None
        path = cache_file(section, settings.store.path)
        yield Caching(CacheOffice(None, section, remove_leftover=(lambda: _removed(path)) if alone else None))
        return
    secret = books.keyring.secret_for("response cache")
    async with opened_cache(shelf, secret, section, clock) as cache:
        yield Caching(CacheOffice(cache, section), cache, AnswerMemory(cache, clock))
