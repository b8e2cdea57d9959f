"""The ledger's own connection to PostgreSQL: made when needed, and when lost, certain to be over."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from trivet.domain.errors import StoreUnavailable
from trivet.storage import postgres

# Plans that suit short statements on few rows, whatever the tables' size was when they were made.
_SETTINGS = (
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
)
STORE_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"


class Session:
    """One connection at a time. `get` and `drop` are for the ledger's thread, `cut` for any."""

    def __init__(self, url: str, name: str, connected: Callable[[psycopg.Connection[Any]], None]) -> None:
        """Take what to do with each new connection before it is used."""
        self._url = url
        self._name = name
        self._connected = connected
        self._number = 0
        self._lost: str | None = None
        self._connection: psycopg.Connection[Any] | None = None
        # What is cut must not be closed meanwhile: its descriptor might be another's by then.
        self._gate = threading.Lock()

    def get(self) -> psycopg.Connection[Any]:
        """Return the connection, a new one if there is none.

        Where an earlier one was lost, the server's side of it has ended by then: its last transaction is
        committed or is not, and will not be any more.

        Raises:
            StoreUnavailable: there is none to be had.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self.drop()
        self._number += 1
        connection = postgres.connect(self._url, application=self._application, settings=_SETTINGS)
        try:
            if self._lost is not None:
                _await_end(connection, self._lost)
                self._lost = None
            self._connection = connection
            self._connected(connection)
        except BaseException:
            self.drop()
            raise
        return connection

    def drop(self) -> None:
        """Give up the connection; whether its last transaction was committed is open."""
        with self._gate:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._lost = self._application
            with contextlib.suppress(psycopg.Error, OSError):
                connection.close()

    def cut(self) -> None:
        """Break the connection under whoever waits for it."""
        with self._gate:
            if self._connection is not None:
                cut(self._connection)

    @property
    def _application(self) -> str:
        # PostgreSQL keeps 63 characters of it.
        return f"trivet-ledger {self._name} {self._number}"


def cut(connection: psycopg.Connection[Any]) -> None:
    """Break a connection under whoever waits for it; from any thread, while nobody can close it."""
    with contextlib.suppress(psycopg.Error, OSError):
        wire = socket.socket(fileno=os.dup(connection.fileno()))
        with contextlib.closing(wire):
            wire.shutdown(socket.SHUT_RDWR)


def store_time_ns(connection: psycopg.Connection[Any]) -> int:
    """Return the server's clock."""
    row = connection.execute(STORE_TIME).fetchone()
    return int(row[0]) if row else 0


def is_lost(connection: psycopg.Connection[Any], error: psycopg.Error) -> bool:
    """Tell whether an error says that the connection is of no more use, not that a statement was wrong."""
    if connection.closed or isinstance(error, psycopg.InterfaceError):
        return True
    harmless = (
        psycopg.errors.QueryCanceled,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.PipelineAborted,
    )
    return isinstance(error, psycopg.OperationalError) and not isinstance(error, harmless)


def _await_end(connection: psycopg.Connection[Any], application: str) -> None:
    """End the server's side of a lost connection, so that its last transaction is decided.

    Raises:
        StoreUnavailable: it does not end.
    """
    for _ in range(50):
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (application,),
        ).fetchall()
        if not rows:
            return
        time.sleep(0.01)
    raise StoreUnavailable("The server does not end a connection that was lost.")
