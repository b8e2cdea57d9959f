"""The store's own future: all that a `concurrent.futures.Future` does where it is used."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError

import pytest

from trivet.storage.promise import Promise, then


def test_a_result_is_told_to_all() -> None:
    """Who came before the end and who comes after it hear of it, in their order."""
    promise: Promise[int] = Promise()
    heard: list[tuple[str, int]] = []
    promise.add_done_callback(lambda done: heard.append(("before", done.result())))
    assert promise.set_running_or_notify_cancel()
    assert promise.running()
    promise.set_result(7)
    promise.add_done_callback(lambda done: heard.append(("after", done.result())))
    assert heard == [("before", 7), ("after", 7)]
    assert (promise.done(), promise.running(), promise.cancelled()) == (True, False, False)
    assert (promise.result(), promise.exception()) == (7, None)


def test_a_thread_waits_for_it() -> None:
    """`result` blocks until another thread ends it, and no longer than it may."""
    promise: Promise[str] = Promise()
    with pytest.raises(TimeoutError):
        promise.result(0.01)
    ending = threading.Timer(0.02, promise.set_result, ["there"])
    ending.start()
    assert promise.result(30) == "there"
    ending.join()


def test_an_error_is_raised() -> None:
    """What the operation raised is what `result` raises."""
    promise: Promise[int] = Promise()
    promise.set_exception(LookupError("gone"))
    assert isinstance(promise.exception(), LookupError)
    with pytest.raises(LookupError, match="gone"):
        promise.result()


def test_it_is_cancelled_only_before_it_begins() -> None:
    """Cancelled in time it never begins; later it cannot be cancelled."""
    taken_back: Promise[int] = Promise()
    heard: list[bool] = []
    taken_back.add_done_callback(lambda done: heard.append(done.cancelled()))
    assert taken_back.cancel()
    assert taken_back.cancel()
    assert heard == [True]
    assert not taken_back.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        taken_back.result()
    begun: Promise[int] = Promise()
    begun.set_running_or_notify_cancel()
    assert not begun.cancel()


def test_it_ends_once() -> None:
    """A second end, and a second beginning, are mistakes."""
    promise: Promise[int] = Promise()
    promise.set_running_or_notify_cancel()
    with pytest.raises(InvalidStateError):
        promise.set_running_or_notify_cancel()
    promise.set_result(1)
    with pytest.raises(InvalidStateError):
        promise.set_exception(LookupError())
    assert promise.result() == 1


def test_what_fails_after_it_hurts_nobody() -> None:
    """A callback that fails keeps neither the next one nor who ends it from going on."""
    promise: Promise[int] = Promise()
    heard: list[int] = []

    def fail(_: "Future[int]") -> None:
        raise LookupError

    promise.add_done_callback(fail)
    promise.add_done_callback(lambda done: heard.append(done.result()))
    promise.set_result(3)
    assert heard == [3]


def test_what_follows_is_told_first() -> None:
    """`then` changes a result before those who wait are told, and passes errors on."""
    promise: Promise[int] = Promise()
    changed = then(promise, lambda number: number + 1)
    promise.set_result(1)
    assert changed.result() == 2
    failing: Promise[int] = Promise()
    passed = then(failing, lambda number: number + 1)
    failing.set_exception(LookupError())
    assert isinstance(passed.exception(), LookupError)


def test_what_fails_to_follow_is_told() -> None:
    """A follow-up that fails, or whose promise is cancelled, leaves nobody waiting."""

    def fail(_: int) -> int:
        raise LookupError("no more")

    promise: Promise[int] = Promise()
    changed = then(promise, fail)
    promise.set_result(1)
    with pytest.raises(LookupError, match="no more"):
        changed.result(10)
    assert promise.result() == 1
    cancelled: Promise[int] = Promise()
    follows = then(cancelled, fail)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        follows.result(10)


def test_a_follow_up_makes_the_result() -> None:
    """What a promise is ended with is followed up first, once, and such a promise cannot be cancelled."""
    made: list[int] = []

    def count(number: int) -> str:
        made.append(number)
        return "x" * number

    promise: Promise[str] = Promise(count)
    heard: list[tuple[str, int]] = []
    promise.add_done_callback(lambda done: heard.append((done.result(), len(made))))
    assert not promise.cancel()
    assert promise.set_running_or_notify_cancel()
    promise.set_result(3)
    assert heard == [("xxx", 1)]
    with pytest.raises(InvalidStateError):
        promise.set_result(4)
    assert (promise.result(), made) == ("xxx", [3])
    failed: Promise[str] = Promise(count)
    failed.set_exception(LookupError("no"))
    with pytest.raises(LookupError, match="no"):
        failed.result()
    assert made == [3]


async def test_asyncio_wraps_it() -> None:
    """`asyncio.wrap_future` takes it, and cancels it in time."""
    promise: Promise[int] = Promise()
    threading.Timer(0.01, promise.set_result, [5]).start()
    assert await asyncio.wrap_future(promise) == 5
    other: Promise[int] = Promise()
    wrapped = asyncio.wrap_future(other)
    wrapped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wrapped
    await asyncio.sleep(0)
    assert other.cancelled()
