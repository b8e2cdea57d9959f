"""The one thread that talks to PostgreSQL for the ledger: what has gathered goes in one call and one commit.

While a call is under way the next batch gathers, so under contention every commit carries many operations,
and a lone one goes at once. A connection that breaks leaves open whether its last transaction was committed;
that is found out, never guessed.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

import psycopg

from trivet.budgets.postgres_carrier import Carrier
from trivet.budgets.postgres_operations import Operation
from trivet.budgets.postgres_session import Session, is_lost
from trivet.domain.errors import StoreUnavailable
from trivet.storage import postgres
from trivet.storage.writer import closed_error

BATCH_LIMIT = 128
_LOOK_S = 0.05


class Gateway:
    """A queue, the thread that empties it, and a watch so that no caller waits for ever."""

    def __init__(
        self,
        url: str,
        owner: str,
        carrier: Carrier,
        *,
        connected: Callable[[psycopg.Connection[Any]], None],
        answer_within_s: float,
        batch_limit: int = BATCH_LIMIT,
    ) -> None:
        """Start the threads.

        Args:
            url: the store's.
            owner: this replica.
            carrier: brings operations there.
            connected: is given each new connection first.
            answer_within_s: after which a caller is told that the store is unavailable.
            batch_limit: operations that share a call at most.
        """
        self._batch_limit = batch_limit
        self._carrier = carrier
        self._answer_within_s = answer_within_s
        self._session = Session(url, owner, connected)
        self._waiting: deque[Operation] = deque()
        self._in_flight: Sequence[Operation] = ()
        self._closing = False
        self._gate = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trivet-ledger", daemon=True)
        self._thread.start()
        self._watch = threading.Thread(target=self._watch_over, name="trivet-ledger-watch", daemon=True)
        self._watch.start()

    def submit(self, operation: Operation) -> None:
        """Queue an operation; its future resolves when it is on disk."""
        operation.submitted_s = time.monotonic()
        with self._gate:
            if not self._closing:
                self._waiting.append(operation)
                self._gate.notify()
                return
        operation.fail(closed_error())

    def catch_up(self, within_s: float) -> None:
        """Wait until all operations queued now are on disk, or have failed; no longer than this."""
        if threading.current_thread() not in (self._thread, self._watch):
            with self._gate:
                under_way = [one.future for one in (*self._in_flight, *self._waiting)]
            wait(under_way, within_s)

    def close(self) -> None:
        """Finish what is queued, then end; idempotent."""
        with self._gate:
            self._closing = True
            self._gate.notify()
        self._thread.join()
        self._ended.set()
        self._watch.join()

    def _run(self) -> None:
        while batch := self._take():
            self._guarded(batch)
            self._in_flight = ()
        self._session.drop()

    def _guarded(self, batch: list[Operation]) -> None:
        """Serve a batch whatever happens; what nobody foresaw fails the one operation whose fault it is."""
        try:
            self._serve(batch)
        except BaseException as error:  # noqa: BLE001 - this thread must answer, and live to answer again
            self._session.drop()
            left = [one for one in batch if not one.future.done()]
            if len(batch) == 1:
                self._fail(left, postgres.translated(error))
                return
            for operation in left:
                self._guarded([operation])

    def _take(self) -> list[Operation]:
        """Wait for operations; none: the end was reached."""
        with self._gate:
            while True:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_limit))]
                # A future that its owner cancelled in time is not served at all.
                batch = [one for one in taken if one.future.set_running_or_notify_cancel()]
                if batch or (self._closing and not self._waiting):
                    self._in_flight = batch
                    return batch
                if not taken:
                    self._gate.wait()

    def _serve(self, batch: list[Operation]) -> None:
        """Carry out a batch, over a new connection if need be, while its callers still wait."""
        give_up_s = min(one.submitted_s for one in batch) + self._answer_within_s
        singly = False
        while left := [one for one in batch if not one.future.done()]:
            connection: psycopg.Connection[Any] | None = None
            try:
                connection = self._session.get()
                self._settle_doubts(connection)
                if singly or any(one.sent_before for one in left):
                    self._carrier.one_by_one(connection, left)
                else:
                    self._carrier.together(connection, left)
            except (psycopg.Error, StoreUnavailable) as error:
                mistaken = isinstance(error, psycopg.Error) and connection is not None
                if mistaken and not is_lost(connection, error):  # type: ignore[arg-type]
                    # It is one operation's fault, and nothing of the batch has happened: find whose.
                    singly = True
                    connection.rollback()  # type: ignore[union-attr]  # see `mistaken`
                    for one in left:
                        one.sent_before = False
                    continue
                self._session.drop()
                if time.monotonic() + _LOOK_S >= give_up_s:
                    self._fail(left, postgres.translated(error))
                else:
                    time.sleep(_LOOK_S)

    def _settle_doubts(self, connection: psycopg.Connection[Any]) -> None:
        """Give back the holds whose askers were told that the store is unavailable; some were never made."""
        doubtful = list(self._carrier.in_doubt)
        if doubtful:
            released = [Operation(verb="release", reservation_id=one, sent_before=True) for one in doubtful]
            self._carrier.one_by_one(connection, released)
            self._carrier.in_doubt.difference_update(doubtful)

    def _watch_over(self) -> None:
        """Let nobody wait longer than they may, neither in the queue nor for a server that says nothing."""
        while not self._ended.wait(_LOOK_S):
            late_s = time.monotonic() - self._answer_within_s
            sent = [one for one in self._in_flight if one.submitted_s < late_s and not one.future.done()]
            queued: list[Operation] = []
            with self._gate:
                while self._waiting and self._waiting[0].submitted_s < late_s:
                    queued.append(self._waiting.popleft())
            unavailable = StoreUnavailable(
                "The store does not answer in time.", hint="Check the PostgreSQL server of store.url."
            )
            for operation in queued:
                operation.fail(unavailable)
            if sent:
                self._fail(sent, unavailable)
                self._session.cut()

    def _fail(self, operations: Sequence[Operation], error: BaseException) -> None:
        for operation in operations:
            if operation.fail(error) and operation.verb == "reserve" and operation.reservation_id is not None:
                self._carrier.in_doubt.add(operation.reservation_id)
