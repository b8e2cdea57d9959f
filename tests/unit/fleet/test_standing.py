"""A state that is waited for: whoever waits is woken, and the wait is estimated from the last one."""

import asyncio

import pytest

from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineLoading
from trivet.engines.protocol import Health
from trivet.fleet.standing import Standing
from trivet.lab.virtual_time import run


def test_who_waits_is_woken_by_readiness_and_by_failure() -> None:
    """Both end a wait: a failed engine is found out by the request itself."""

    async def story(end: EngineState) -> float:
        standing = Standing(Health(EngineState.LOADING))
        waiters = [asyncio.create_task(standing.settled("it", 60.0)) for _ in range(3)]
        await asyncio.sleep(7.0)
        standing.show(Health(EngineState.LOADING, "still"))
        await asyncio.sleep(1.0)
        standing.show(Health(end))
        await asyncio.gather(*waiters)
        return asyncio.get_running_loop().time()

    assert [run(story(end)) for end in (EngineState.READY, EngineState.FAILED)] == [8.0, 8.0]


def test_a_wait_in_vain_says_what_it_waited_for() -> None:
    """After its time the error names the state."""

    async def story() -> None:
        await Standing(Health(EngineState.PULLING, "40 of 100 MB")).settled("it", 3.0)

    with pytest.raises(EngineLoading, match="still pulling after 3 s: 40 of 100 MB"):
        run(story())


def test_the_wait_is_expected_to_take_as_long_as_the_last_one() -> None:
    """Unknown at first; then what is left of the time that it took before; nothing when ready."""

    async def story() -> list[float | None]:
        standing = Standing(Health(EngineState.ABSENT))
        found = [standing.wait_s]
        standing.show(Health(EngineState.LOADING))
        found.append(standing.wait_s)
        await asyncio.sleep(10.0)
        standing.show(Health(EngineState.READY))
        found.append(standing.wait_s)
        standing.show(Health(EngineState.FAILED))
        standing.show(Health(EngineState.LOADING))
        await asyncio.sleep(4.0)
        return [*found, standing.wait_s]

    assert run(story()) == [None, None, 0.0, 6.0]
