"""How SQLite connections are opened: one that writes and checkpoints, some that only read."""

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from trivet.domain.errors import StoreError, StoreUnavailable
from trivet.storage.private_files import make_private_directory, open_private_file

# A foreign process may hold the file for a moment (a backup); longer than this, requests are refused.
_BUSY_TIMEOUT_S = 0.25
_READERS = 4
# Those that enter rows are many, one for each number of rows; see `storage.entering`.
_PREPARED = 256

# As they are the driver binds numbers and text only. For anything else it looks in three places for somebody
# who would rather bind something else, before it binds what it knows as well: eight times as long, and a
# request has a dozen such values. Here it finds somebody in the first place.
_nothing: dict[None, None] = {}
sqlite3.register_adapter(type(None), _nothing.get)
sqlite3.register_adapter(bool, int)

# These say that an operation was wrong, not that the store is.
_MISTAKES = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)


class WriterConnection(sqlite3.Connection):
    """A connection whose transactions belong to the writer thread alone.

    SQLAlchemy and careless operations call commit() and rollback(); both would end the group's
    transaction. Here they do nothing: the writer says BEGIN, SAVEPOINT and COMMIT in SQL.
    """

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""


def open_writer(path: Path | None) -> WriterConnection:
    """Open the connection that writes: WAL, every commit on disk before it is answered.

    Raises:
        StoreUnavailable: the file cannot be opened or is not a database.
    """
    if path is not None:
        make_private_directory(path.parent)
        os.close(open_private_file(path))
    try:
        connection = sqlite3.connect(
            ":memory:" if path is None else path,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_PREPARED,
            factory=WriterConnection,
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # What a savepoint may have to undo is kept in memory: in a file it costs a tenth of a large commit.
        connection.execute("PRAGMA temp_store=MEMORY")
    except sqlite3.Error as error:
        raise translated(error) from error
    return connection


def writer_engine(connection: WriterConnection) -> Engine:
    """Return SQLAlchemy's view of the writing connection.

    The driver is in autocommit mode already. SQLAlchemy must not be told to set it: Python's sqlite3
    commits whenever that is set.
    """
    return create_engine(
        "sqlite://",
        creator=lambda: connection,
        poolclass=StaticPool,
        pool_reset_on_return=None,
    )


def reader_engine(path: Path) -> Engine:
    """Return an engine whose connections cannot write and never checkpoint.

    With a second connection that writes or checkpoints, SQLite before 3.51.3 can corrupt the file
    (sqlite.org/wal.html, the WAL-reset bug).
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA query_only=ON")
        return connection

    return create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=0,
        pool_reset_on_return=None,
    )


def translated(error: BaseException) -> BaseException:
    """Return a driver's error as Trivet's, any other error as it is: the one place where this is done.

    What is wrong with the file, the disk or the lock becomes StoreUnavailable; a violated constraint or
    a wrong statement becomes StoreError.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, sqlite3.Error):
        return error
    if isinstance(cause, _MISTAKES) or getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        translation = StoreError(f"The store refused an operation: {cause}.")
    else:
        translation = StoreUnavailable(
            f"The store cannot be used: {cause}.",
            hint="Check the disk's free space and the permissions of store.path.",
        )
    translation.__cause__ = error
    return translation
