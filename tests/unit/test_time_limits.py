"""Limits of time behave as asyncio's own do."""

import asyncio

import pytest

from trivet.domain.time_limits import Deadlines, TimeLimit, WaitLimit, at_once_or_within


def later(seconds: float) -> float:
    """Return an instant by the loop's time."""
    return asyncio.get_running_loop().time() + seconds


async def test_what_takes_too_long_is_ended() -> None:
    """The wait is cut short, and the task may go on."""
    with pytest.raises(TimeoutError), TimeLimit(later(0.01)):
        await asyncio.sleep(60)
    await asyncio.sleep(0)


async def test_what_is_quick_is_left_alone() -> None:
    """Neither result nor error is changed, nor is anything cancelled afterwards."""
    with TimeLimit(later(0.01)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)
    with pytest.raises(KeyError), TimeLimit(later(60)):
        raise KeyError


async def test_another_cancellation_is_heard() -> None:
    """Whoever cancels the task while it waits is not taken for the limit, not even at the same moment."""

    async def work() -> None:
        with TimeLimit(later(0.0)):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_limits_may_lie_within_one_another() -> None:
    """The outer one, if it comes first, is raised outside."""
    with pytest.raises(TimeoutError), TimeLimit(later(0.01)), TimeLimit(later(60)):
        await asyncio.sleep(60)


async def test_work_that_need_not_wait() -> None:
    """Its result, or its error, comes as if it had been awaited."""

    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise KeyError

    assert await at_once_or_within(0.0, answer()) == 42
    with pytest.raises(KeyError):
        await at_once_or_within(0.0, fail())


async def test_work_that_waits() -> None:
    """It goes on where it stopped, is ended when its time is over, and may clean up."""
    ended: list[str] = []

    async def work(seconds: float) -> str:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "done"

    assert await at_once_or_within(60.0, work(0.001)) == "done"
    with pytest.raises(TimeoutError):
        await at_once_or_within(0.01, work(60.0))
    assert ended == ["cancelled"]
    task = asyncio.create_task(at_once_or_within(60.0, work(60.0)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled", "cancelled"]


async def test_one_timer_serves_many_waits() -> None:
    """Each ends when its own time has come, in whatever order they were set and lifted."""
    loop, ended = asyncio.get_running_loop(), asyncio.Queue[str]()
    deadlines = Deadlines[str](ended.put_nowait)
    began_s = loop.time()
    for wait, after_s in {"last": 0.09, "lifted": 0.01, "first": 0.03, "second": 0.06, "never": 60.0}.items():
        deadlines.set(wait, began_s + after_s, loop)
    deadlines.lift("lifted")
    for wait, least_s in {"first": 0.03, "second": 0.06, "last": 0.09}.items():
        assert await ended.get() == wait
        assert loop.time() - began_s >= least_s - 0.002  # the loop's clock ticks in milliseconds
    deadlines.lift("last")
    deadlines.set("again", loop.time() + 0.01, loop)
    assert await ended.get() == "again"
    deadlines.set("lifted", loop.time() + 0.01, loop)
    deadlines.lift("lifted")
    await asyncio.sleep(0.03)
    assert ended.empty()


async def test_one_limit_for_many_waits() -> None:
    """Each has its own time: that of an earlier one, which was not needed, ends no later one."""
    limit = WaitLimit()
    with limit.until(later(0.01)):
        await asyncio.sleep(0)
    with limit.until(later(60)):
        await asyncio.sleep(0.03)
    for _ in range(2):
        with pytest.raises(TimeoutError), limit.until(later(0.01)):
            await asyncio.sleep(60)
    with limit.until(later(60)):
        await asyncio.sleep(0)
    limit.close()


async def test_many_waits_and_another_cancellation() -> None:
    """Between the waits nothing is cancelled, and whoever else cancels the task is heard."""

    async def work() -> None:
        limit = WaitLimit()
        with limit.until(later(0.01)):
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)
        with limit.until(later(0.0)):
            waits.set()
            await asyncio.sleep(60)

    waits = asyncio.Event()
    task = asyncio.create_task(work())
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
