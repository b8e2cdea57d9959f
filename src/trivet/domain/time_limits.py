"""Limits of time that cost little where they are not needed, which is nearly always."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

K = TypeVar("K")
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

    __slots__ = ("_at_s", "_cancelling", "_expired", "_rings_at_s", "_task", "_timer", "_waits", "loop")

    def __init__(self) -> None:
        """Begin, in the task that will wait."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task = task
        self.loop = task.get_loop()
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
        self._timer = self.loop.call_at(self._at_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._waits:
            return
        if self.loop.time() < self._at_s:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()


class Deadlines(Generic[K]):
    """The deadlines of many waits: one timer serves them all, and most waits end without touching it.

    For one event loop's thread.
    """

    __slots__ = ("_by", "_expire", "_loop", "_rings_at_s", "_timer")

    def __init__(self, expire: Callable[[K], None]) -> None:
        """Take what to do with a wait whose time has come; it is forgotten by then."""
        self._expire = expire
        self._by: dict[K, float] = {}
        self._rings_at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self, wait: K, at_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Let a wait end at an instant, by the running loop's time."""
        self._by[wait] = at_s
        if at_s < self._rings_at_s or loop is not self._loop:
            self._loop = loop
            self._ring_at(at_s, loop)

    def lift(self, wait: K) -> None:
        """Let it last, or forget that it has ended."""
        self._by.pop(wait, None)

    def _ring_at(self, at_s: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at_s = at_s
        self._timer = loop.call_at(at_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the waits whose time has come, and come again for the next."""
        self._timer, self._rings_at_s = None, math.inf
        now_s = loop.time()
        for wait in [wait for wait, at_s in self._by.items() if at_s <= now_s]:
            del self._by[wait]
            self._expire(wait)
        if self._by and self._timer is None:
            self._ring_at(min(self._by.values()), loop)


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
