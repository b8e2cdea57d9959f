"""How results come from the writer thread to event loops: those of one commit together, one wake-up for all.

`asyncio.wrap_future` wakes the loop once for each future, by a system call in which the writer thread gives
up the interpreter's lock. With 32 callers that costs more than the writing.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import TypeVar

T = TypeVar("T")

_Waiting = list["asyncio.Future[None]"]


class _Post(threading.local):
    """What this thread has to deliver; None: it delivers each result by itself."""

    bag: dict[asyncio.AbstractEventLoop, _Waiting] | None = None


_post = _Post()


@contextlib.contextmanager
def delivery() -> Iterator[None]:
    """Deliver the results of all futures that this thread resolves meanwhile at the end, loop by loop."""
    bag = _post.bag = {}
    try:
        yield
    finally:
        _post.bag = None
        for loop, waiting in bag.items():
            _call(loop, waiting)


async def awaited(future: "Future[T]") -> T:
    """Wait for a future without blocking the event loop, as `asyncio.wrap_future` does.

    A caller that is cancelled cancels the future, if that has not begun.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def tell(_: "Future[T]") -> None:
            bag = _post.bag
            if bag is None:
                _call(loop, [waiter])
            elif loop in bag:
                bag[loop].append(waiter)
            else:
                bag[loop] = [waiter]

        future.add_done_callback(tell)
        try:
            await waiter
        except asyncio.CancelledError:
            future.cancel()
            raise
    try:
        return future.result()
    except CancelledError:
        raise asyncio.CancelledError from None


def _call(loop: asyncio.AbstractEventLoop, waiting: _Waiting) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
        loop.call_soon_threadsafe(_hand_over, waiting)


def _hand_over(waiting: _Waiting) -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
