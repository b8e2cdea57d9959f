"""Whether Trivet still takes requests: once it was told to stop it takes none, and lets the others end.

What has reached an engine runs on. What still waits, for a budget, a model or a place, is refused at once:
another replica serves it sooner.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from trivet.domain.errors import Stopping

RETRY_AFTER_S = 5.0


def stopping() -> Stopping:
    """Return the refusal; the connection closes with it, so that the client's next one goes elsewhere."""
    return Stopping(
        "Trivet is stopping.",
        hint="Try again, or another replica.",
        retry_after_s=RETRY_AFTER_S,
        details={"headers": {"connection": "close"}},
    )


class Waits(Protocol):
    """A request on its way."""

    @property
    def at_work(self) -> bool:
        """Tell whether an engine has it now."""
        ...


class Drain:
    """For the event loop's thread. Begins once and does not end."""

    def __init__(self) -> None:
        self.begun = False
        self._open: dict[str, Wait] = {}
        self._listeners: list[Callable[[], None]] = []
        self._empty: asyncio.Event | None = None
        """Set when no request is open any more; None: nobody waits for that."""

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a plain call made when it begins."""
        self._listeners.append(listener)

    def begin(self) -> None:
        """Take no requests any more, and break off those that wait. Idempotent; a plain call."""
        if self.begun:
            return
        self.begun = True
        for wait in tuple(self._open.values()):
            wait.break_off()
        for listener in self._listeners:
            listener()

    def check(self) -> None:
        """Let pass while requests are taken.

        Raises:
            Stopping: none are any more.
        """
        if self.begun:
            raise stopping()

    def opened(self, request_id: str, request: Waits) -> "Wait":
        """Note a request that will be closed.

        While the returned context is open, the beginning breaks off what is inside it, unless an engine has
        the request by then. Cheap: every request passes through here.
        """
        wait = self._open[request_id] = Wait(request)
        return wait

    def closed(self, request_id: str) -> None:
        """Note that a request has told its end; those that were never opened do not count."""
        self._open.pop(request_id, None)
        if self._empty is not None and not self._open:
            self._empty.set()
            self._empty = None

    async def empty(self) -> None:
        """Wait until no request is open."""
        while self._open:
            self._empty = self._empty or asyncio.Event()
            await self._empty.wait()


class Wait:
    """A part of a request's way that may be broken off; leaving it so raises Stopping."""

    __slots__ = ("_before", "_broken", "_request", "_task")

    def __init__(self, request: Waits) -> None:
        self._request = request
        self._broken = False
        self._task: asyncio.Task[Any] | None = None
        """Set while it is open."""

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task, self._before = task, task.cancelling()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        task, self._task = self._task, None
        if not self._broken or task is None:
            return
        # As asyncio's own timeouts do: a cancellation that somebody else asked for as well stays one.
        if task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise stopping() from None

    def break_off(self) -> None:
        """Cancel it if it is open, unless an engine is at work."""
        if self._task is not None and not self._broken and not self._request.at_work:
            self._broken = True
            self._task.cancel()
