"""How results come from the writer thread to event loops: those of one commit together, one wake-up for all.

`asyncio.wrap_future` wakes the loop once for each future, by a system call in which the writer thread gives
up the interpreter's lock. With 32 callers that costs more than the writing.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_Waiters = list["asyncio.Future[None]"]


class _Post(threading.local):
    """Whom this thread has to wake; None: it wakes each by itself."""

    bag: dict[asyncio.AbstractEventLoop, _Waiters] | None = None


_post = _Post()


@contextlib.contextmanager
def delivery() -> Iterator[None]:
    """Deliver the results of all futures that this thread resolves meanwhile at the end, loop by loop."""
    bag = _post.bag = {}
    try:
        yield
    finally:
        _post.bag = None
        for loop, waiters in bag.items():
            _wake_all(loop, waiters)


async def awaited(future: "Future[T]") -> T:
    """Wait for a future without blocking the event loop, as `asyncio.wrap_future` does.

    A caller that is cancelled cancels the future, if that has not begun.
    """
    if not future.done():
        try:
            await end_of(future)
        except asyncio.CancelledError:
            future.cancel()
            raise
    try:
        return future.result()
    except CancelledError:
        raise asyncio.CancelledError from None


async def done(future: "Future[Any]") -> None:
    """Wait until a future is done; a caller that is cancelled leaves it alone."""
    if not future.done():
        await end_of(future)


def end_of(future: "Future[Any]") -> "asyncio.Future[None]":
    """Return a future of the running loop that ends, with nothing in it, once `future` has ended."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(partial(_report, loop, waiter))
    return waiter


def _report(loop: asyncio.AbstractEventLoop, waiter: "asyncio.Future[None]", _: "Future[Any]") -> None:
    bag = _post.bag
    if bag is None:
        _wake_all(loop, [waiter])
    elif loop in bag:
        bag[loop].append(waiter)
    else:
        bag[loop] = [waiter]


def _wake_all(loop: asyncio.AbstractEventLoop, waiters: _Waiters) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
        loop.call_soon_threadsafe(_end, waiters)


def _end(waiters: _Waiters) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
