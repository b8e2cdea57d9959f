"""What many operations have to write, gathered in memory and entered in the tables at once."""

import sqlite3
from typing import Protocol


class Draft(Protocol):
    """The memory of operations that write together; it lives on the writer thread.

    An operation given to the writer with a draft does not write to the draft's tables: it notes there what it
    changes, and the draft enters all of it, in few statements, before the commit. What it knows of its tables
    it may keep from commit to commit: the writer tells it to forget whenever anybody else has written, and
    whenever something was undone.

    Such an operation may be run twice. When one of several fails after it has noted something, or when what
    they noted cannot be entered, all are undone and run again, each alone in a savepoint of its own.
    """

    @property
    def noted(self) -> int:
        """Return how much was noted so far; it grows with every note."""
        ...

    def enter(self, connection: sqlite3.Connection) -> None:
        """Write what was noted since the last time, within the transaction that is open."""
        ...

    def forget(self) -> None:
        """Drop what was noted, and all that is known of the tables."""
        ...
