"""An event loop on a virtual clock: what sleeps an hour has slept it at once, in the same order each time.

The real asyncio code runs in it, only time is made up: when nothing is ready to run, the clock jumps to the
next timer. Where there is no timer either, everybody waits for what nobody will do: that raises `NobodyActs`,
so a lost wake-up shows itself instead of hanging. No sockets, no processes, no threads.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class NobodyActs(Exception):
    """All tasks wait, and no timer will ever fire."""


class _TimeJumps(selectors.BaseSelector):
    """A selector without files: waiting is moving the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NobodyActs("Every task waits for another one.")
        self.now_s += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        # The loop registers the pipe by which other threads would wake it; there are none.
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, int(fileobj), events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumps = _TimeJumps()
        super().__init__(self.jumps)

    def time(self) -> float:
        return self.jumps.now_s


class LoopClock:
    """The running loop's time as a `domain.clock.Clock`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        """Return the instant since the first one of 2026."""
        return EPOCH + timedelta(seconds=self._loop.time())

    def monotonic_ns(self) -> int:
        """Return the loop's time in nanoseconds."""
        return round(self._loop.time() * 1e9)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a virtual clock that begins at 0.

    Raises:
        NobodyActs: it waits for something that will never come.
    """
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)
