"""A store in PostgreSQL: made once, read on snapshots, honest about failure."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text

from trivet.domain.errors import ConfigError, StoreError, StoreUnavailable
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.storage.postgres import PostgresDatabase, in_driver_style
from trivet.storage.schema import meta, metadata
from trivet.storage.writes import Writes


@pytest.fixture
def database(postgres_url: str) -> Iterator[PostgresDatabase]:
    """Give an open store."""
    with PostgresDatabase.at(postgres_url) as opened:
        yield opened


def put(writes: Writes, key: str, value: str = "x") -> int:
    """Write a pair as rooms do that write plain SQL."""
    sql = (
        "INSERT INTO meta (key, value) VALUES (:key, :value)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    return writes.execute(sql, {"key": key, "value": value}).rowcount


def keys(database: PostgresDatabase) -> list[str]:
    """Read the keys of `meta`."""
    return database.read(lambda connection: list(connection.scalars(select(meta.c.key).order_by(meta.c.key))))


def test_the_schema_is_the_declared_one(database: PostgresDatabase) -> None:
    """Alembic's own comparison of a migrated store with the metadata finds nothing to do."""

    def compare(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert database.transact(compare).result() == []


def test_text_is_compared_by_its_bytes(postgres: ScratchPostgres) -> None:
    """Also where the database's own order is a language's, in which points and slashes count for nothing."""
    try:
        postgres.query("CREATE DATABASE lingual TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    except StoreError:  # the wheel's server knows no languages; then its own order has to do
        postgres.query("CREATE DATABASE lingual TEMPLATE template0")
    with PostgresDatabase.at(postgres.url("lingual")) as database:
        for key in ("a/b", "a.c", "a", "B", "ab"):
            database.write(partial(put, key=key)).result()
        assert keys(database) == ["B", "a", "a.c", "a/b", "ab"]


def test_replicas_that_start_at_once_migrate_once(postgres_url: str) -> None:
    """Everyone finds the store ready, whoever was first."""
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(PostgresDatabase.at, [postgres_url] * 3))
    for database in opened:
        assert keys(database) == []
        database.close()


def test_a_newer_store_is_refused(postgres_url: str) -> None:
    """A store that a newer Trivet made is refused."""
    with PostgresDatabase.at(postgres_url) as database:
        database.write(
            lambda writes: writes.execute("UPDATE alembic_version SET version_num = '9999'")
        ).result()
    with pytest.raises(StoreUnavailable, match="newer"):
        PostgresDatabase.at(postgres_url)


def test_writes_run_in_order_and_fail_alone(database: PostgresDatabase) -> None:
    """What fails is undone; what came before and after it stays."""

    def fail(writes: Writes) -> None:
        put(writes, "undone")
        raise KeyError("mine")

    first = database.write(lambda writes: put(writes, "first", "50 %"))
    failed = database.write(fail)
    twice = database.transact(lambda c: c.execute(insert(meta).values(key="first", value="again")))
    last = database.transact(lambda c: c.execute(insert(meta).values(key="last", value="x")))
    assert first.result() == 1
    with pytest.raises(KeyError):
        failed.result()
    with pytest.raises(StoreError, match="duplicate key"):
        twice.result()
    last.result()
    assert keys(database) == ["first", "last"]


def test_a_reading_is_one_snapshot_and_cannot_write(database: PostgresDatabase) -> None:
    """What is written meanwhile is not seen, and a reading changes nothing."""
    entered, written = threading.Event(), threading.Event()

    def twice(connection: Connection) -> list[int]:
        counts = [len(connection.execute(select(meta)).all())]
        entered.set()
        assert written.wait(10)
        return [*counts, len(connection.execute(select(meta)).all())]

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(database.read, twice)
        assert entered.wait(10)
        database.write(lambda writes: put(writes, "new")).result()
        written.set()
        assert reading.result() == [0, 0]
    with pytest.raises(StoreError, match="read-only"):
        database.read(lambda connection: connection.execute(insert(meta).values(key="k", value="v")))


async def test_fetch_does_not_block(database: PostgresDatabase) -> None:
    """The loop's way to read."""
    assert await database.fetch(lambda connection: connection.scalar(select(text("1")))) == 1


def test_nobody_there_and_closed() -> None:
    """A server that is not there, a URL that is none, and a closed store."""
    with pytest.raises(StoreUnavailable):
        PostgresDatabase.at("postgresql://127.0.0.1:1/nothing")
    with pytest.raises(ConfigError):
        PostgresDatabase.at("mysql://127.0.0.1/nothing")


def test_a_server_that_restarts_is_found_again() -> None:
    """What runs while it is away fails; afterwards all is well."""
    with ScratchPostgres(durable=False) as server, PostgresDatabase.at(server.url()) as database:
        database.write(lambda writes: put(writes, "before")).result()
        server.kill()
        with pytest.raises(StoreUnavailable):
            database.write(lambda writes: put(writes, "lost")).result()
        server.start()
        assert keys(database) == ["before"]
        database.write(lambda writes: put(writes, "after")).result()
    with pytest.raises(StoreUnavailable, match="closed"):
        database.write(lambda writes: put(writes, "late")).result()


@pytest.mark.parametrize(
    ("plain", "driver"),
    [
        ("SELECT ? FROM t WHERE a LIKE '%x'", "SELECT %s FROM t WHERE a LIKE '%%x'"),
        ("VALUES (:a, :b_c)", "VALUES (%(a)s, %(b_c)s)"),
        ("SELECT window, x::int FROM w", 'SELECT "window", x::int FROM w'),
    ],
)
def test_plain_statements_become_the_drivers(plain: str, driver: Any) -> None:
    """Placeholders, percent signs, and the column that is a word of the language."""
    assert in_driver_style(plain) == driver
