"""Futures of futures, for whoever has no event loop to wait in."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")


def pass_on(future: "Future[T]", to: "Future[T]") -> None:
    """Give a future's result, or its error, to another one."""

    def tell(done: "Future[T]") -> None:
        if (error := done.exception()) is not None:
            to.set_exception(error)
        else:
            to.set_result(done.result())

    future.add_done_callback(tell)


def all_of(futures: "Sequence[Future[S]]") -> "Future[list[S]]":
    """Return a future of all results, or of the first error."""
    gathered: Future[list[S]] = Future()
    left = len(futures)
    if not left:
        gathered.set_result([])
    gate = threading.Lock()

    def count(done: "Future[S]") -> None:
        nonlocal left
        with gate:
            left -= 1
            last = left == 0
        if last:
            errors = [error for one in futures if (error := one.exception()) is not None]
            if errors:
                gathered.set_exception(errors[0])
            else:
                gathered.set_result([one.result() for one in futures])

    for future in futures:
        future.add_done_callback(count)
    return gathered
