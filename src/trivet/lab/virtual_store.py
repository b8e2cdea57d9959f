"""A store on a virtual clock: the real writer's commits, at moments and with failures that dice decide.

No thread and no disk; the connection outlives its owners, as a file does. For simulations.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

from trivet.storage.connections import open_writer, writer_engine
from trivet.storage.database import Database
from trivet.storage.draft import Draft
from trivet.storage.migration import migrate
from trivet.storage.promise import Promise
from trivet.storage.writer import Writer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFaults:
    """How slow and how unreliable the store is; probabilities for each commit."""

    commit_s: float = 0.003
    """The mean time of a commit."""
    stall: float = 0.001
    """It takes up to `stall_s`."""
    stall_s: float = 8.0
    fails: float = 0.003
    """It fails, and everything in it is undone."""


class Medium:
    """What outlives a process: the file. One connection to a migrated store in memory."""

    def __init__(self) -> None:
        self.connection: Any = open_writer(None)
        self.engine = writer_engine(self.connection)
        migrate(self.engine, self.connection)

    def close(self) -> None:
        """Throw it away."""
        self.connection.close()


class _Faulty:
    """The connection, whose next COMMIT fails if so told."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.fails = False

    def execute(self, sql: str, *parameters: Any) -> Any:
        if self.fails and sql == "COMMIT":
            self.fails = False
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _VirtualWriter(Writer):
    """The writer's own batches, without its thread: once it has begun, a timer commits them."""

    def __init__(
        self, connection: _Faulty, dice: random.Random, faults: StoreFaults, committed: Callable[[], None]
    ) -> None:
        self._connection = connection  # type: ignore[assignment]  # what the batches need of one
        self._faulty = connection
        self._dice = dice
        self._faults = faults
        self._committed = committed
        self._drafts = WeakSet()
        self._jobs: list[tuple[Callable[[Any], Any], Future[Any], Draft | None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.begun = False
        self.dead = False

    def submit(
        self,
        op: Callable[[Any], T],
        draft: Draft | None = None,
        *,
        patient: bool = False,
        follow: Callable[[Any], T] | None = None,
    ) -> "Future[T]":
        """Queue `op` for the next commit. Of a dead process nobody hears any more."""
        del patient
        future: Promise[T] = Promise(follow)
        if self.dead:
            return future
        self._jobs.append((op, future, draft))
        if not self.begun:
            self._commit_all()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s(), self._commit_some)
        return future

    def wait(self, future: "Future[T]") -> T:
        """Return what is there already."""
        return future.result()

    def close(self) -> None:
        """Die: what is queued never happens."""
        self.dead = True
        if self._timer is not None:
            self._timer.cancel()

    def _delay_s(self) -> float:
        if self._dice.random() < self._faults.stall:
            return self._dice.uniform(0, self._faults.stall_s)
        return self._dice.expovariate(1 / self._faults.commit_s)

    def _commit_some(self) -> None:
        self._timer = None
        count = self._dice.randint(1, len(self._jobs))
        now, self._jobs = self._jobs[:count], self._jobs[count:]
        self._faulty.fails = self._dice.random() < self._faults.fails
        self._commit([job for job in now if job[1].set_running_or_notify_cancel()])
        if self._jobs:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s(), self._commit_some)

    def _commit_all(self) -> None:
        now, self._jobs = self._jobs, []
        self._commit([job for job in now if job[1].set_running_or_notify_cancel()])

    def _commit(self, jobs: list[tuple[Callable[[Any], Any], Future[Any], Draft | None]]) -> None:
        if jobs:
            self._commit_together(jobs)
            self._committed()


class VirtualDatabase(Database):
    """One process's door to a medium. `begin` once everything is open; until then all is at once."""

    def __init__(
        self, medium: Medium, dice: random.Random, faults: StoreFaults, committed: Callable[[], None]
    ) -> None:
        self._medium = medium
        self._writer = _VirtualWriter(_Faulty(medium.connection), dice, faults, committed)

    def begin(self) -> None:
        """Let commits take their time, and fail, from now on."""
        self._writer.begun = True

    def write(
        self,
        op: Callable[[Any], T],
        draft: Draft | None = None,
        *,
        patient: bool = False,
        follow: Callable[[Any], T] | None = None,
    ) -> "Future[T]":
        """Queue an operation."""
        return self._writer.submit(op, draft, patient=patient, follow=follow)

    def transact(self, op: Callable[[Any], T]) -> "Future[T]":
        """Queue an operation of SQLAlchemy Core."""

        def with_core(_: Any) -> T:
            with self._medium.engine.connect() as connection:
                return op(connection)

        return self._writer.submit(with_core)

    def read(self, op: Callable[[Any], T]) -> T:
        """Read what is committed; nothing is ever open between two events of the loop."""
        with self._medium.engine.connect() as connection:
            return op(connection)

    def close(self) -> None:
        """Die: what is queued never happens."""
        self._writer.close()
