"""Rate limits that replicas count together, in a real Redis: one count, leases, no fault when it dies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from trivet.access import RateLimit, RateLimits, SharedRates
from trivet.domain.clock import SystemClock
from trivet.domain.errors import RateLimitExceeded
from trivet.domain.scopes import Scope
from trivet.lab.scratch_redis import ScratchRedis
from trivet.storage import Database
from trivet.storage.redis_link import RedisLink

ACME, SEARCH, ANA, GLOBEX = Scope("acme"), Scope("acme.search"), Scope("acme.search.ana"), Scope("globex")


@dataclass(slots=True)
class Replica:
    """One of several servers on one store and one Redis."""

    local: RateLimits
    rates: SharedRates
    link: RedisLink


@pytest.fixture
def database() -> Iterator[Database]:
    """Give a store in memory."""
    with Database.open(None) as opened:
        yield opened


@pytest.fixture
async def replicas(database: Database, redis: ScratchRedis) -> AsyncIterator[list[Replica]]:
    """Give two replicas on an empty Redis; the second one's places end soon when it is gone."""
    found = []
    for lease_s in (15.0, 0.3):
        local = RateLimits(database, SystemClock())
        link = RedisLink(redis.url, timeout_s=2.0, clock=SystemClock())
        found.append(Replica(local, SharedRates(local, link, lease_s=lease_s), link))
    await found[0].link.execute("FLUSHALL")
    yield found
    for each in found:
        await each.rates.drain()
        await each.link.aclose()


def limited(replicas: list[Replica], limit: RateLimit) -> None:
    """Set a limit, and let every replica learn of it."""
    replicas[0].local.set_limit(limit, author="a")
    for each in replicas:
        each.local.refresh()


async def test_requests_are_counted_by_all(replicas: list[Replica]) -> None:
    """What one replica let in is gone for the other; the strictest level binds; the wait is told."""
    limited(replicas, RateLimit(scope=ACME, requests_per_minute=2))
    limited(replicas, RateLimit(scope=ANA, requests_per_minute=600))
    one, two = (each.rates for each in replicas)
    first = await one.admit(ANA, 1)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    await two.admit(SEARCH, 1)
    with pytest.raises(RateLimitExceeded, match="acme may have 2 requests a minute") as refused:
        await one.admit(ANA, 1)
    assert refused.value.details["rate"] == "requests_per_minute"
    assert 25 < (refused.value.retry_after_s or 0) <= 30
    assert (await two.admit(GLOBEX, 1)).headers == {}
    assert one.fallbacks == two.fallbacks == 0


async def test_a_refusal_takes_nothing_on_any_level(replicas: list[Replica]) -> None:
    """All or nothing: what the lower level refuses does not count on the upper one."""
    limited(replicas, RateLimit(scope=ACME, requests_per_minute=100))
    limited(replicas, RateLimit(scope=SEARCH, concurrent=0))
    for each in replicas:
        with pytest.raises(RateLimitExceeded) as refused:
            await each.rates.admit(ANA, 1)
        assert (refused.value.details["scope"], refused.value.retry_after_s) == ("acme.search", None)
    assert (await replicas[0].rates.admit(ACME, 1)).headers["x-ratelimit-remaining-requests"] == "99"


async def test_tokens_are_corrected_when_a_request_ends(replicas: list[Replica]) -> None:
    """What was not used comes back for all; what was used beyond the estimate is owed by all."""
    limited(replicas, RateLimit(scope=ACME, tokens_per_minute=6000))
    one, two = (each.rates for each in replicas)
    admitted = await one.admit(ACME, 5000)
    with pytest.raises(RateLimitExceeded, match="6000 tokens a minute") as refused:
        await two.admit(ACME, 2000)
    assert refused.value.retry_after_s == pytest.approx(10, abs=1)
    admitted.end(1000)
    admitted.end(0)
    await one.drain()
    over = await two.admit(ACME, 2000)
    over.end(9000)
    await two.drain()
    with pytest.raises(RateLimitExceeded) as refused:
        await one.admit(ACME, 1000)
    assert refused.value.retry_after_s == pytest.approx(50, abs=1)


async def test_places_are_shared_and_come_back(replicas: list[Replica]) -> None:
    """So many at once, wherever they run; an end makes room; a dead replica's places come free."""
    limited(replicas, RateLimit(scope=SEARCH, concurrent=2))
    living, dying = (each.rates for each in replicas)
    running = await living.admit(ANA, 1)
    await dying.admit(ANA, 1)
    with pytest.raises(RateLimitExceeded, match="2 requests at once"):
        await living.admit(SEARCH, 1)
    running.end(0)
    await living.drain()
    await living.admit(SEARCH, 1)
    await asyncio.sleep(0.35)  # nobody renews the second replica's lease
    await living.admit(SEARCH, 1)
    with pytest.raises(RateLimitExceeded):
        await living.admit(SEARCH, 1)


async def test_whoever_lives_keeps_its_places(replicas: list[Replica]) -> None:
    """A renewed lease lasts, also where Redis has lost everything meanwhile."""
    limited(replicas, RateLimit(scope=ACME, concurrent=1))
    one, two = (each.rates for each in replicas)
    running = await two.admit(ACME, 1)
    await replicas[0].link.execute("FLUSHALL")
    await two.renew()
    with pytest.raises(RateLimitExceeded):
        await one.admit(ACME, 1)
    running.end(None)
    await two.drain()
    await one.admit(ACME, 1)


async def test_whoever_leaves_while_it_asks_takes_no_place(replicas: list[Replica]) -> None:
    """Cancelled at whatever moment of the asking: its place and its tokens come back."""
    limited(replicas, RateLimit(scope=ACME, concurrent=1, tokens_per_minute=1000))
    rates = replicas[0].rates
    for turns in range(12):
        asking = asyncio.create_task(rates.admit(ACME, 900))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        [admitted] = await asyncio.gather(asking, return_exceptions=True)
        if not isinstance(admitted, BaseException):
            admitted.end(0)
        await rates.drain()
        (await rates.admit(ACME, 900)).end(0)
        await rates.drain()


async def test_a_changed_limit_keeps_what_was_used(replicas: list[Replica]) -> None:
    """As in one process."""
    limited(replicas, RateLimit(scope=ACME, requests_per_minute=1))
    await replicas[0].rates.admit(ACME, 1)
    limited(replicas, RateLimit(scope=ACME, requests_per_minute=2))
    await replicas[1].rates.admit(ACME, 1)
    with pytest.raises(RateLimitExceeded):
        await replicas[0].rates.admit(ACME, 1)


async def test_no_more_than_the_limit_pass_a_crowd(replicas: list[Replica]) -> None:
    """Two hundred at once through both replicas: exactly so many as there are places."""
    limited(replicas, RateLimit(scope=ACME, concurrent=17, requests_per_minute=1000))

    async def ask(number: int) -> bool:
        try:
            await replicas[number % 2].rates.admit(ANA, 1)
        except RateLimitExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*(ask(number) for number in range(200)))) == 17


async def test_without_redis_each_counts_for_itself(database: Database) -> None:
    """Killed amid work: nobody is refused for that, nobody waits; back again, all count together."""
    local = RateLimits(database, SystemClock())
    local.set_limit(RateLimit(scope=ACME, concurrent=1), author="a")
    with ScratchRedis() as server:
        link = RedisLink(server.url, timeout_s=2.0, clock=SystemClock())
        rates = SharedRates(local, link)
        running = await rates.admit(ACME, 1)
        server.kill()
        alone = await rates.admit(ACME, 1)
        with pytest.raises(RateLimitExceeded):
            await rates.admit(ACME, 1)
        assert (rates.fallbacks, link.up) == (2, False)
        alone.end(0)
        running.end(0)
        await rates.drain()
        await rates.renew()
        server.start()
        for _ in range(100):
            (await rates.admit(GLOBEX, 1)).end(0)
            (await rates.admit(ACME, 1)).end(0)
            await rates.drain()
            if link.up:
                break
            await asyncio.sleep(0.05)
        before = rates.fallbacks
        await rates.admit(ACME, 1)
        with pytest.raises(RateLimitExceeded):
            await SharedRates(local, link).admit(ACME, 1)
        assert (link.up, rates.fallbacks) == (True, before)
        await link.aclose()
