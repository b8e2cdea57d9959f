"""The rows of the ledger as values: which counters a request touches, and what stands in them."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import BudgetRow, Meter, WindowKind
from trivet.domain.errors import RequestMalformed
from trivet.domain.scopes import Scope

METER: Meter = "tokens"

LARGEST_AMOUNT = 2**53
"""No single amount is larger; beyond it JSON readers lose digits."""


class RowKey(NamedTuple):
    """One counter of one scope in one window, whose bounds are seconds since 1970 in UTC."""

    scope: Scope
    window: WindowKind
    start_s: int
    end_s: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What stands in a row, and its limit (None: unlimited)."""

    key: RowKey
    used: int
    held: int
    limit: int | None

    @property
    def room(self) -> int | None:
        """Return what may still be reserved, never below zero; None when unlimited."""
        return None if self.limit is None else max(0, self.limit - self.used - self.held)

    def as_row(self) -> BudgetRow:
        """Return the row as the doors show it."""
        return BudgetRow(
            scope=self.key.scope,
            meter=METER,
            window=self.key.window,
            window_start=datetime.fromtimestamp(self.key.start_s, UTC),
            resets_at=datetime.fromtimestamp(self.key.end_s, UTC),
            used=self.used,
            held=self.held,
            limit=self.limit,
        )


@dataclass(frozen=True, slots=True)
class DefaultLimits:
    """What an organisation may use that has no limit of its own; None: unlimited."""

    daily: int | None
    monthly: int | None

    @classmethod
    def of(cls, settings: BudgetSettings) -> "DefaultLimits":
        """Take the defaults from the settings."""
        return cls(settings.default_daily_tokens, settings.default_monthly_tokens)

    def applied(self, key: RowKey, *, has_own: bool, own: int | None) -> int | None:
        """Return the limit of a row: its own, else the default if its scope is an organisation."""
        if has_own:
            return own
        if "." in key.scope:
            return None
        return self.daily if key.window == "daily" else self.monthly


def least_room(balances: list[Balance]) -> int | None:
    """Return the least that any limited row has left; None when no row is limited."""
    return min((balance.room for balance in balances if balance.room is not None), default=None)


def rows_as_text(rows: list[RowKey]) -> str:
    """Return the rows as they are stored with reservations and entries."""
    return json.dumps(rows, separators=(",", ":"))


def rows_from_text(text: str) -> list[RowKey]:
    """Return the rows that `rows_as_text` stored."""
    return [RowKey(*row) for row in json.loads(text)]


def check_amount(amount: object, what: str) -> None:
    """Refuse what is not a sensible number of tokens.

    Raises:
        RequestMalformed: it is negative, absurdly large, or not an integer.
    """
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= LARGEST_AMOUNT:
        raise RequestMalformed(
            f"{what} must be a whole number of tokens from 0 to 2^53, not {str(amount)[:40]}.", param=what
        )
