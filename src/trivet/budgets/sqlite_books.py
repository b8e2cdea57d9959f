"""What the ledger's operations on SQLite share: rows, entries, thresholds. All of it on the writer thread."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.balances import View
from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.entries import FIRST_HASH, Entry, chained, digits
from trivet.budgets.ladder import Ladder, share_used
from trivet.budgets.rows import LARGEST_AMOUNT, Balance, Cap, DefaultLimits, RowKey, Stored, reset_of
from trivet.budgets.sqlite_bounds import Bounds
from trivet.domain.budgets import (
    WINDOW_KINDS,
    Amounts,
    LimitKind,
    Meter,
    Pressure,
)
from trivet.domain.scopes import Scope, lineage, organisation
from trivet.storage.instants import instant_of
from trivet.storage.writes import Writes

_AT_ONCE = 50
"""Counters read by one statement: SQLite takes 500 parts of a compound."""


class Books:
    """The state that operations share. `owner` names this opening of the store.

    These books remember nothing: they read and write the tables, on either store.
    """

    def __init__(self, calendar: LedgerCalendar, defaults: DefaultLimits, ladder: Ladder) -> None:
        self.calendar = calendar
        self.defaults = defaults
        self.ladder = ladder
        self.bounds = Bounds(calendar, defaults)
        self.owner = "0"
        # How full each limited row is: end of its window in seconds, percent. Read from any thread.
        self._fullness: dict[Scope, dict[tuple[Meter, str], tuple[int, float]]] = {}

    def view(self) -> View:
        """Return the instant and the rules that a reading made now stands under."""
        now_ns = self.calendar.now_ns()
        return View(
            now=instant_of(now_ns),
            windows=lambda scope: self.calendar.windows(scope, now_ns),
            zone=self.calendar.zone,
            defaults=self.defaults,
            ladder=self.ladder,
        )

    def find(self, connection: Writes, reservation_id: str) -> Stored | None:
        """Return a reservation, whatever became of it; None when there is none."""
        row = connection.execute(statements.RESERVATION, (reservation_id,)).fetchone()
        return None if row is None else Stored.of_row(reservation_id, row)

    def balances(
        self, connection: Writes, caps: Iterable[Cap], *, critical: bool = False, noted: bool = True
    ) -> list[Balance]:
        """Return what stands in the rows of `caps`, and what it may grow to.

        `noted`: remember how full they are, since that may have changed.
        """
        bound = tuple(caps)
        standing: dict[int, tuple[int, int]] = {}
        for first in range(0, len(bound), _AT_ONCE):
            some = bound[first : first + _AT_ONCE]
            parameters = [part for cap in some for part in cap.key[:5]]
            for position, used, held in connection.execute(statements.balances(len(some)), parameters):
                standing[first + position] = used, held
        found = []
        for position, cap in enumerate(bound):
            used, held = standing.get(position, (0, 0))
            extra = cap.granted + (cap.critical if critical else 0)
            found.append(Balance(cap.key, used, held, cap.limit, extra))
            if noted and cap.key.window in WINDOW_KINDS:
                self.note_fullness(cap, used)
        return found

    def add(self, connection: Writes, rows: Sequence[RowKey], *, used: Amounts, held: Amounts) -> None:
        """Add to counters, which are made where they are missing; nothing may be negative."""
        parameters: list[object] = []
        for key in rows:
            meter = key.meter
            parameters += key
            parameters += (used.of(meter), held.of(meter))
        connection.execute(statements.add_to_counters(len(rows)), parameters)

    def append(self, connection: Writes, entry: Entry) -> None:
        """Write an entry at the end of its organisation's chain."""
        fields = entry.fields()
        last = connection.execute(statements.LAST_HASH, (fields[0],)).fetchone()
        previous = digits(last[0]) if last else FIRST_HASH
        connection.execute(statements.APPEND_ENTRY, (*fields, previous, chained(previous, fields)))

    def announce(
        self,
        connection: Writes,
        balances: Iterable[Balance],
        charged: Amounts | None,
        now_ns: int,
    ) -> None:
        """Enter each threshold that a charge has crossed, once per window: an alert, and news to deliver.

        Args:
            connection: the writer's.
            balances: the limited rows after the charge.
            charged: the charge; None: enter all that are passed, whenever that was.
            now_ns: the instant.
        """
        first = self.ladder.announces_from
        if first is None:
            return
        for balance in balances:
            limit = balance.limit
            if limit is None or balance.key.window not in WINDOW_KINDS:
                continue
            after = balance.used * 100
            before = -1 if charged is None else after - charged.of(balance.key.meter) * 100
            if after < first * limit or before == after:
                continue
            for percent in self.ladder.thresholds:
                if before < percent * limit <= after:
                    self._alert(connection, balance, percent, now_ns)

    def retell(self, connection: Writes, key: RowKey, cap: Cap | None, now_ns: int) -> None:
        """Bring what was announced of a row in line with the limit that counts from now on.

        A threshold that fired under a lower limit, and that use has not reached under this one, is armed
        again. What use has passed already and has not been announced is announced now.

        Args:
            connection: the writer's.
            key: the row, of the current window.
            cap: what bounds it; None: nothing does any more.
            now_ns: the instant.
        """
        balances = [] if cap is None else self.balances(connection, [cap])
        reached = reached_percent(balances[0]) if balances else -1
        limit = LARGEST_AMOUNT + 1 if cap is None else cap.limit
        scope, meter, window, _, start_s, _ = key
        connection.execute(statements.REARM_ALERTS, (now_ns, scope, meter, window, start_s, reached, limit))
        self.announce(connection, balances, None, now_ns)

    def pressure(self, scope: Scope) -> Pressure:
        """Tell how full the rows of a scope's lineage are."""
        now_s = self.calendar.now_ns() // 1_000_000_000
        fullest = max(
            (percent for above in lineage(scope) for end_s, percent in self._full(above) if end_s > now_s),
            default=0.0,
        )
        return Pressure(fullest, self.ladder.actions(fullest))

    def pressing(self, scope: Scope) -> Pressure | None:
        """Tell how full they are once a step of the ladder is reached; None: none is."""
        pressure = self.pressure(scope)
        return pressure if pressure.actions else None

    def forget_fullness(self, scope: Scope, meter: Meter, kind: LimitKind) -> None:
        """Learn anew how full a row is: what bounds it changes."""
        rows = self._fullness.get(scope)
        if rows is not None:
            rows.pop((meter, kind), None)

    def forget_all_fullness(self) -> None:
        """Learn anew how full every row is: another replica has changed what bounds them."""
        self._fullness.clear()

    def note_fullness(self, cap: Cap, used: int) -> None:
        """Remember how full a limited row of a calendar window is."""
        key, percent = cap.key, percent_full(cap, used)
        rows = self._fullness.get(key.scope)
        if rows is None:
            rows = self._fullness[key.scope] = {}
        rows[key.meter, key.window] = key.end_s, percent

    def _full(self, scope: Scope) -> list[tuple[int, float]]:
        """Return how full each row of a scope is: the end of its window in seconds, percent."""
        return list(self._fullness.get(scope, {}).values())

    def _alert(self, connection: Writes, balance: Balance, percent: int, now_ns: int) -> None:
        key = balance.key
        entered = connection.execute(
            statements.INSERT_ALERT, (*key[:5], percent, now_ns, balance.used, balance.limit)
        )
        if not entered.rowcount:
            return
        resets_at = reset_of(key)
        payload = {
            "scope": key.scope,
            "meter": key.meter,
            "window": key.window,
            "window_start": datetime.fromtimestamp(key.start_s, UTC).isoformat(),
            "resets_at": None if resets_at is None else resets_at.isoformat(),
            "threshold": percent,
            "used": balance.used,
            "limit": balance.limit,
            "percent_used": round(share_used(balance), 2),
            "at": instant_of(now_ns).isoformat(),
        }
        text = json.dumps(payload, separators=(",", ":"))
        connection.execute(
            statements.INSERT_OUTBOX,
            (organisation(key.scope), "budget.threshold", now_ns, text, now_ns),
        )


def reached_percent(balance: Balance) -> int:
    """Return the highest whole percentage of the limit that settled use has reached."""
    return balance.used * 100 // balance.limit if balance.limit else 100


def percent_full(cap: Cap, used: int) -> float:
    """Return how much of what everybody may use is used."""
    most = cap.limit + cap.granted
    return 100.0 * used / most if most else 100.0
