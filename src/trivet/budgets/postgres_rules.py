"""Editing limits, overrides and calendars on PostgreSQL: the same operations as on SQLite, under the lock.

These are seldom, so they run statement by statement; the organisation's head is locked meanwhile, and its
version then tells every replica to read the rules anew.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.key_entries import KEYS, enter_key
from trivet.budgets.ladder import Ladder
from trivet.budgets.postgres_batch import windows_as_text, windows_from_text
from trivet.budgets.postgres_session import STORE_TIME
from trivet.budgets.rows import DefaultLimits, RowKey
from trivet.budgets.sqlite_books import Books
from trivet.budgets.sqlite_limits import Limiting
from trivet.budgets.sqlite_overrides import Overriding
from trivet.budgets.store import OverrideRequest
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import LimitKind, Meter, Override
from trivet.domain.errors import NotFound
from trivet.domain.scopes import Scope, organisation
from trivet.storage.writes import Writes

T = TypeVar("T")

_MAKE_HEAD = """
    INSERT INTO ledger_heads (organisation, version, contended_until_ns)
    VALUES (?, 0, 0)
        ON CONFLICT (organisation) DO NOTHING
"""
_LOCK_HEAD = """
    SELECT windows
      FROM ledger_heads
     WHERE organisation = ?
       FOR UPDATE
"""
_CHANGE_HEAD = """
    UPDATE ledger_heads
       SET version = version + 1,
           windows = ?
     WHERE organisation = ?
"""
_WHOSE_OVERRIDE = """
    SELECT scope
      FROM overrides
     WHERE id = ?
"""


class Rules:
    """The verbs that change what binds an organisation. For the store's writing thread."""

    def __init__(
        self, calendar: LedgerCalendar, settings: BudgetSettings, observe: Callable[[int], None]
    ) -> None:
        """Take the calendar that this replica goes by, and who is told the store's time."""
        self._calendar = calendar
        self._settings = settings
        self._observe = observe

    def set_limit(
        self,
        writes: Writes,
        scope: Scope,
        meter: Meter,
        kind: LimitKind,
        amount: int | None,
        *,
        allowance: int,
        author: str,
    ) -> None:
        """Set a limit; see `Limiting.set_limit`."""
        self._changing(
            writes,
            scope,
            lambda books: Limiting(books).set_limit(writes, scope, meter, kind, amount, allowance, author),
        )

    def clear_limit(self, writes: Writes, scope: Scope, meter: Meter, kind: LimitKind, author: str) -> None:
        """Remove a limit; see `Limiting.clear_limit`."""
        self._changing(
            writes, scope, lambda books: Limiting(books).clear_limit(writes, scope, meter, kind, author)
        )

    def set_zone(self, writes: Writes, owner: Scope, zone: str, author: str) -> ZoneInfo:
        """Set a calendar's zone; see `Limiting.set_zone`."""
        return self._changing(
            writes, owner, lambda books: Limiting(books).set_zone(writes, owner, zone, author)
        )

    def announce_passed(self, writes: Writes, key: RowKey) -> None:
        """Bring what was announced of a row in line with a limit that the configuration changed."""
        self._changing(
            writes,
            key.scope,
            lambda books: Limiting(books).announce_passed(
                writes, key.scope, key.meter, key.window, books.calendar.now_ns()
            ),
        )

    def enter_key(self, writes: Writes, scope: Scope, facts: Mapping[str, Any]) -> None:
        """Enter what becomes of a key, under the lock of the keys' own chain."""
        self._changing(writes, KEYS, lambda books: enter_key(books, writes, scope, facts))

    def request(self, writes: Writes, asked: OverrideRequest) -> Override:
        """Enter a request; see `Overriding.request`."""
        return self._changing(
            writes, asked.scope, lambda books: self._overriding(books).request(writes, asked)
        )

    def decide(self, writes: Writes, override_id: str, *, approve: bool, decider: str) -> Override:
        """Approve or deny a request; see `Overriding.decide`."""
        return self._changing(
            writes,
            _whose(writes, override_id),
            lambda books: self._overriding(books).decide(
                writes, override_id, approve=approve, decider=decider
            ),
        )

    def revoke(self, writes: Writes, override_id: str, *, author: str) -> Override:
        """End an override; see `Overriding.revoke`."""
        return self._changing(
            writes,
            _whose(writes, override_id),
            lambda books: self._overriding(books).revoke(writes, override_id, author=author),
        )

    def _overriding(self, books: Books) -> Overriding:
        return Overriding(
            books,
            emergency_percent=self._settings.emergency_percent,
            emergency_hours=self._settings.emergency_hours,
        )

    def _changing(self, writes: Writes, scope: Scope, operation: Callable[[Books], T]) -> T:
        """Run an operation under the lock of its organisation, with books that remember nothing."""
        owner = organisation(scope)
        writes.execute(_MAKE_HEAD, (owner,))
        (windows,) = writes.execute(_LOCK_HEAD, (owner,)).fetchone()
        # The time at which the lock was had, not that at which it was asked for.
        (at_ns,) = writes.execute(STORE_TIME).fetchone()
        self._observe(at_ns)
        now_ns = self._calendar.now_ns()
        if windows is not None:
            self._calendar.adopt(owner, windows_from_text(windows), now_ns)
        books = Books(self._calendar, DefaultLimits.of(self._settings), Ladder(self._settings))
        result = operation(books)
        current = windows_as_text(self._calendar.windows(owner, now_ns))
        writes.execute(_CHANGE_HEAD, (current, owner))
        return result


def _whose(writes: Writes, override_id: str) -> Scope:
    row = writes.execute(_WHOSE_OVERRIDE, (override_id,)).fetchone()
    if row is None:
        raise NotFound(f"There is no override {override_id[:80]}.")
    return Scope(row[0])
