"""What follows a future before those who wait for it are told."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from trivet.storage.promise import Promise

S = TypeVar("S")
T = TypeVar("T")


def then(future: "Future[S]", change: Callable[[S], T]) -> "Future[T]":
    """Return a future of what `change` makes of the result; it runs before whoever waits is told."""
    changed: Promise[T] = Promise()
    changed.set_running_or_notify_cancel()

    def pass_on(done: "Future[S]") -> None:
        error = done.exception()
        if error is not None:
            changed.set_exception(error)
        else:
            changed.set_result(change(done.result()))

    future.add_done_callback(pass_on)
    return changed
