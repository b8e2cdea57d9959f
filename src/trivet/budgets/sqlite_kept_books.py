"""The books of a store that has one owner: kept in memory, entered in the tables once per commit."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.entries import Entry
from trivet.budgets.ladder import Ladder
from trivet.budgets.rows import Balance, Cap, DefaultLimits, RowKey, Stored
from trivet.budgets.sqlite_books import Books, percent_full
from trivet.budgets.sqlite_footing import Footing
from trivet.budgets.sqlite_standing import Counter, CounterSet, Standing
from trivet.domain.budgets import WINDOW_KINDS, Amounts, LimitKind, Meter, Pressure
from trivet.domain.scopes import Scope, lineage

_ALL = 100
_FOOTINGS_MAX = 8192
_LINES_MAX = 8192


class KeptBooks(Books):
    """Books over a Standing. What operations write here is written when that is entered."""

    def __init__(self, calendar: LedgerCalendar, defaults: DefaultLimits, ladder: Ladder) -> None:
        super().__init__(calendar, defaults, ladder)
        self.standing = Standing()
        # The limited counters of calendar windows, by scope. Read from any thread.
        self._watched: dict[Scope, dict[tuple[Meter, str], tuple[Cap, Counter]]] = {}
        # By scope those of its lineage, with what everybody may use of each. Begun anew with each change of
        # the above, right behind it: who reads meanwhile writes into what nobody reads any more.
        self._lines: dict[Scope, list[tuple[int, Counter]]] = {}
        self._begins_at = ladder.begins_at
        self._footings: dict[tuple[str, bool, bool], Footing] = {}
        self._forgotten = -1

    def now_ns(self) -> int:
        """Return the instant of the operations that are entered together: to look once is enough."""
        now_ns = self.standing.instant_ns
        if now_ns is None:
            now_ns = self.standing.instant_ns = self.calendar.now_ns()
        return now_ns

    def known(self, connection: sqlite3.Connection, reservation_id: str) -> Stored | None:
        """Return a reservation that a new one would repeat, as far as that is known without a look."""
        stored, doubtful = self.standing.known(reservation_id)
        return self.find(connection, reservation_id) if doubtful else stored

    def find(self, connection: Any, reservation_id: str) -> Stored | None:
        """Return a reservation, whatever became of it; None when there is none."""
        return self.standing.find(connection, reservation_id)

    def footing(
        self, connection: sqlite3.Connection, text: str, caps: tuple[Cap, ...], *, critical: bool, new: bool
    ) -> Footing:
        """Return what a request of these rows stands on.

        Args:
            connection: the writer's.
            text: its rows, as they are stored.
            caps: what bounds them; with what bounds a single request, if it is `new`.
            critical: whether the request is.
            new: whether it asks to be held.
        """
        standing = self.standing
        if standing.forgotten != self._forgotten:
            self._footings.clear()
            self._forgotten = standing.forgotten
        name = text, critical, new
        footing = self._footings.get(name)
        if footing is None or footing.caps is not caps:
            if len(self._footings) >= _FOOTINGS_MAX:
                self._footings.clear()
            limited = standing.counters(connection, [cap.key for cap in caps])
            footing = self._footings[name] = Footing(
                standing.counters_of(connection, text),
                caps,
                limited,
                critical=critical,
                refuses_from=self.ladder.refuses_above or _ALL * 2**32,
                announces_from=self.ladder.announces_from or _ALL * 2**32,
            )
            for cap, counter in zip(caps, limited, strict=True):
                self._watch(cap, counter)
        return footing

    def balances(
        self, connection: Any, caps: Iterable[Cap], *, critical: bool = False, noted: bool = True
    ) -> list[Balance]:
        """Return what stands in the rows of `caps`, and what it may grow to."""
        bound = tuple(caps)
        found = []
        for cap, counter in zip(
            bound, self.standing.counters(connection, [cap.key for cap in bound]), strict=True
        ):
            extra = cap.granted + (cap.critical if critical else 0)
            found.append(Balance(cap.key, counter.used, counter.held, cap.limit, extra))
            if noted:
                self._watch(cap, counter)
        return found

    def add(self, connection: Any, rows: Sequence[RowKey], *, used: Amounts, held: Amounts) -> None:
        """Add to counters, which are made where they are missing; nothing may be negative."""
        self.standing.add(CounterSet(self.standing.counters(connection, rows)), used=used, held=held)

    def append(self, connection: Any, entry: Entry) -> None:
        """Note an entry at the end of its organisation's chain."""
        self.standing.append(entry)

    def pressing(self, scope: Scope) -> Pressure | None:
        """Tell how full they are once a step of the ladder is reached; None: none is.

        As a rule none is, whatever the time, and so the clock is not asked for.
        """
        begins_at, lines = self._begins_at, self._lines
        if begins_at is None:
            return None
        line = lines.get(scope)
        if line is None:
            line = [
                (cap.limit + cap.granted, counter)
                for above in lineage(scope)
                for cap, counter in list(self._watched.get(above, {}).values())
            ]
            if len(lines) >= _LINES_MAX:
                lines.clear()
            lines[scope] = line
        for most, counter in line:
            if not most or 100.0 * counter.used / most >= begins_at:
                return super().pressing(scope)
        return None

    def forget_fullness(self, scope: Scope, meter: Meter, kind: LimitKind) -> None:
        """Learn anew how full a row is: what bounds it changes."""
        rows = self._watched.get(scope)
        if rows is not None:
            rows.pop((meter, kind), None)
            self._lines = {}

    def _watch(self, cap: Cap, counter: Counter) -> None:
        """Look at a limited counter from now on, but not at one of a window that ended before."""
        key = cap.key
        if key.window not in WINDOW_KINDS:
            return
        rows = self._watched.get(key.scope)
        if rows is None:
            rows = self._watched[key.scope] = {}
        watched = rows.get((key.meter, key.window))
        if watched is None or watched[0].key.end_s <= key.end_s:
            rows[key.meter, key.window] = cap, counter
            if watched is None or watched[0] is not cap or watched[1] is not counter:
                self._lines = {}

    def _full(self, scope: Scope) -> list[tuple[int, float]]:
        watched = list(self._watched.get(scope, {}).values())
        return [(cap.key.end_s, percent_full(cap, counter.used)) for cap, counter in watched]
