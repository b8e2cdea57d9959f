"""The store's door: what is written together, what fails alone, what fails together."""

import asyncio
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import insert, select

from trivet.domain.errors import StoreError, StoreUnavailable
from trivet.storage import Database
from trivet.storage.database import SqliteDatabase
from trivet.storage.schema import meta


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Give an open store of each kind."""
    with Database.open(tmp_path / "deep" / "trivet.db" if request.param == "file" else None) as opened:
        yield opened


def put(database: Database, key: str, value: str = "x") -> "Future[None]":
    """Write one pair into `meta`."""

    def op(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))

    return database.write(op)


def keys(database: Database) -> list[str]:
    """Read the keys of `meta`."""
    return database.read(lambda connection: list(connection.scalars(select(meta.c.key).order_by(meta.c.key))))


def pragma(database: Database, name: str) -> object:
    """Read a setting of the writing connection."""

    def op(connection: sqlite3.Connection) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    return database.write(op).result()


def fail_in_commit(connection: sqlite3.Connection) -> None:
    """Leave a violation that SQLite finds only at COMMIT: an attempt without its outcome."""
    connection.execute("PRAGMA defer_foreign_keys=ON")
    connection.execute(
        "INSERT INTO attempts (attempt_id, request_id, tier, deployment, devices, model, gpu, dispatched_ns,"
        " ended_ns, device_ns, status) VALUES ('a', 'nobody', 't', 'd', '', 'm', 0, 0, 0, 0, 'ok')"
    )


class Hold:
    """Keeps the writer busy, so that what is queued meanwhile shares one commit."""

    def __init__(self, database: Database) -> None:
        self._free = threading.Event()
        begun = threading.Event()

        def op(_: sqlite3.Connection) -> None:
            begun.set()
            self._free.wait(30)

        self._future = database.write(op)
        begun.wait(30)

    def let_go(self) -> None:
        """Let the writer go on."""
        self._free.set()
        self._future.result(30)


def test_what_was_written_is_read(database: Database) -> None:
    """A read sees every write whose future has resolved."""
    put(database, "a").result()
    assert keys(database) == ["a"]


def test_what_is_still_being_written_is_read(database: Database) -> None:
    """A reading waits for all that was asked to be written before it, whoever waits for that."""
    hold = Hold(database)
    writing = put(database, "a")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(keys, database)
        assert wait([reading], 0.2).not_done
        hold.let_go()
        assert reading.result(30) == ["a"]
    assert writing.done()


def test_core_and_driver_share_a_transaction_thread(database: Database) -> None:
    """SQLAlchemy Core writes through the same queue, in order with the driver's writes."""
    put(database, "a")
    future = database.transact(
        lambda connection: connection.execute(insert(meta).values(key="b", value="x")).rowcount
    )
    assert future.result() == 1
    assert keys(database) == ["a", "b"]


def test_core_cannot_end_the_group(database: Database) -> None:
    """An operation that commits or rolls back by itself ends nothing: the writer owns the transaction."""

    def op(connection: sqlalchemy.Connection) -> None:
        connection.execute(insert(meta).values(key="kept", value="x"))
        connection.rollback()
        connection.commit()

    hold = Hold(database)
    first, second = database.transact(op), put(database, "next")
    hold.let_go()
    first.result()
    second.result()
    assert keys(database) == ["kept", "next"]


def test_a_failing_operation_fails_alone(database: Database) -> None:
    """An operation's error undoes what it did, reaches its own future, and leaves its batch intact."""

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta (key, value) VALUES ('half', 'x')")
        raise LookupError("mine")

    hold = Hold(database)
    before, failing, after = put(database, "a"), database.write(half), put(database, "b")
    hold.let_go()
    before.result()
    after.result()
    with pytest.raises(LookupError, match="mine"):
        failing.result()
    assert keys(database) == ["a", "b"]


def test_a_violated_constraint_is_a_store_error(database: Database) -> None:
    """The driver's complaint about an operation becomes StoreError, which is not StoreUnavailable."""
    put(database, "a").result()
    with pytest.raises(StoreError, match="UNIQUE") as refused:
        put(database, "a").result()
    assert not isinstance(refused.value, StoreUnavailable)


def test_core_errors_are_translated(database: Database) -> None:
    """SQLAlchemy's wrapping of a driver error is translated as the driver's own: here a wrong statement."""
    with pytest.raises(StoreError, match="no such table") as refused:
        database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM missing"))
    assert not isinstance(refused.value, StoreUnavailable)


def test_a_failed_commit_fails_the_whole_batch(database: Database) -> None:
    """When the one commit fails, every operation of the batch did not happen and says so."""
    hold = Hold(database)
    futures = [put(database, "a"), database.write(fail_in_commit), put(database, "b")]
    hold.let_go()
    assert [type(future.exception()) for future in futures] == [StoreUnavailable] * 3
    put(database, "later").result()
    assert keys(database) == ["later"]


def test_a_full_disk_is_unavailable(tmp_path: Path) -> None:
    """A store that cannot grow refuses with StoreUnavailable, keeps what it had, and goes on when it can."""

    def set_pages(connection: sqlite3.Connection, limit: int) -> None:
        connection.execute(f"PRAGMA max_page_count={limit}")

    with Database.open(tmp_path / "trivet.db") as database:
        put(database, "a").result()
        database.write(lambda connection: set_pages(connection, 1)).result()
        hold = Hold(database)
        small, large = put(database, "b"), put(database, "large", "x" * 10_000_000)
        hold.let_go()
        with pytest.raises(StoreUnavailable, match="full"):
            large.result()
        survivors = ["a"] if small.exception() else ["a", "b"]
        assert keys(database) == survivors
        database.write(lambda connection: set_pages(connection, 1_000_000)).result()
        put(database, "c").result()
        assert keys(database) == [*survivors, "c"]


def test_a_disk_that_stands_still_does_not_answer(database: Database) -> None:
    """While a batch is under way for longer than it may, nothing else would be written either."""
    assert database.answers()
    hold = Hold(database)
    assert isinstance(database, SqliteDatabase)
    assert database.answers()
    assert not database._writer.answers(0.0)
    hold.let_go()
    put(database, "a").result()
    assert database.answers()


def test_a_lost_connection_leaves_no_future_unresolved() -> None:
    """When not even ROLLBACK works, all writes are refused as unavailable, those that come later too."""
    database = Database.open(None)
    hold = Hold(database)
    futures = [put(database, "a"), database.write(lambda connection: connection.close()), put(database, "b")]
    hold.let_go()
    failures = [type(future.exception(30)) for future in futures]
    later = put(database, "later").exception(30)
    database.close()
    assert failures == [StoreUnavailable] * 3
    assert isinstance(later, StoreUnavailable)


def test_a_failed_rollback_is_made_up_for(tmp_path: Path) -> None:
    """A transaction that could not be rolled back is rolled back before the next one begins."""
    forbidden = {sqlite3.SQLITE_TRANSACTION: ("ROLLBACK", "COMMIT")}

    def forbid(connection: sqlite3.Connection) -> None:
        connection.set_authorizer(
            lambda action, what, *_: (
                sqlite3.SQLITE_DENY if what in forbidden.get(action, ()) else sqlite3.SQLITE_OK
            )
        )

    with Database.open(tmp_path / "trivet.db") as database:
        hold = Hold(database)
        futures = [put(database, "a"), database.write(forbid), put(database, "b")]
        hold.let_go()
        failures = [type(future.exception(30)) for future in futures]
        still = put(database, "c").exception(30)
        assert not database.answers()
        # What was tried because somebody asked fails as well.
        with pytest.raises(StoreUnavailable):
            put(database, "e").result(30)
        assert not database.answers()
        forbidden.clear()
        give_up_s = time.monotonic() + 30
        while not database.answers() and time.monotonic() < give_up_s:
            time.sleep(0.001)
        assert database.answers()
        put(database, "d").result(30)
        assert keys(database) == ["d", "written_on_trial"]
    assert failures == [StoreUnavailable] * 3
    assert isinstance(still, StoreUnavailable)


def test_a_closed_store_refuses(tmp_path: Path) -> None:
    """Closing finishes what is queued; then writes and reads are refused, and closing again is nothing."""
    database = Database.open(tmp_path / "trivet.db")
    hold = Hold(database)
    queued = put(database, "a")
    hold.let_go()
    database.close()
    database.close()
    assert queued.result() is None
    with pytest.raises(StoreUnavailable, match="closed"):
        put(database, "b").result()
    with pytest.raises(StoreUnavailable, match="closed"):
        keys(database)
    with Database.open(tmp_path / "trivet.db") as again:
        assert keys(again) == ["a"]


def test_a_closed_memory_store_refuses() -> None:
    """In memory, too, a closed store refuses reads and writes."""
    database = Database.open(None)
    database.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        put(database, "b").result()
    with pytest.raises(StoreUnavailable, match="closed"):
        keys(database)


def test_a_cancelled_future_takes_its_operation_back(database: Database) -> None:
    """What is cancelled before it begins never happens."""
    hold = Hold(database)
    future = put(database, "a")
    assert future.cancel()
    hold.let_go()
    with pytest.raises(CancelledError):
        future.result()
    put(database, "b").result()
    assert keys(database) == ["b"]


def test_more_than_one_batch_from_many_threads(database: Database) -> None:
    """Writes from many threads all arrive, also when they exceed one batch."""
    hold = Hold(database)
    futures: list[Future[None]] = []

    def write(thread: int) -> None:
        futures.extend(put(database, f"{thread:02}-{index:03}") for index in range(100))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hold.let_go()
    for future in futures:
        future.result()
    assert len(keys(database)) == 800


async def test_blocking_inside_a_running_loop(database: Database) -> None:
    """A coroutine that blocks on a result gets it, since nothing it waits for needs the loop."""
    put(database, "a").result()
    await asyncio.wrap_future(put(database, "b"))
    assert keys(database) == ["a", "b"]


async def test_fetch_reads_without_blocking(database: Database) -> None:
    """fetch answers as read does, from a coroutine."""
    put(database, "a").result()
    assert await database.fetch(lambda connection: connection.scalar(select(meta.c.value))) == "x"


def test_waiting_on_the_writer_thread_is_an_error() -> None:
    """In memory, an operation that reads through the door is told so, since it would wait for itself."""
    with Database.open(None) as database:
        with pytest.raises(RuntimeError, match="itself"):
            database.write(lambda _: keys(database)).result()
        assert keys(database) == []


def test_a_read_is_one_snapshot(tmp_path: Path) -> None:
    """A read sees one state of the store, whatever is committed while it runs."""
    with Database.open(tmp_path / "trivet.db") as database:
        put(database, "a").result()

        def op(connection: sqlalchemy.Connection) -> tuple[int, int]:
            count = select(sqlalchemy.func.count()).select_from(meta)
            first = connection.scalar(count)
            put(database, "b").result()
            return first or 0, connection.scalar(count) or 0

        assert database.read(op) == (1, 1)
        assert keys(database) == ["a", "b"]


def test_readers_cannot_write(tmp_path: Path) -> None:
    """On a file, a read operation that writes is refused by the connection itself."""
    with Database.open(tmp_path / "trivet.db") as database:
        with pytest.raises(StoreUnavailable, match="readonly"):
            database.read(lambda connection: connection.execute(insert(meta).values(key="a", value="x")))
        assert keys(database) == []


def test_the_file_is_durable_and_private(tmp_path: Path) -> None:
    """A store is in WAL mode with synchronous=FULL, mode 0600, in a directory of mode 0700."""
    path = tmp_path / "deep" / "trivet.db"
    with Database.open(path) as database:
        pragmas = [pragma(database, name) for name in ("journal_mode", "synchronous", "foreign_keys")]
        readers = database.read(
            lambda connection: connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar()
        )
        modes = [
            stat.S_IMODE(file.stat().st_mode) for file in (path.parent, path, path.with_name("trivet.db-wal"))
        ]
    assert pragmas == ["wal", 2, 1]
    assert readers == 0
    assert modes == [0o700, 0o600, 0o600]


def test_a_file_that_others_could_read_becomes_private(tmp_path: Path) -> None:
    """A store that lay open to others is closed to them when it is opened."""
    path = tmp_path / "trivet.db"
    path.touch(0o666)
    path.chmod(0o666)
    with Database.open(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """Opening something else as a store says so."""
    path = tmp_path / "trivet.db"
    path.write_text("not a database" * 1000)
    with pytest.raises(StoreUnavailable, match="not a database"):
        Database.open(path)


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A store below a file cannot be opened, and the reason is told."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be"):
        Database.open(tmp_path / "file" / "trivet.db")
