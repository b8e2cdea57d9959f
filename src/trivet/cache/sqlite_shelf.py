"""A shelf in a SQLite file of its own, beside the store."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from trivet.cache.likeness import likeness
from trivet.cache.shelf import Entry, Filling, Found, Holdings, Place
from trivet.domain.scopes import Scope
from trivet.storage.side_file import SideFile

VERSION = 1
_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    exact BLOB NOT NULL UNIQUE,
    similar BLOB,
    ado TEXT NOT NULL,
    words INTEGER NOT NULL,
    scope TEXT NOT NULL,
    tier TEXT NOT NULL,
    deployment TEXT NOT NULL,
    size INTEGER NOT NULL,
    device_ns INTEGER NOT NULL,
    worth_ns INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX by_similar ON entries (similar, id) WHERE similar IS NOT NULL;
CREATE INDEX by_priority ON entries (priority, size);
CREATE INDEX by_expiry ON entries (expires_ns);
CREATE INDEX by_scope ON entries (scope, size, hits, device_ns);
CREATE TABLE shelf (one INTEGER PRIMARY KEY CHECK (one = 1), entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
                    age INTEGER NOT NULL);
INSERT INTO shelf VALUES (1, 0, 0, 0)
"""
_LIKE_MAX = 16
"""How many wordings of one question are compared, the latest first."""
_EXPIRED_AT_ONCE = 64
_LARGEST = 2**62
_PER_BYTES = 1024
_KNOWN_BYTES = 8
_STALE_FACTOR = 4
"""Twice as many digests as two for each entry: half of them are stale then."""
_STALE_FLOOR = 1000


class SqliteShelf:
    """Keeps entries in a file; what may be there is looked up on threads of the file's own.

    That nothing is there, which is what most lookups find, is known without asking the file: from eight bytes
    of each digest, some ten megabytes for 100,000 entries.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Open the file, or begin it anew; see `SideFile`. Blocks."""
        self._file = SideFile(path, _SCHEMA, VERSION)
        self._max_bytes = max_bytes
        self._known: set[bytes] = set()
        """Beginnings of all digests in the file, and of some that are there no more."""
        self._learn_all()

    async def find(self, place: Place, *, now_ns: int, threshold: float | None) -> Found | None:
        """Look up; one to three queries by key, or none."""
        wording = threshold is not None and place.similar is not None
        if place.exact[:_KNOWN_BYTES] not in self._known and not (
            wording and (place.similar or b"")[:_KNOWN_BYTES] in self._known
        ):
            return None
        return await self._file.read(lambda connection: _find(connection, place, now_ns, threshold))

    async def put(self, entries: Sequence[Entry], used: Sequence[bytes], *, now_ns: int) -> Filling:
        """Keep, count and make room in one transaction."""
        filling = await asyncio.wrap_future(
            self._file.write(lambda connection: self._put(connection, entries, used, now_ns))
        )
        for entry in entries:
            self._known.add(entry.place.exact[:_KNOWN_BYTES])
            if entry.place.similar is not None:
                self._known.add(entry.place.similar[:_KNOWN_BYTES])
        if len(self._known) > _STALE_FACTOR * filling.entries + _STALE_FLOOR:
            await asyncio.to_thread(self._learn_all)
        return filling

    async def clear(self, scope: Scope | None) -> int:
        """Remove; what was on disk of it is overwritten."""
        return await asyncio.wrap_future(self._file.write(lambda connection: _clear(connection, scope)))

    async def holdings(self, scope: Scope | None) -> Holdings:
        """Add up."""
        return await self._file.read(lambda connection: _holdings(connection, scope))

    async def aclose(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._file.close)

    def _learn_all(self) -> None:
        """Read the digests anew. One that is put meanwhile may be missed once, which costs a miss."""
        rows = self._file.write(
            lambda connection: connection.execute("SELECT exact, similar FROM entries").fetchall()
        ).result()
        self._known = {digest[:_KNOWN_BYTES] for row in rows for digest in row if digest is not None}

    def _put(
        self, connection: sqlite3.Connection, entries: Sequence[Entry], used: Sequence[bytes], now_ns: int
    ) -> Filling:
        count, size, age = connection.execute("SELECT entries, bytes, age FROM shelf").fetchone()
        connection.executemany(
            "UPDATE entries SET hits = hits + 1, priority = min(?, ? + (hits + 2) * (worth_ns * ? / size))"
            " WHERE exact = ?",
            [(_LARGEST, age, _PER_BYTES, exact) for exact in used],
        )
        for removed in _removed(
            connection, "SELECT id FROM entries WHERE expires_ns <= ? LIMIT ?", (now_ns, _EXPIRED_AT_ONCE)
        ):
            count, size = count - 1, size - removed
        for entry in entries:
            for removed in _removed(
                connection, "SELECT id FROM entries WHERE exact = ?", (entry.place.exact,)
            ):
                count, size = count - 1, size - removed
            _insert(connection, entry, age)
            count, size = count + 1, size + entry.size
        evicted = 0
        while size > self._max_bytes:
            lowest = connection.execute(
                "SELECT id, priority, size FROM entries ORDER BY priority LIMIT 1"
            ).fetchone()
            connection.execute("DELETE FROM entries WHERE id = ?", (lowest[0],))
            age, count, size, evicted = max(age, lowest[1]), count - 1, size - lowest[2], evicted + 1
        connection.execute("UPDATE shelf SET entries = ?, bytes = ?, age = ?", (count, size, age))
        return Filling(entries=count, bytes=size, evicted=evicted)


def _find(connection: sqlite3.Connection, place: Place, now_ns: int, threshold: float | None) -> Found | None:
    row = connection.execute(
        "SELECT body, device_ns FROM entries WHERE exact = ? AND expires_ns > ?", (place.exact, now_ns)
    ).fetchone()
    if row is not None:
        return Found(exact=place.exact, body=row[0], device_ns=row[1])
    if threshold is None or place.similar is None:
        return None
    rows = connection.execute(
        "SELECT id, ado FROM entries WHERE similar = ? AND expires_ns > ? ORDER BY id DESC LIMIT ?",
        (place.similar, now_ns, _LIKE_MAX),
    ).fetchall()
    measured = [(likeness(place.words, place.ado, tuple(ado.split())), id_) for id_, ado in rows]
    best = max(measured, default=(0.0, 0))
    if best[0] < threshold:
        return None
    found = connection.execute(
        "SELECT exact, body, device_ns FROM entries WHERE id = ?", (best[1],)
    ).fetchone()
    if found is None:  # it went between the two queries
        return None
    return Found(exact=found[0], body=found[1], device_ns=found[2], likeness=best[0])


def _insert(connection: sqlite3.Connection, entry: Entry, age: int) -> None:
    place = entry.place
    priority = min(_LARGEST, age + entry.worth_ns * _PER_BYTES // entry.size)
    connection.execute(
        "INSERT INTO entries (exact, similar, ado, words, scope, tier, deployment, size, device_ns, worth_ns,"
        " hits, priority, expires_ns, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
        (
            *(place.exact, place.similar, " ".join(place.ado), place.words),
            *(entry.scope, entry.tier, entry.deployment, entry.size, entry.device_ns, entry.worth_ns),
            *(priority, entry.expires_ns, entry.body),
        ),
    )


def _removed(connection: sqlite3.Connection, choose: str, values: tuple[object, ...]) -> list[int]:
    """Delete the chosen rows; return their sizes."""
    statement = f"DELETE FROM entries WHERE id IN ({choose}) RETURNING size"  # noqa: S608 - our own text
    return [size for (size,) in connection.execute(statement, values).fetchall()]


def _below(scope: Scope | None) -> tuple[str, tuple[str, ...]]:
    if scope is None:
        return "1", ()
    # A slug has no character between "." and "/": this is all that begins with "scope.".
    return "(scope = ? OR (scope > ? AND scope < ?))", (scope, f"{scope}.", f"{scope}/")


def _clear(connection: sqlite3.Connection, scope: Scope | None) -> int:
    where, values = _below(scope)
    sizes = _removed(connection, f"SELECT id FROM entries WHERE {where}", values)  # noqa: S608 - our own text
    connection.execute("UPDATE shelf SET entries = entries - ?, bytes = bytes - ?", (len(sizes), sum(sizes)))
    return len(sizes)


def _holdings(connection: sqlite3.Connection, scope: Scope | None) -> Holdings:
    where, values = _below(scope)
    row = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(hits), 0), coalesce(sum(hits * device_ns), 0)"  # noqa: S608 - our own text
        f" FROM entries WHERE {where}",
        values,
    ).fetchone()
    return Holdings(entries=row[0], bytes=row[1], hits=row[2], saved_device_ns=row[3])
