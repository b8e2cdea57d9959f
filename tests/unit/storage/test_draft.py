"""Operations that write together: what is entered at once, what is run again alone, what is forgotten."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from sqlalchemy import select

from tests.unit.storage.test_database import Hold, fail_in_commit, keys, put
from trivet.domain.errors import StoreError, StoreUnavailable
from trivet.storage import Database
from trivet.storage.delivery import awaited
from trivet.storage.schema import meta


class Pairs:
    """A draft of rows of `meta`, which knows what it has entered."""

    def __init__(self) -> None:
        self.noted = 0
        self.pending: list[tuple[str, str]] = []
        self.known: set[str] = set()
        self.entered: list[int] = []

    def note(self, key: str) -> None:
        """Note a row."""
        self.noted += 1
        self.pending.append((key, "x"))
        self.known.add(key)

    def enter(self, connection: sqlite3.Connection) -> None:
        """Write what was noted."""
        self.entered.append(len(self.pending))
        connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", self.pending)
        self.pending = []

    def forget(self) -> None:
        """Know nothing."""
        self.pending, self.known = [], set()


@pytest.fixture
def database() -> Iterator[Database]:
    """Give a store in memory."""
    with Database.open(None) as opened:
        yield opened


@pytest.fixture
def pairs() -> Pairs:
    """Give a draft."""
    return Pairs()


def note(database: Database, pairs: Pairs, key: str) -> "Future[None]":
    """Note one row."""
    return database.write(lambda _: pairs.note(key), pairs)


def fail_after(pairs: Pairs, key: str) -> Callable[[sqlite3.Connection], None]:
    """Return an operation that notes, and then fails."""

    def op(_: sqlite3.Connection) -> None:
        pairs.note(key)
        raise LookupError("mine")

    return op


def together(database: Database, submit: Callable[[], "list[Future[None]]"]) -> "list[Future[None]]":
    """Let what is submitted share one commit."""
    hold = Hold(database)
    futures = submit()
    hold.let_go()
    return futures


def test_what_is_noted_is_entered_at_once(database: Database, pairs: Pairs) -> None:
    """Three operations, one entering, and it is on disk when their futures resolve."""
    futures = together(database, lambda: [note(database, pairs, key) for key in "abc"])
    assert [future.result() for future in futures] == [None] * 3
    assert pairs.entered == [3]
    assert (keys(database), pairs.known) == (["a", "b", "c"], {"a", "b", "c"})


def test_one_that_fails_before_it_notes_disturbs_nobody(database: Database, pairs: Pairs) -> None:
    """A refusal costs no second run."""

    def refuse(_: sqlite3.Connection) -> None:
        raise LookupError("mine")

    first, refused, last = together(
        database,
        lambda: [note(database, pairs, "a"), database.write(refuse, pairs), note(database, pairs, "b")],
    )
    assert isinstance(refused.exception(), LookupError)
    assert (first.result(), last.result(), pairs.entered) == (None, None, [2])


def test_one_that_fails_after_it_noted_fails_alone(database: Database, pairs: Pairs) -> None:
    """All are undone and run again, each alone; what it had noted is not there."""
    first, failing, last = together(
        database,
        lambda: [
            note(database, pairs, "a"),
            database.write(fail_after(pairs, "x"), pairs),
            note(database, pairs, "b"),
        ],
    )
    assert isinstance(failing.exception(), LookupError)
    assert (first.result(), last.result()) == (None, None)
    assert keys(database) == ["a", "b"]


def test_what_cannot_be_entered_is_told_to_its_own(database: Database, pairs: Pairs) -> None:
    """A row that is there already: only the operation that noted it fails."""
    put(database, "b").result()
    futures = together(database, lambda: [note(database, pairs, key) for key in "abc"])
    assert [type(future.exception()) for future in futures] == [type(None), StoreError, type(None)]
    assert keys(database) == ["a", "b", "c"]


def test_undoing_them_keeps_what_came_before(database: Database, pairs: Pairs) -> None:
    """Another one's write in the same transaction is not run again, and is there."""
    runs: list[str] = []

    def write(connection: sqlite3.Connection) -> None:
        runs.append("once")
        connection.execute("INSERT INTO meta (key, value) VALUES ('before', 'x')")

    before, first, failing, last = together(
        database,
        lambda: [
            database.write(write),
            note(database, pairs, "a"),
            database.write(fail_after(pairs, "x"), pairs),
            note(database, pairs, "b"),
        ],
    )
    assert isinstance(failing.exception(), LookupError)
    assert [future.exception() for future in (before, first, last)] == [None] * 3
    assert (keys(database), runs) == (["a", "b", "before"], ["once"])


def test_it_is_entered_before_others_look(database: Database, pairs: Pairs) -> None:
    """An operation behind it in the same commit sees what was noted; what only reads is no stranger."""

    def look(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM meta").fetchone()[0])

    hold = Hold(database)
    note(database, pairs, "a")
    seen = database.write(look)
    last = note(database, pairs, "b")
    hold.let_go()
    last.result()
    assert seen.result() == 1
    assert pairs.known == {"a", "b"}


def test_whoever_else_writes_makes_it_forget(database: Database, pairs: Pairs) -> None:
    """After a stranger's write nothing is known, whether it was kept or undone; nor after another draft's."""
    note(database, pairs, "a").result()
    put(database, "b").result()
    assert pairs.known == set()
    note(database, pairs, "c").result()
    with pytest.raises(StoreError):
        put(database, "b").result()
    assert pairs.known == set()
    note(database, pairs, "d").result()
    other = Pairs()
    note(database, other, "e").result()
    assert (pairs.known, other.known) == (set(), {"e"})


def test_a_failed_commit_makes_it_forget(database: Database, pairs: Pairs) -> None:
    """What was entered and not committed is known no more, and nobody is told that it was."""
    first, second = together(database, lambda: [note(database, pairs, "a"), database.write(fail_in_commit)])
    assert [type(future.exception()) for future in (first, second)] == [StoreUnavailable] * 2
    assert (pairs.known, keys(database)) == (set(), [])
    note(database, pairs, "a").result()
    assert keys(database) == ["a"]


async def test_results_of_a_commit_come_together(database: Database, pairs: Pairs) -> None:
    """Whoever awaits gets the result or the error, in whatever loop, also when it was there already."""
    ready = put(database, "ready")
    ready.result()
    await awaited(ready)
    hold = Hold(database)
    waiting = [asyncio.create_task(awaited(note(database, pairs, key))) for key in "ab"]
    failing = asyncio.create_task(awaited(put(database, "ready")))
    elsewhere: list[str] = []

    async def read() -> str:
        return await awaited(
            database.transact(lambda c: str(c.scalar(select(meta.c.key).where(meta.c.key == "a"))))
        )

    await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: elsewhere.append(asyncio.run(read())))
    thread.start()
    await asyncio.to_thread(hold.let_go)
    assert await asyncio.gather(*waiting) == [None, None]
    with pytest.raises(StoreError):
        await failing
    await asyncio.to_thread(thread.join)
    assert elsewhere == ["a"]


async def test_a_cancelled_waiter_takes_its_operation_back(database: Database) -> None:
    """As with asyncio's own wrapping."""
    hold = Hold(database)
    task = asyncio.create_task(awaited(put(database, "a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(hold.let_go)
    assert await asyncio.to_thread(keys, database) == []


async def test_a_cancelled_future_cancels_its_waiter(database: Database) -> None:
    """Whoever awaits what another took back is told so."""
    hold = Hold(database)
    future = put(database, "a")
    task = asyncio.create_task(awaited(future))
    await asyncio.sleep(0)
    future.cancel()
    await asyncio.to_thread(hold.let_go)
    with pytest.raises(asyncio.CancelledError):
        await task
