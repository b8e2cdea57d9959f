"""The store's one door, whatever is behind it: write and transact in order, read beside it."""

import asyncio
import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy
from sqlalchemy import Engine

from trivet.storage.connections import (
    WriterConnection,
    open_writer,
    reader_engine,
    translated,
    writer_engine,
)
from trivet.storage.draft import Draft
from trivet.storage.migration import migrate
from trivet.storage.writer import BATCH_LIMIT, Writer, closed_error

T = TypeVar("T")

READ_AFTER_S = 5.0
"""How long a reading waits for what is still being written: nobody who was answered waited for the disk."""


class Database(ABC):
    """An open store. Usable from any thread, with or without an event loop."""

    path: Path | None = None
    """The file, if it is one."""
    shared: bool = False
    """Whether other processes may change it too."""

    @staticmethod
    def open(path: Path | None) -> "SqliteDatabase":
        """Open a store in a file, made if missing and brought to the current schema; None: in memory.

        Raises:
            StoreUnavailable: it cannot be opened, or is newer than this Trivet.
        """
        return SqliteDatabase.at(path)

    @abstractmethod
    def write(
        self,
        op: Callable[[Any], T],
        draft: Draft | None = None,
        *,
        patient: bool = False,
        follow: Callable[[Any], T] | None = None,
    ) -> "Future[T]":
        """Run `op` in a transaction of its own, after all earlier ones; it must not begin, commit or block.

        It is given the writing connection: see `storage.writes`. The future resolves when the transaction
        is on disk. `draft`: where `op` notes what it writes, if the store writes by one thread; see
        `storage.draft`. `patient`: nobody waits for it; see `storage.inbox`. `follow`: makes what is told of
        what `op` returned, once that is on disk; such a write cannot be cancelled. Errors: whatever `op` or
        `follow` raised (StoreError and StoreUnavailable for the driver's), or StoreUnavailable when the
        commit failed or the store is closed.
        """

    @abstractmethod
    def transact(self, op: Callable[[sqlalchemy.Connection], T]) -> "Future[T]":
        """Do as `write` does, with SQLAlchemy Core on the same connection."""

    @abstractmethod
    def read(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        """Run `op` on one consistent snapshot and wait for it; it sees all that was to be written before.

        For what cannot be written it waits READ_AFTER_S at most. Do not call it from an operation.

        Raises:
            StoreUnavailable: the store cannot be read, or is closed.
        """

    async def fetch(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        """Read as `read` does, without blocking the event loop."""
        return await asyncio.to_thread(self.read, op)

    def answers(self) -> bool:
        """Tell, without waiting, whether what is asked now would be written, as far as this process knows."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Finish what is queued, then close; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SqliteDatabase(Database):
    """A store in one file, or in memory.

    All writes run on one thread, in the order in which they came, many to a commit. A future resolves
    only after its commit is on disk, so a caller may block on `.result()` even inside a running loop.
    """

    def __init__(
        self, connection: WriterConnection, path: Path | None, batch_limit: int = BATCH_LIMIT
    ) -> None:
        """Take the migrated writing connection; use `Database.open`."""
        self.path = path
        self._writing = writer_engine(connection)
        self._writer = Writer(connection, batch_limit)
        self._reading: Engine | None = None if path is None else reader_engine(path)
        self._closed = False

    @classmethod
    def at(cls, path: Path | None, *, batch_limit: int = BATCH_LIMIT) -> Self:
        """Open the store; see `Database.open`. `batch_limit`: operations that share a commit at most."""
        path = None if path is None else path.expanduser().absolute()
        connection = open_writer(path)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            try:
                migrate(writer_engine(connection), connection)
            except (sqlite3.Error, sqlalchemy.exc.DBAPIError) as error:
                raise translated(error) from error
            undo.pop_all()
        return cls(connection, path, batch_limit)

    def write(
        self,
        op: Callable[[Any], T],
        draft: Draft | None = None,
        *,
        patient: bool = False,
        follow: Callable[[Any], T] | None = None,
    ) -> "Future[T]":
        """Run `op` on the writer thread with the driver's connection, by default in its own savepoint."""
        return self._writer.submit(op, draft, patient=patient, follow=follow)

    def transact(self, op: Callable[[sqlalchemy.Connection], T]) -> "Future[T]":
        """Do as `write` does, with SQLAlchemy Core."""
        return self._writer.submit(lambda _: self._with_core(op))

    def read(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        """Read on one snapshot; in memory it waits for its turn on the writer thread."""
        if self._reading is None:
            return self._writer.wait(self.transact(op))
        if self._closed:
            raise closed_error()
        self._writer.catch_up(READ_AFTER_S)
        try:
            with self._reading.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    return op(connection)
                finally:
                    connection.exec_driver_sql("ROLLBACK")
        except (sqlite3.Error, sqlalchemy.exc.DBAPIError) as error:
            raise translated(error) from error

    async def fetch(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        """Read without blocking the event loop."""
        if self._reading is None:
            return await asyncio.wrap_future(self.transact(op))
        return await super().fetch(op)

    def answers(self) -> bool:
        """Tell whether the writer gets on; see there."""
        return self._writer.answers(READ_AFTER_S)

    def close(self) -> None:
        """Finish what is queued, then close; idempotent."""
        self._closed = True
        if self._reading is not None:
            self._reading.dispose()
        self._writer.close()

    def _with_core(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        with self._writing.connect() as connection:
            return op(connection)
