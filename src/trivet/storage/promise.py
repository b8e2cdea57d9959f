"""A future that costs little: the store makes one or two for each operation.

`concurrent.futures.Future` makes a lock and a condition for each, which only who blocks a thread needs. That
was a tenth of a request's time in the ledger.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_PENDING, _RUNNING, _CANCELLED, _DONE = range(4)
_gate = threading.Lock()
"""Of every promise: it is held for two or three assignments, so nobody ever waits long."""


class Promise(Future[T]):
    """A `concurrent.futures.Future` by its methods, from any thread, and for `asyncio.wrap_future`.

    Only `concurrent.futures.wait` and `as_completed`, which look inside, do not know it.
    """

    def __init__(self, follow: Callable[[Any], T] | None = None) -> None:
        """Begin as pending. What the base class would make is not needed.

        `follow` makes the result of what the promise is ended with, in the thread that ends it and before
        anybody is told; if it fails, its error is the promise's. As it counts on the end, such a promise
        cannot be cancelled.
        """
        self._follow = follow
        self._stage = _PENDING
        self._value: Any = None
        self._fault: BaseException | None = None
        self._done_callbacks: list[Callable[[Future[T]], object]] = []

    def cancel(self) -> bool:
        """Cancel what has not begun; tell whether it is cancelled."""
        with _gate:
            if self._stage != _PENDING or self._follow is not None:
                return self._stage == _CANCELLED
            self._stage = _CANCELLED
        self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed leaves it out
        self._done_callbacks = []
        return True

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self._stage == _CANCELLED

    def running(self) -> bool:
        """Tell whether it has begun and not ended."""
        return self._stage == _RUNNING

    def done(self) -> bool:
        """Tell whether it has ended, however that was."""
        return self._stage >= _CANCELLED

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn` with the future when it has ended, in the thread that ends it, or else now."""
        with _gate:
            if self._stage < _CANCELLED:
                self._done_callbacks.append(fn)
                return
        fn(self)

    def result(self, timeout: float | None = None) -> T:
        """Return the result; blocks until it is there, for `timeout` seconds at most.

        Raises:
            TimeoutError, CancelledError: see above; or what the operation raised.
        """
        fault = self._fault if self._stage == _DONE else self.exception(timeout)
        if fault is not None:
            try:
                raise fault
            finally:
                del fault  # its traceback holds this frame
        value: T = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the operation raised; None if it did not. Otherwise as `result`."""
        if self._stage < _CANCELLED:
            ended = threading.Event()
            self.add_done_callback(lambda _: ended.set())
            if not ended.wait(timeout):
                raise TimeoutError
        if self._stage == _CANCELLED:
            raise CancelledError
        return self._fault

    def set_running_or_notify_cancel(self) -> bool:
        """Begin, after which nobody can cancel it any more; False if it was cancelled."""
        with _gate:
            if self._stage == _PENDING:
                self._stage = _RUNNING
                return True
        if self._stage == _CANCELLED:
            return False
        raise InvalidStateError(f"it has begun before: {self!r}")

    def set_result(self, result: Any) -> None:
        """End with a result, or with what follows from it."""
        if self._follow is None:
            self._end(result, None)
            return
        if self._stage >= _CANCELLED:
            raise self._ended_before()
        try:
            followed, fault = self._follow(result), None
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; who ends it goes on
            followed, fault = None, error
        self._end(followed, fault)

    def set_exception(self, exception: BaseException | None) -> None:
        """End with an error."""
        self._end(None, exception)

    def _end(self, value: Any, fault: BaseException | None) -> None:
        with _gate:
            if self._stage >= _CANCELLED:
                raise self._ended_before()
            self._value, self._fault, self._stage = value, fault, _DONE
        if self._done_callbacks:
            # The base class's own way: of a call that fails it tells the log.
            self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed leaves it out
            self._done_callbacks = []

    def _ended_before(self) -> InvalidStateError:
        return InvalidStateError(f"it has ended before: {self!r}")

    def __repr__(self) -> str:
        return f"<Promise {('pending', 'running', 'cancelled', 'done')[self._stage]}>"


def then(future: "Future[S]", change: Callable[[S], T]) -> "Future[T]":
    """Return a future of what `change` makes of the result; it runs before whoever waits is told.

    If `change` fails, its error is the future's.
    """
    changed: Promise[T] = Promise(change)

    def pass_on(done: "Future[S]") -> None:
        try:
            error = done.exception()
        except CancelledError as cancelled:
            error = cancelled
        if error is not None:
            changed.set_exception(error)
        else:
            changed.set_result(done.result())

    future.add_done_callback(pass_on)
    return changed
