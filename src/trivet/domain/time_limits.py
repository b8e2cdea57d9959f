"""Limits of time that cost little where they are not needed, which is nearly always."""

import asyncio
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class TimeLimit:
    """Like `asyncio.timeout_at`, for a plain `with`: three calls instead of ten.

    Raises:
        TimeoutError: on leaving, where the time came while the task waited within.
    """

    __slots__ = ("_at_s", "_cancelling", "_expired", "_task", "_timer")

    def __init__(self, at_s: float) -> None:
        """Take the instant, by the running loop's time."""
        self._at_s = at_s
        self._expired = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = loop.call_at(self._at_s, self._expire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        # Whoever else cancelled the task is to be heard, too.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


class WaitLimit:
    """A TimeLimit for the waits of one task, one after the other: a timer is set anew only where one rings.

    Raises:
        TimeoutError: as TimeLimit does; the next wait has its own time.
    """

    __slots__ = ("_at_s", "_cancelling", "_expired", "_loop", "_rings_at_s", "_task", "_timer", "_waits")

    def __init__(self) -> None:
        """Begin, in the task that will wait."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task = task
        self._loop = task.get_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._expired = self._waits = False
        self._at_s = self._rings_at_s = 0.0

    def until(self, at_s: float) -> "WaitLimit":
        """Take the instant for the next wait, by the loop's time."""
        self._at_s = at_s
        return self

    def close(self) -> None:
        """End it; to be called in the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        if self._timer is None or self._at_s < self._rings_at_s:
            self._set_timer()
        self._cancelling = self._task.cancelling()
        self._waits = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waits = False
        if self._expired:
            self._expired = False
            # Whoever else cancelled the task is to be heard, too.
            if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _set_timer(self) -> None:
        self.close()
        self._rings_at_s = self._at_s
        self._timer = self._loop.call_at(self._at_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._waits:
            return
        if self._loop.time() < self._at_s:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()


class Patience:
    """How long each of many waits may last: as it is the same for all of them, one timer serves them all.

    For one event loop's thread.
    """

    __slots__ = ("_loop", "_timeout_s", "_until_s")

    def __init__(self, timeout_s: float) -> None:
        """Take the limit."""
        self._timeout_s = timeout_s
        self._until_s: dict[asyncio.Future[None], float] = {}
        """What is waited for, and until when, by the loop's time; the first comes first."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the timer runs; None: it does not."""

    async def wait(self, waiter: "asyncio.Future[None]") -> None:
        """Wait for a future that nobody else waits for.

        Raises:
            TimeoutError: it took too long.
        """
        loop = asyncio.get_running_loop()
        self._until_s[waiter] = loop.time() + self._timeout_s
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(self._timeout_s, self._look, loop)
        try:
            await waiter
        finally:
            del self._until_s[waiter]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the waits whose time has come, and come again for the next."""
        now_s = loop.time()
        for waiter, until_s in self._until_s.items():
            if until_s > now_s:
                loop.call_at(until_s, self._look, loop)
                return
            if not waiter.done():
                waiter.set_exception(TimeoutError())
        self._loop = None


async def at_once_or_within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns. Only work that has to wait for something is given a limit.

    Raises:
        TimeoutError: it took longer.
    """
    try:
        awaited = work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    with TimeLimit(asyncio.get_running_loop().time() + timeout_s):
        return await _Begun(work, awaited)


class _Begun(Generic[T]):
    """Goes on with a coroutine that has been started and waits for something."""

    __slots__ = ("_awaited", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, T]:
        awaited = self._awaited
        while True:
            try:
                try:
                    sent = yield awaited
                except (asyncio.CancelledError, GeneratorExit) as error:  # a task throws nothing else
                    awaited = self._work.throw(error)
                else:
                    awaited = self._work.send(sent)
            except StopIteration as ended:
                result: T = ended.value
                return result
