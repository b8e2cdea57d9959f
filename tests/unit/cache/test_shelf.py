"""What a shelf promises, whatever holds it: what is put is found, within the bound, while its time lasts."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.cache.shelves import entry, place
from trivet.cache import RedisShelf, Shelf, SqliteShelf
from trivet.cache.shelf import ENTRY_BYTES
from trivet.domain.clock import SystemClock
from trivet.domain.scopes import Scope
from trivet.lab.scratch_redis import ScratchRedis
from trivet.storage.redis_link import RedisLink

MAX_BYTES = 100_000
MS = 1_000_000


@pytest.fixture
async def link(redis: ScratchRedis) -> AsyncIterator[RedisLink]:
    """A link to an empty Redis."""
    opened = RedisLink(redis.url, timeout_s=5.0, clock=SystemClock())
    await opened.execute("FLUSHALL")
    yield opened
    await opened.aclose()


@pytest.fixture(params=["sqlite", "redis"])
async def shelf(request: pytest.FixtureRequest, tmp_path: Path, link: RedisLink) -> AsyncIterator[Shelf]:
    """An empty shelf of 100,000 bytes."""
    opened: Shelf = RedisShelf(link, max_bytes=MAX_BYTES)
    if request.param == "sqlite":
        opened = SqliteShelf(tmp_path / "shelf.db", max_bytes=MAX_BYTES)
    yield opened
    await opened.aclose()


async def test_what_is_put_is_found_where_it_was_put(shelf: Shelf) -> None:
    """There and nowhere else; put anew, it replaces what was there."""
    await shelf.put([entry(place("a"), body=b"1", seconds=2)], (), now_ns=0)
    found = await shelf.find(place("a"), now_ns=1, threshold=None)
    assert found is not None
    assert (found.body, found.device_ns, found.likeness) == (b"1", 2_000_000_000, 1.0)
    assert await shelf.find(place("b"), now_ns=1, threshold=None) is None
    filling = await shelf.put([entry(place("a"), body=b"22")], (), now_ns=2)
    again = await shelf.find(place("a"), now_ns=3, threshold=None)
    assert again is not None
    assert again.body == b"22"
    assert (filling.entries, filling.bytes, filling.evicted) == (1, 2 + ENTRY_BYTES, 0)


async def test_the_likest_wording_is_found(shelf: Shelf) -> None:
    """If it reaches the threshold; without one, none is looked for."""
    polite = place("polite", like="q", ado=("hi", "please"))
    await shelf.put([entry(polite, body=b"p"), entry(place("rude", like="q"), body=b"r")], (), now_ns=0)
    asked = place("asked", like="q", ado=("please",))
    found = await shelf.find(asked, now_ns=1, threshold=0.5)
    assert found is not None
    assert (found.body, found.exact, found.likeness) == (b"p", polite.exact, 7 / 8)
    assert await shelf.find(asked, now_ns=1, threshold=0.9) is None
    assert await shelf.find(asked, now_ns=1, threshold=None) is None
    assert await shelf.find(place("other", like="z"), now_ns=1, threshold=0.1) is None


async def test_what_has_expired_is_not_found_and_goes(shelf: Shelf) -> None:
    """To the millisecond; its room is given back with the next put."""
    await shelf.put([entry(place("a", like="q"), expires_ns=10 * MS)], (), now_ns=0)
    assert await shelf.find(place("a"), now_ns=9 * MS, threshold=None) is not None
    assert await shelf.find(place("a"), now_ns=10 * MS, threshold=None) is None
    assert await shelf.find(place("b", like="q"), now_ns=10 * MS, threshold=0.1) is None
    assert (await shelf.put([], (), now_ns=10 * MS)).entries == 0


async def test_what_saves_least_for_its_size_goes_first(shelf: Shelf) -> None:
    """The cheap one goes, not the dear one that is older; and a use is worth a place."""
    body = b"x" * 30_000
    await shelf.put([entry(place("dear"), body=body, seconds=60)], (), now_ns=0)
    await shelf.put([entry(place("cheap"), body=body, seconds=1)], (), now_ns=1)
    await shelf.put([entry(place("used"), body=body, seconds=1)], (), now_ns=2)
    await shelf.put([], [place("used").exact] * 3, now_ns=3)
    filling = await shelf.put([entry(place("new"), body=body, seconds=2)], (), now_ns=4)
    assert (filling.entries, filling.evicted) == (3, 1)
    left = [name for name in ("dear", "cheap", "used", "new") if await found(shelf, name)]
    assert left == ["dear", "used", "new"]


async def test_what_nobody_asks_for_goes_in_the_end(shelf: Shelf) -> None:
    """However dear it was: the shelf ages with what goes."""
    body = b"x" * 20_000
    await shelf.put([entry(place("old"), body=body, seconds=3)], (), now_ns=0)
    for number in range(40):
        await shelf.put([entry(place(f"n{number}"), body=body, seconds=1)], (), now_ns=1)
    assert not await found(shelf, "old")


async def test_the_bound_holds_whatever_comes(shelf: Shelf) -> None:
    """After each put, and the books agree with what is there."""
    dice = random.Random(3)
    for number in range(60):
        entries = [
            entry(
                place(f"e{dice.randrange(40)}"),
                body=b"x" * dice.randrange(1, 9_000),
                seconds=dice.random() * 9,
                expires_ns=(number + dice.randrange(1, 50)) * MS,
            )
            for _ in range(dice.randrange(4))
        ]
        filling = await shelf.put(entries, [place(f"e{dice.randrange(40)}").exact], now_ns=number * MS)
        assert filling.bytes <= MAX_BYTES
    held = await shelf.holdings(None)
    assert (held.entries, held.bytes) == (filling.entries, filling.bytes)


async def test_a_scope_is_cleared_with_all_below_it(shelf: Shelf) -> None:
    """And nobody else's, whatever their names begin with."""
    scopes = ["acme", "acme.search", "acme.search.ana", "acme-search", "acme_search", "acmeb", "globex"]
    await shelf.put([entry(place(scope), scope=scope) for scope in scopes], (), now_ns=0)
    await shelf.put([], [place("acme.search").exact], now_ns=0)
    held = await shelf.holdings(Scope("acme.search"))
    assert (held.entries, held.hits, held.saved_device_ns) == (2, 1, 1_000_000_000)
    assert await shelf.clear(Scope("acme.search")) == 2
    assert [s for s in scopes if await found(shelf, s)] == ["acme", *scopes[3:]]
    assert await shelf.clear(None) == 5
    assert (await shelf.put([], (), now_ns=1)).bytes == 0


async def test_redis_may_lose_what_it_likes(link: RedisLink) -> None:
    """Where it removes keys by itself, the shelf goes on, and its bound holds again."""
    shelf = RedisShelf(link, max_bytes=MAX_BYTES)
    for lost in ("trivet:{cache}:P", "trivet:{cache}:Z", "trivet:{cache}:X", "trivet:{cache}:M"):
        for number in range(30):
            await shelf.put([entry(place(f"e{number}"), body=b"x" * 9_000)], (), now_ns=0)
        await link.execute("DEL", lost)
        for number in range(30):
            filling = await shelf.put([entry(place(f"f{number}"), body=b"x" * 9_000)], (), now_ns=0)
            assert await found(shelf, f"f{number}")
        assert filling.bytes <= MAX_BYTES


async def found(shelf: Shelf, name: str) -> bool:
    """Tell whether an entry is there."""
    return await shelf.find(place(name), now_ns=5, threshold=None) is not None
