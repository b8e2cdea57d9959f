"""The link to Redis: it says soon that there is no answer, and never mixes up two."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.doubles.scripted import scripted
from trivet.domain.clock import ManualClock, SystemClock
from trivet.domain.errors import StoreUnavailable
from trivet.lab.scratch_redis import ScratchRedis
from trivet.storage.redis_link import CONNECTIONS_MAX, RedisLink, Script

ECHO = Script("echo", "return {ARGV[1], #KEYS}")
BUSY = Script("busy", "local i = 0 while i < 3000000 do i = i + 1 end return ARGV[1]")


@pytest.fixture
async def link(redis: ScratchRedis) -> AsyncIterator[RedisLink]:
    """A link to a Redis that answers."""
    opened = RedisLink(redis.url, timeout_s=5.0, clock=SystemClock())
    yield opened
    await opened.aclose()


async def test_scripts_and_commands_are_answered(link: RedisLink) -> None:
    """A script the first time, by its digest, and after the server has forgotten it."""
    assert await link.run(ECHO, ["k"], ["a"]) == [b"a", 1]
    assert await link.run(ECHO, [], [2]) == [b"2", 0]
    await link.execute("SCRIPT", "FLUSH")
    assert await link.run(ECHO, [], ["c"]) == [b"c", 0]
    assert (link.up, link.failures) == (True, 0)


async def test_a_cancelled_caller_spoils_no_other_answer(link: RedisLink) -> None:
    """Whoever leaves amid its answer leaves nothing on the connection for the next one to read."""
    for number in range(20):
        asking = asyncio.create_task(link.run(BUSY, [], [f"left-{number}"]))
        await asyncio.sleep(0.002 * (number % 4))
        asking.cancel()
        answers = await asyncio.gather(*(link.run(ECHO, [], [f"{number}-{n}"]) for n in range(5)))
        assert [answer[0].decode() for answer in answers] == [f"{number}-{n}" for n in range(5)]
        await asyncio.gather(asking, return_exceptions=True)


async def test_many_callers_share_few_connections(link: RedisLink) -> None:
    """Each waits for its turn."""
    answers = await asyncio.gather(*(link.run(ECHO, [], [number]) for number in range(300)))
    assert [int(answer[0]) for answer in answers] == list(range(300))
    clients = (await link.execute("CLIENT", "LIST")).decode()
    assert clients.count("\n") <= CONNECTIONS_MAX + 2  # other tests' links may be there


async def test_a_server_that_hangs_is_given_up_soon() -> None:
    """After its timeout once; then nobody waits for it, until one tries again."""
    clock = ManualClock()
    async with scripted(then_hold=True) as url:
        link = RedisLink(url.replace("http://", "redis://"), timeout_s=0.05, clock=clock)
        with pytest.raises(StoreUnavailable):
            await link.execute("PING")
        cpu_s = time.process_time()
        for _ in range(50):
            with pytest.raises(StoreUnavailable, match="a moment ago"):
                await link.execute("PING")
        assert time.process_time() - cpu_s < 1
        assert (link.up, link.failures) == (False, 1)
        clock.advance(1.1)
        trying = asyncio.create_task(link.execute("PING"))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="a moment ago"):
            await link.execute("PING")
        with pytest.raises(StoreUnavailable):
            await trying
        await link.aclose()


async def test_a_wrong_password_is_no_answer() -> None:
    """Nor does the password stand in the error."""
    with ScratchRedis(password="right") as server:
        link = RedisLink(server.url.replace("right", "hunter2"), timeout_s=5.0, clock=SystemClock())
        with pytest.raises(StoreUnavailable) as refused:
            await link.execute("PING")
        await link.aclose()
    assert "hunter2" not in f"{refused.value!r} {refused.value.__cause__!r}"
