"""What stands in the ledger's tables on SQLite, kept in the memory of the one thread that changes them.

Operations read and change it here; before each commit all of it is entered, each counter once, however many
operations touched it. Nothing is believed beyond doubt: see `Standing.forget`.
"""

import sqlite3
from collections.abc import Iterable
from itertools import chain
from typing import Any

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.entries import FIRST_HASH, NOTHING, Entry, chained, digits
from trivet.budgets.row_texts import name_of
from trivet.budgets.rows import RowKey, Stored, rows_from_text
from trivet.domain.budgets import METERS, Amounts
from trivet.domain.scopes import organisation
from trivet.storage.entering import Beside, Row, enter_rows

_KEPT_MAX = 65_536
"""So many counters, reservations or chains are kept; beyond that all is read anew."""
_ROWS = 12
"""Where an entry's fields tell its rows."""
_AT_ONCE = 50
"""Counters read by one statement: SQLite takes 500 parts of a compound."""


class Counter:
    """One row of the counters. `stored`: whether it is in the table, or is about to be."""

    __slots__ = ("held", "key", "meter", "stored", "used")

    def __init__(self, key: RowKey, used: int, held: int, *, stored: bool) -> None:
        self.key = key
        self.meter = METERS.index(key.meter)
        self.used = used
        self.held = held
        self.stored = stored


class CounterSet:
    """The counters of one request's rows: they grow together, each by the amount of its meter."""

    __slots__ = ("_by_meter", "_complete", "counters")

    def __init__(self, counters: tuple[Counter, ...]) -> None:
        self.counters = counters
        self._complete = False
        meters = dict.fromkeys(counter.meter for counter in counters)
        self._by_meter = tuple(
            (meter, tuple(counter for counter in counters if counter.meter == meter)) for meter in meters
        )

    @property
    def complete(self) -> bool:
        """Tell whether all of them are in the table, from which none ever goes."""
        if not self._complete:
            self._complete = all(counter.stored for counter in self.counters)
        return self._complete

    def add(self, used: Amounts, held: Amounts) -> None:
        """Add to each of them, also signed differences; whatever is not in the table is about to be."""
        more_held = held.tokens, held.weighted_tokens, held.usd_micros
        if used is NOTHING:
            for meter, counters in self._by_meter:
                holds = more_held[meter]
                for counter in counters:
                    counter.held += holds
        else:
            more_used = used.tokens, used.weighted_tokens, used.usd_micros
            for meter, counters in self._by_meter:
                uses, holds = more_used[meter], more_held[meter]
                for counter in counters:
                    counter.used += uses
                    counter.held += holds
        if not self._complete:
            for counter in self.counters:
                counter.stored = True
            self._complete = True


class Standing:
    """A `storage.draft.Draft` of counters, reservations and entries. On the writer thread alone."""

    def __init__(self) -> None:
        self.noted = 0
        """How many changes were noted, ever."""
        self.forgotten = 0
        """How often everything was; a Counter from before is not to be used any more."""
        self.instant_ns: int | None = None
        """When the operations happen that are entered next; None: nobody has asked yet."""
        self._sure = False
        self._counters: dict[tuple[Any, ...], Counter] = {}
        self._sets: dict[str, CounterSet] = {}
        self._reservations: dict[str, Stored] = {}
        self._heads: dict[str, str] = {}
        self._names: dict[str, str] = {}
        # What is to be entered.
        self._changed: dict[CounterSet, None] = {}
        self._made: dict[str, tuple[str, str | None, int]] = {}
        """Of new reservations the owner, the decision and the instant."""
        self._moved: dict[str, int | None] = {}
        """Of those that have changed, new or not, when they were closed; None: they are held."""
        self._entries: list[Entry] = []
        self._beside: Beside | None = None

    # The draft

    def enter(self, connection: sqlite3.Connection) -> None:
        """Write what was noted."""
        # Entries come first to name the texts of rows: they are in the order of the operations.
        entries = [self._chained(connection, entry) for entry in self._entries]
        if self._changed:
            counters = dict.fromkeys(chain.from_iterable(changed.counters for changed in self._changed))
            rows = [(*counter.key, counter.used, counter.held) for counter in counters]
            enter_rows(connection, statements.enter_counters, rows)
            self._changed = {}
        self._enter_reservations(connection)
        if entries:
            enter_rows(connection, statements.append_entries, entries)
            self._entries = []
        if self._beside is not None:
            self._beside.enter()
        self._sure = True
        self.instant_ns = None
        kept = self._counters, self._reservations, self._heads, self._sets, self._names
        if max([len(some) for some in kept]) > _KEPT_MAX:
            self.forget()

    def forget(self) -> None:
        """Know nothing: somebody else has written, or what was noted is undone.

        Until something has been entered again, also what seems new is looked for in the tables.
        """
        self._sure = False
        self.instant_ns = None
        self.forgotten += 1
        if self._beside is not None:
            self._beside.forget()
        for kept in (
            self._counters,
            self._sets,
            self._reservations,
            self._heads,
            self._names,
            self._changed,
            self._made,
            self._moved,
            self._entries,
        ):
            kept.clear()

    def beside(self, connection: sqlite3.Connection) -> Beside:
        """Return the connection for what is written beside the draft, and undone with it if that fails."""
        self.noted += 1
        if self._beside is None:
            self._beside = Beside(connection)
        return self._beside

    # Counters

    def counters(self, connection: sqlite3.Connection, keys: Iterable[RowKey]) -> tuple[Counter, ...]:
        """Return counters by their keys; one that is not in the table stands at nothing."""
        wanted = tuple(keys)
        missing = [key for key in wanted if key[:5] not in self._counters]
        for first in range(0, len(missing), _AT_ONCE):
            some = missing[first : first + _AT_ONCE]
            standing = {
                position: (used, held)
                for position, used, held in connection.execute(
                    statements.balances(len(some)), [part for key in some for part in key[:5]]
                )
            }
            for position, key in enumerate(some):
                used, held = standing.get(position, (0, 0))
                self._counters[key[:5]] = Counter(key, used, held, stored=position in standing)
        return tuple(self._counters[key[:5]] for key in wanted)

    def counters_of(self, connection: sqlite3.Connection, text: str) -> CounterSet:
        """Return the counters of rows that are stored as `text`."""
        found = self._sets.get(text)
        if found is None:
            found = self._sets[text] = CounterSet(self.counters(connection, rows_from_text(text)))
        return found

    def add(self, counters: CounterSet, *, used: Amounts, held: Amounts) -> None:
        """Add to counters, also signed differences."""
        self.noted += 1
        counters.add(used, held)
        self._changed[counters] = None

    # Reservations

    def known(self, reservation_id: str) -> tuple[Stored | None, bool]:
        """Return a reservation that is in memory, and whether it is worth a look into the table.

        What is new is not looked for: should the id be taken, entering fails, and the operation is run again
        with nothing in memory.
        """
        stored = self._reservations.get(reservation_id)
        return stored, stored is None and not self._sure

    def find(self, connection: sqlite3.Connection, reservation_id: str) -> Stored | None:
        """Return a reservation, whatever became of it; None when there is none."""
        stored = self._reservations.get(reservation_id)
        if stored is None:
            row = connection.execute(statements.RESERVATION, (reservation_id,)).fetchone()
            stored = None if row is None else Stored.of_row(reservation_id, row)
            if stored is not None and stored.state == "held":
                self._reservations[reservation_id] = stored
        return stored

    def make(self, stored: Stored, owner: str, decision_id: str | None, now_ns: int) -> None:
        """Note a new reservation."""
        self.noted += 1
        self._reservations[stored.reservation_id] = stored
        self._made[stored.reservation_id] = owner, decision_id, now_ns

    def change(self, stored: Stored, closed_ns: int | None) -> None:
        """Note what has become of a reservation: other amounts, or its end."""
        self.noted += 1
        self._reservations[stored.reservation_id] = stored
        self._moved[stored.reservation_id] = closed_ns

    def _enter_reservations(self, connection: sqlite3.Connection) -> None:
        """Write the new ones as they stand now, then what has become of the others."""
        known, made, moved = self._reservations, self._made, self._moved
        if made:
            rows = [
                _made_row(known[name], *how, moved.get(name), self._name(connection, known[name].rows))
                for name, how in made.items()
            ]
            enter_rows(connection, statements.insert_reservations, rows)
            self._made = {}
        if moved:
            rows = [
                _moved_row(known[name], closed_ns) for name, closed_ns in moved.items() if name not in made
            ]
            enter_rows(connection, statements.update_reservations, rows)
            for name, closed_ns in moved.items():
                if closed_ns is not None:
                    del known[name]
            self._moved = {}

    # Entries

    def append(self, entry: Entry) -> None:
        """Note an entry, to be chained to those of its organisation when it is entered."""
        self.noted += 1
        self._entries.append(entry)

    def _chained(self, connection: sqlite3.Connection, entry: Entry) -> tuple[Any, ...]:
        """Return the row of an entry, at the end of its organisation's chain."""
        fields = entry.fields()
        owner = fields[0]
        previous = self._heads.get(owner)
        if previous is None:
            last = connection.execute(statements.LAST_HASH, (owner,)).fetchone()
            previous = digits(last[0]) if last else FIRST_HASH
        self._heads[owner] = following = chained(previous, fields)
        # The rows by their name, the hash by its bytes, and the one before it not at all.
        name = self._name(connection, fields[_ROWS])
        return (*fields[:_ROWS], name, *fields[_ROWS + 1 :], "", bytearray.fromhex(following))

    def _name(self, connection: sqlite3.Connection, text: str) -> str:
        name = self._names.get(text)
        if name is None:
            name = self._names[text] = name_of(connection, text)
        return name


def _made_row(
    stored: Stored, owner: str, decision_id: str | None, made_ns: int, closed_ns: int | None, rows: str
) -> Row:
    """Return a reservation as `insert_reservations` takes it."""
    held, charged = stored.held, stored.charged
    return (
        stored.reservation_id,
        organisation(stored.scope),
        stored.scope,
        held.tokens,
        held.weighted_tokens,
        held.usd_micros,
        stored.max_output,
        stored.priority,
        stored.state,
        charged.tokens,
        charged.weighted_tokens,
        charged.usd_micros,
        stored.remaining,
        owner,
        decision_id,
        made_ns,
        stored.expires_ns,
        closed_ns,
        rows,
    )


def _moved_row(stored: Stored, closed_ns: int | None) -> Row:
    """Return a reservation as `update_reservations` takes it."""
    held, charged = stored.held, stored.charged
    return (
        stored.reservation_id,
        held.tokens,
        held.weighted_tokens,
        held.usd_micros,
        stored.state,
        charged.tokens,
        charged.weighted_tokens,
        charged.usd_micros,
        stored.remaining,
        closed_ns,
    )
