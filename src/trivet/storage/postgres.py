"""A store in PostgreSQL, which several replicas share."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import psycopg
import sqlalchemy
from psycopg import conninfo
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from trivet.domain.errors import ConfigError, StoreError, StoreUnavailable
from trivet.storage.database import Database
from trivet.storage.draft import Draft
from trivet.storage.migration import migrate_shared
from trivet.storage.promise import then
from trivet.storage.writer import closed_error

T = TypeVar("T")

_READERS = 4
_CONNECT_TIMEOUT_S = 2
_STATEMENT_TIMEOUT_MS = 60_000
# A client that stops in the midst of a transaction must not hold its locks for ever.
_IDLE_TIMEOUT_MS = 10_000
# What was sent and never acknowledged for so long says that the server is gone.
_SILENCE_MAX_MS = 10_000

# These say that an operation was wrong, not that the store is.
_MISTAKES = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)


def connect(
    url: str,
    *,
    application: str = "trivet",
    statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS,
    settings: tuple[tuple[str, str], ...] = (),
) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a connection in autocommit mode whose commits are on disk when they return.

    Args:
        url: the store's.
        application: what the server shows as its application_name.
        statement_timeout_ms: after which the server gives a statement up.
        settings: further settings of the session.

    Raises:
        StoreUnavailable: the server cannot be reached, or refuses.
    """
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name=application,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=_SILENCE_MAX_MS,
        )
        wanted = (
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", str(statement_timeout_ms)),
            ("idle_in_transaction_session_timeout", str(_IDLE_TIMEOUT_MS)),
            ("timezone", "UTC"),
            *settings,
        )
        connection.execute(
            "SELECT " + ", ".join("set_config(%s, %s, false)" for _ in wanted),
            [part for pair in wanted for part in pair],
        )
    except psycopg.Error as error:
        raise translated(error) from error
    return connection


def run_statement(url: str, sql: str) -> list[Any]:
    """Run one statement on a connection of its own, outside any transaction; return its rows.

    Raises:
        StoreUnavailable, StoreError: it cannot be run.
    """
    with contextlib.closing(connect(url)) as connection:
        try:
            answer = connection.execute(sql.encode())
            return [] if answer.description is None else answer.fetchall()
        except psycopg.Error as error:
            raise translated(error) from error


class PostgresDatabase(Database):
    """An open store on a server. Writes run on one thread of this process, each in its own transaction."""

    shared = True

    def __init__(self, url: str) -> None:
        """Take the URL of a migrated store; use `at`."""
        self.url = url
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: _in_transactions(connect(url)),
            pool_size=_READERS,
            max_overflow=1,
            pool_timeout=10,
            pool_pre_ping=True,
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="trivet-writer")
        self._gate = threading.Lock()
        self._closed = False
        self._before_close: list[Callable[[], None]] = []
        self._before_reading: list[Callable[[], None]] = []

    @classmethod
    def at(cls, url: str) -> Self:
        """Open the store at a `postgresql://` URL, brought to the current schema.

        Raises:
            ConfigError: it is no such URL.
            StoreUnavailable: it cannot be reached, or is newer than this Trivet.
        """
        opened = cls(checked_url(url))
        try:
            with opened._engine.begin() as connection:
                migrate_shared(connection)
        except BaseException as error:
            opened.close()
            if isinstance(error, SQLAlchemyError | psycopg.Error):
                raise translated(error) from error
            raise
        return opened

    def write(
        self,
        op: Callable[[Any], T],
        draft: Draft | None = None,
        *,
        patient: bool = False,
        follow: Callable[[Any], T] | None = None,
    ) -> "Future[T]":
        """Run `op` with a connection of plain SQL. Others write too, so that no draft is of use."""
        del draft, patient
        future = self.transact(lambda connection: op(PlainSql(driver_connection(connection))))
        return future if follow is None else then(future, follow)

    def transact(self, op: Callable[[sqlalchemy.Connection], T]) -> "Future[T]":
        """Run `op` in a transaction."""
        with self._gate:
            if not self._closed:
                return self._writer.submit(self._transact, op)
        failed: Future[T] = Future()
        failed.set_exception(closed_error())
        return failed

    def read(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        """Read on one snapshot, as soon as this process has written what it was asked to."""
        if self._closed:
            raise closed_error()
        for catch_up in self._before_reading:
            catch_up()
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
                return op(connection)
        except (psycopg.Error, SQLAlchemyError) as error:
            raise translated(error) from error

    def before_reading(self, catch_up: Callable[[], None]) -> None:
        """Let `catch_up` be called before each reading: by whom writes over connections of their own."""
        self._before_reading.append(catch_up)

    def before_close(self, end: Callable[[], None]) -> None:
        """Let `end` be called, once, before the store closes: by whom has connections of their own."""
        self._before_close.append(end)

    def close(self) -> None:
        """Finish what is queued, then close; idempotent."""
        while self._before_close:
            self._before_close.pop()()
        with self._gate:
            self._closed = True
        self._writer.shutdown(wait=True)
        self._engine.dispose()

    def _transact(self, op: Callable[[sqlalchemy.Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return op(connection)
        except (psycopg.Error, SQLAlchemyError) as error:
            raise translated(error) from error


class PlainSql:
    """A connection for statements that run on either store; see `storage.writes`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        """Take the driver's connection; whoever gives it begins and commits."""
        self._connection = connection

    def execute(self, sql: str, parameters: Any = (), /) -> psycopg.Cursor[Any]:
        """Run one statement."""
        return self._connection.execute(in_driver_style(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> psycopg.Cursor[Any]:
        """Run one statement for each set of values."""
        cursor = self._connection.cursor()
        sets = list(parameters)
        if sets:
            cursor.executemany(in_driver_style(sql), sets)
        return cursor


@lru_cache(maxsize=512)
def in_driver_style(sql: str) -> Any:
    """Return a statement with `?` or `:name` as psycopg wants it. Literals must hold neither."""
    # The name of a column, but a word of the language to PostgreSQL.
    quoted = re.sub(r'(?<!")\bwindow\b(?!")', '"window"', sql.replace("%", "%%"))
    named = re.sub(r"(?<![:\w]):(\w+)", r"%(\1)s", quoted)
    return named.replace("?", "%s")


def checked_url(url: str) -> str:
    """Return a URL that can be one of a PostgreSQL store.

    Raises:
        ConfigError: it cannot; the message does not repeat it, since it may hold a password.
    """
    if urlsplit(url).scheme not in ("postgresql", "postgres"):
        raise ConfigError(
            "store.url is not a PostgreSQL URL.", hint="Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
        )
    try:
        conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        raise ConfigError("store.url cannot be read.", hint="Check its parts and parameters.") from error
    return url


def translated(error: BaseException) -> BaseException:
    """Return a driver's error as Trivet's, any other error as it is."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, _MISTAKES) and getattr(cause, "sqlstate", None) is not None:
        translation: StoreError = StoreError(f"The store refused an operation: {_first_line(cause)}.")
    elif isinstance(cause, psycopg.Error | SQLAlchemyError):
        translation = StoreUnavailable(
            f"The store cannot be used: {_first_line(cause)}.",
            hint="Check that the PostgreSQL server of store.url runs and lets Trivet in.",
        )
        # The driver names the server's address, and whom it does not let in.
        translation.outside = (
            "The store cannot be used. Its PostgreSQL server does not let Trivet in, or is away."
        )
    else:
        return error
    translation.__cause__ = error
    return translation


def _in_transactions(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    connection.autocommit = False
    return connection


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def driver_connection(connection: sqlalchemy.Connection) -> psycopg.Connection[Any]:
    """Return the driver's own connection."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - the engine knows no other
    return driver
