"""A SQLite file beside the store for what can be made anew: a cache. Losing it loses nothing promised.

The same rule as for the store holds: one connection writes and checkpoints, on one thread; others only read.
It does not wait for the disk at each commit: after a crash of the machine its last entries may be missing.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import structlog

from trivet.domain.errors import StoreError
from trivet.storage.connections import WriterConnection, open_writer, translated
from trivet.storage.writer import Writer, closed_error

T = TypeVar("T")

_READERS = 2
_BUSY_TIMEOUT_S = 0.25

log = structlog.get_logger(__name__)


class SideFile:
    """An open file of one's own. Usable from any thread; one process owns it."""

    def __init__(self, path: Path, schema: str, version: int) -> None:
        """Open the file; one that is damaged or of another version is begun anew.

        Args:
            path: where it lies; made if missing, readable by its owner only.
            schema: the statements that make its tables.
            version: of the schema.

        Raises:
            StoreUnavailable: it cannot be opened.
        """
        self.path = path.expanduser().absolute()
        self._writer = Writer(_opened(self.path, schema, version))
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="trivet-side-reader")
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._closed = False

    def write(self, op: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Run `op` in a transaction, after all earlier ones; see `storage.Database.write`."""
        return self._writer.submit(op)

    async def read(self, op: Callable[[sqlite3.Connection], T]) -> T:
        """Run one or several queries on a thread of the file's own.

        Raises:
            StoreUnavailable: the file cannot be read, or is closed.
        """
        if self._closed:
            raise closed_error()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._reading, op)

    def close(self) -> None:
        """Finish what is queued, then close; idempotent."""
        self._closed = True
        self._readers.shutdown()
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._writer.close()

    def _reading(self, op: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._connect()
                self._local.connection = connection
                self._opened.append(connection)
            return op(connection)
        except sqlite3.Error as error:
            raise translated(error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=ro",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA query_only=ON")
        return connection


def remove_side_file(path: Path) -> bool:
    """Remove a file that nobody has open, with its logs; tell whether there was one."""
    path = path.expanduser().absolute()
    found = path.exists()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return found


def _opened(path: Path, schema: str, version: int) -> WriterConnection:
    with contextlib.suppress(StoreError, sqlite3.Error):
        connection = open_writer(path)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            known = connection.execute("PRAGMA user_version").fetchone()[0]
            empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
            if known == version or empty:
                _prepare(connection, schema if empty else "", version)
                undo.pop_all()
                return connection
    log.warning("side_file.begun_anew", path=str(path))
    remove_side_file(path)
    connection = open_writer(path)
    _prepare(connection, schema, version)
    return connection


def _prepare(connection: WriterConnection, schema: str, version: int) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
    # What is deleted is overwritten: it may be what somebody wanted gone.
    connection.execute("PRAGMA secure_delete=ON")
    if schema:
        connection.executescript(f"BEGIN; {schema}; PRAGMA user_version={int(version)}; COMMIT")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
