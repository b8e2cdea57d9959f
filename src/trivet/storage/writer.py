"""The one thread that writes: it takes what is queued, runs it in one transaction and commits once."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakSet

from trivet.domain.errors import StoreUnavailable
from trivet.domain.failpoints import reach
from trivet.storage.connections import WriterConnection, translated
from trivet.storage.delivery import delivery
from trivet.storage.draft import Draft
from trivet.storage.inbox import Inbox
from trivet.storage.promise import Promise

T = TypeVar("T")

# Operations that share one commit, and so one wait for the disk.
BATCH_LIMIT = 256

_TRIAL = """
    INSERT INTO meta (key, value)
    VALUES ('written_on_trial', ?)
        ON CONFLICT (key)
        DO UPDATE SET value = excluded.value
"""

_Job = tuple[Callable[[sqlite3.Connection], Any], "Future[Any]", Draft | None]
_Answer = tuple["Future[Any]", Any, BaseException | None]


class _ToUndo(Exception):
    """What operations noted together has to be undone."""


class Writer:
    """A daemon thread with a queue. A batch has one commit.

    Each operation has its own savepoint, but for those of a draft, which write together. An operation's error
    undoes that operation only. A commit that fails undoes, and fails, the batch. The thread survives every
    failure: while the connection is beyond use, each batch fails.
    """

    _began_s: float | None = None
    """Since when the batch at hand is under way."""
    _failed = False
    """Whether the last commit that would have changed anything failed."""
    _trial: "Future[None] | None" = None

    def __init__(self, connection: WriterConnection, batch_limit: int = BATCH_LIMIT) -> None:
        """Start the thread; it owns `connection` from now on and closes it at the end."""
        self._batch_limit = batch_limit
        self._connection = connection
        self._inbox: Inbox[_Job] = Inbox()
        self._drafts: WeakSet[Draft] = WeakSet()
        self._thread = threading.Thread(target=self._run, name="trivet-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        op: Callable[[sqlite3.Connection], T],
        draft: Draft | None = None,
        *,
        patient: bool = False,
        follow: Callable[[Any], T] | None = None,
    ) -> "Future[T]":
        """Queue `op`. The future resolves after the commit; StoreUnavailable if the store is closed.

        A future cancelled before its operation begins takes the operation back; later it cannot be cancelled.
        `draft`: where it notes what it writes; see there. `patient`: nobody waits for it, so it may wait a
        few milliseconds for others to share a commit with. `follow`: what follows once it is on disk, before
        anybody is told; see `storage.promise`.
        """
        future: Promise[T] = Promise(follow)
        if not self._inbox.put((op, future, draft), patient=patient):
            future.set_exception(closed_error())
        return future

    def wait(self, future: "Future[T]") -> T:
        """Wait for a result from any thread but the writer's own, where it would wait for ever."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "the writer thread cannot wait for itself: use the connection that it was given"
            )
        return future.result()

    def catch_up(self, within_s: float) -> None:
        """Wait until all that is queued now has been committed, or has failed; no longer than this."""
        if threading.current_thread() is self._thread:
            return
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            self.submit(_write_nothing).result(within_s)

    def answers(self, within_s: float) -> bool:
        """Tell, without waiting, whether what is asked now would be written.

        It would not where a batch has been under way for longer than `within_s`, or the last one that would
        have changed something failed. Then one small write is tried for each time that this is asked and none
        is under way: where nobody sends requests to a server that is not ready, nothing else would show that
        the disk has room again.
        """
        began_s = self._began_s
        if began_s is not None and time.monotonic() - began_s > within_s:
            return False
        if self._failed and (self._trial is None or self._trial.done()):
            self._trial = self.submit(_write_little)
        return not self._failed

    def close(self) -> None:
        """Refuse new operations, finish the queued ones, close the connection; idempotent."""
        self._inbox.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while jobs := self._inbox.take(self._batch_limit):
            # What its owner cancelled in time is not run at all.
            if begun := [job for job in jobs if job[1].set_running_or_notify_cancel()]:
                self._began_s = time.monotonic()
                self._commit_together(begun)
                self._began_s = None
        self._connection.close()

    def _commit_together(self, jobs: list[_Job]) -> None:
        answers: list[_Answer] = []
        try:
            changes = self._connection.total_changes
            self._roll_back()  # what a failure left open, if rolling it back failed as well
            self._connection.execute("BEGIN IMMEDIATE")
            for draft, some in _runs(jobs):
                if draft is None:
                    answers += self._apart(some)
                else:
                    answers += self._together(draft, some, first=not answers)
            reach("inside_commit")
            self._connection.execute("COMMIT")
            reach("after_commit")
            if self._failed and self._connection.total_changes != changes:
                self._failed = False
        except BaseException as error:  # noqa: BLE001 - this thread must answer, and live to answer again
            failure = _unavailable(error)
            self._failed = True
            answers = [(job[1], None, failure) for job in jobs]
            self._forget()
            # Where it fails, the transaction stays open: the next batch tries again before it begins.
            with contextlib.suppress(sqlite3.Error):
                self._roll_back()
        with delivery():
            for future, result, problem in answers:
                if problem is None:
                    future.set_result(result)
                else:
                    future.set_exception(problem)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _apart(self, jobs: list[_Job]) -> Iterator[_Answer]:
        """Run operations that write by themselves. What drafts know may then be true no more."""
        for op, future, _ in jobs:
            before = self._connection.total_changes
            result, problem = self._attempt(op)
            if problem is not None or self._connection.total_changes != before:
                self._forget()
            yield future, result, problem

    def _together(self, draft: Draft, jobs: list[_Job], *, first: bool) -> list[_Answer]:
        """Run operations that note what they write, and enter it; alone, if that fails.

        `first`: they are the first in their transaction, which then is begun again in place of a savepoint,
        for which SQLite would copy every page before it is changed.
        """
        connection = self._connection
        self._forget(but=draft)
        self._drafts.add(draft)
        if not first:
            connection.execute("SAVEPOINT together")
        try:
            answers = self._entered(draft, jobs)
        except _ToUndo as failure:
            if not connection.in_transaction:
                raise _lost(failure) from failure
            if first:
                self._roll_back()
                connection.execute("BEGIN IMMEDIATE")
            else:
                connection.execute("ROLLBACK TO together")
            answers = []
            for op, future, _ in jobs:
                draft.forget()
                answers.append((future, *self._attempt(op, draft)))
        if not first:
            connection.execute("RELEASE together")
        return answers

    def _entered(self, draft: Draft, jobs: list[_Job]) -> list[_Answer]:
        """Return the answers once everything is entered.

        Raises:
            _ToUndo: an operation failed after it had noted something, or not everything can be entered.
        """
        answers: list[_Answer] = []
        for op, future, _ in jobs:
            noted = draft.noted
            try:
                answers.append((future, op(self._connection), None))
            except BaseException as error:
                if draft.noted != noted:
                    raise _ToUndo from error
                answers.append((future, None, translated(error)))
        try:
            draft.enter(self._connection)
        except Exception as error:  # whose it is shows when they run alone
            raise _ToUndo from error
        return answers

    def _attempt(
        self, op: Callable[[sqlite3.Connection], Any], draft: Draft | None = None
    ) -> tuple[Any, BaseException | None]:
        """Run one operation in its savepoint. Raises sqlite3.Error when the batch itself is lost."""
        connection = self._connection
        connection.execute("SAVEPOINT operation")
        try:
            result = op(connection)
            if draft is not None:
                draft.enter(connection)
        except BaseException as error:  # whatever it is, it is the caller's
            if not connection.in_transaction:
                raise _lost(error) from error
            connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
            if draft is not None:
                draft.forget()
            return None, translated(error)
        connection.execute("RELEASE operation")
        return result, None

    def _forget(self, but: Draft | None = None) -> None:
        for draft in self._drafts:
            if draft is not but:
                draft.forget()


def _write_nothing(_: sqlite3.Connection) -> None:
    """Take a turn."""


def _write_little(connection: sqlite3.Connection) -> None:
    """Change what nobody reads, so that there is something to commit."""
    connection.execute(_TRIAL, (str(time.time_ns()),))


def _runs(jobs: list[_Job]) -> Iterator[tuple[Draft | None, list[_Job]]]:
    """Return the jobs in their order, as many together as have the same draft."""
    first = 0
    for place, job in enumerate(jobs):
        draft = jobs[first][2]
        if job[2] is not draft:
            yield draft, jobs[first:place]
            first = place
    yield jobs[first][2], jobs[first:]


def closed_error() -> StoreUnavailable:
    """Return what a closed store answers."""
    return StoreUnavailable(
        "The store is closed.", hint="Trivet is shutting down; try again when it is back."
    )


def _unavailable(error: BaseException) -> BaseException:
    """Return the failure of a whole batch: none of it happened, whatever the driver's error says."""
    failure = StoreUnavailable(
        f"The store could not commit: {error}.",
        hint="Check the disk's free space and the permissions of store.path.",
    )
    failure.__cause__ = error
    return failure


def _lost(error: BaseException) -> sqlite3.OperationalError:
    """Return the failure of a batch of which nothing is left: a full disk makes SQLite undo all of it."""
    return sqlite3.OperationalError(f"the transaction was lost: {error.__cause__ or error}")
