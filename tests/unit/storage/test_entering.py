"""Rows that are entered many to a statement, and those that wait for the end of their transaction."""

import sqlite3
from collections.abc import Iterator

import pytest

from trivet.storage.entering import Beside, enter_later, enter_rows

NUMBERS = [1, 2, 7, 16, 17, 40, 63, 64, 65, 200]


def into_left(count: int) -> str:
    """Insert so many rows into the table that the other one refers to."""
    return f"INSERT INTO lefts (name) VALUES {', '.join(['(?)'] * count)}"


def into_right(count: int) -> str:
    """Insert so many rows into the table that refers."""
    return f"INSERT INTO rights (name, of) VALUES {', '.join(['(?, ?)'] * count)}"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Give a store of two tables."""
    opened = sqlite3.connect(":memory:", isolation_level=None)
    opened.execute("PRAGMA foreign_keys=ON")
    opened.execute("CREATE TABLE lefts (name TEXT PRIMARY KEY)")
    opened.execute("CREATE TABLE rights (name TEXT PRIMARY KEY, of TEXT NOT NULL REFERENCES lefts (name))")
    yield opened
    opened.close()


def names(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return what is in a table, in the order in which it came."""
    return [name for (name,) in connection.execute(f"SELECT name FROM {table} ORDER BY rowid")]


@pytest.mark.parametrize("number", NUMBERS)
def test_all_rows_are_entered_in_their_order(connection: sqlite3.Connection, number: int) -> None:
    """However many there are, in a few statements."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    enter_rows(connection, into_left, [(f"n{one}",) for one in range(number)])
    connection.set_trace_callback(None)
    assert names(connection, "lefts") == [f"n{one}" for one in range(number)]
    assert len(statements) <= 1 if number <= 16 else len(statements) <= 4 + number // 64


def test_rows_wait_and_then_go_table_by_table(connection: sqlite3.Connection) -> None:
    """What is referred to is there first, whoever gave it; all else is written at once."""
    beside = Beside(connection)
    for one in "ab":
        enter_later(beside, into_left, [(one,)])
        enter_later(beside, into_right, [(f"of {one}", one)])
    beside.execute("INSERT INTO lefts (name) VALUES ('now')")
    assert (names(connection, "lefts"), names(connection, "rights")) == (["now"], [])
    beside.enter()
    beside.enter()
    assert (names(connection, "lefts"), names(connection, "rights")) == (["now", "a", "b"], ["of a", "of b"])


def test_what_was_forgotten_is_not_entered(connection: sqlite3.Connection) -> None:
    """Neither is what could not be entered once."""
    beside = Beside(connection)
    enter_later(beside, into_left, [("a",)])
    beside.forget()
    beside.enter()
    enter_later(beside, into_left, [("b",), ("b",)])
    with pytest.raises(sqlite3.IntegrityError):
        beside.enter()
    beside.enter()
    assert names(connection, "lefts") == []


def test_any_other_connection_is_written_to_at_once(connection: sqlite3.Connection) -> None:
    """There is nobody who would enter them later."""
    enter_later(connection, into_left, [("a",), ("b",)])
    assert names(connection, "lefts") == ["a", "b"]
