"""How results come from the writer thread to event loops: those of one commit together, one wake-up for all.

`asyncio.wrap_future` wakes the loop once for each future, by a system call in which the writer thread gives
up the interpreter's lock. With 32 callers that costs more than the writing.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

_Calls = list[tuple[Callable[[Any], None], Future[Any]]]


class _Post(threading.local):
    """What this thread has to deliver; None: it delivers each result by itself."""

    bag: dict[asyncio.AbstractEventLoop, _Calls] | None = None


_post = _Post()


@contextlib.contextmanager
def delivery() -> Iterator[None]:
    """Deliver the results of all futures that this thread resolves meanwhile at the end, loop by loop."""
    bag = _post.bag = {}
    try:
        yield
    finally:
        _post.bag = None
        for loop, calls in bag.items():
            _bring(loop, calls)


async def awaited(future: "Future[T]") -> T:
    """Wait for a future without blocking the event loop, as `asyncio.wrap_future` does.

    A caller that is cancelled cancels the future, if that has not begun.
    """
    try:
        await done(future)
    except asyncio.CancelledError:
        future.cancel()
        raise
    try:
        return future.result()
    except CancelledError:
        raise asyncio.CancelledError from None


async def done(future: "Future[T]") -> None:
    """Wait until a future is done; a caller that is cancelled leaves it alone."""
    if future.done():
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_: "Future[T]") -> None:
        if not waiter.done():
            waiter.set_result(None)

    call_when_done(future, tell)
    await waiter


def call_when_done(future: "Future[T]", call: "Callable[[Future[T]], None]") -> None:
    """Have the running loop call something with the future once that is done."""
    loop = asyncio.get_running_loop()

    def bring(ended: "Future[T]") -> None:
        bag = _post.bag
        if bag is None:
            _bring(loop, [(call, ended)])
        elif loop in bag:
            bag[loop].append((call, ended))
        else:
            bag[loop] = [(call, ended)]

    future.add_done_callback(bring)


def _bring(loop: asyncio.AbstractEventLoop, calls: _Calls) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
        loop.call_soon_threadsafe(_make, calls)


def _make(calls: _Calls) -> None:
    for call, ended in calls:
        call(ended)
