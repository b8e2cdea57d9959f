"""The rows of the ledger as values: which counters a request touches, and what stands in them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import (
    NEVER_S,
    NOTHING,
    PRIORITIES,
    Amounts,
    BudgetRow,
    CounterKind,
    Hold,
    LimitKind,
    Meter,
    Priority,
    ReservationState,
    Settlement,
)
from trivet.domain.errors import RequestMalformed
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope

TRACKED: tuple[tuple[Meter, CounterKind], ...] = (("tokens", "daily"), ("tokens", "monthly"))
"""What is counted on every scope, limited or not."""

LARGEST_AMOUNT = 2**53
"""No single amount is larger; beyond it JSON readers lose digits."""
SUBJECT_CHARS_MAX = 200


class RowKey(NamedTuple):
    """One counter of one scope: of a calendar window, or of a task or session (the `subject`).

    The window's bounds are seconds since 1970 in UTC; what has none begins at 0 and ends at NEVER_S.
    """

    scope: Scope
    meter: Meter
    window: LimitKind
    subject: str
    start_s: int
    end_s: int


@dataclass(frozen=True, slots=True)
class Cap:
    """What bounds a row: its limit, and what goes beyond it.

    `granted` is what approved overrides add for everybody, `critical` what the allowance and emergency
    overrides add for critical requests.
    """

    key: RowKey
    limit: int
    granted: int = 0
    critical: int = 0

    def ceiling(self, *, critical: bool) -> int:
        """Return what used and held may add up to."""
        return self.limit + self.granted + (self.critical if critical else 0)


class Balance(NamedTuple):
    """What stands in a row, its limit (None: unlimited), and what this reading may use beyond that."""

    key: RowKey
    used: int
    held: int
    limit: int | None
    extra: int = 0
    allowance: int = 0
    """For critical requests, as it was set; known where rows are read to be shown."""

    @property
    def ceiling(self) -> int | None:
        """Return what used and held may add up to; None when unlimited."""
        return None if self.limit is None else self.limit + self.extra

    @property
    def room(self) -> int | None:
        """Return what may still be reserved, never below zero; None when unlimited."""
        return None if self.limit is None else max(0, self.limit + self.extra - self.used - self.held)

    def as_row(self) -> BudgetRow:
        """Return the row as the doors show it."""
        key = self.key
        return BudgetRow(
            scope=key.scope,
            meter=key.meter,
            window=key.window,  # type: ignore[arg-type]  # what is shown is counted: no `request`
            window_start=_instant(key.start_s),
            resets_at=reset_of(key),
            used=self.used,
            held=self.held,
            limit=self.limit,
            overridden=self.extra,
            critical_allowance=self.allowance,
        )


class Stored(NamedTuple):
    """A reservation as it stands in the store. A tuple, because two are made for every request."""

    reservation_id: str
    scope: Scope
    held: Amounts
    """What was held at first or, once it was weighed anew, since then; also after its end."""
    max_output: int
    priority: Priority
    state: ReservationState
    charged: Amounts
    remaining: int | None
    expires_ns: int | None
    rows: str

    @classmethod
    def of_row(cls, reservation_id: str, row: Sequence[Any]) -> "Stored":
        """Return what a store read, in the order of the fields, each amount as its three columns."""
        return cls(
            reservation_id,
            Scope(row[0]),
            Amounts(row[1], row[2], row[3]),
            row[4],
            row[5],
            row[6],
            Amounts(row[7], row[8], row[9]),
            row[10],
            row[11],
            row[12],
        )

    def changed(self, held: Amounts) -> "Stored":
        """Return it holding other amounts."""
        return self._replace(held=held)

    def ended(self, state: ReservationState, charged: Amounts, remaining: int | None) -> "Stored":
        """Return it after its end."""
        return Stored(
            self.reservation_id,
            self.scope,
            self.held,
            self.max_output,
            self.priority,
            state,
            charged,
            remaining,
            self.expires_ns,
            self.rows,
        )

    def settlement(self) -> Settlement:
        """Return how it ended."""
        over = beyond(self.charged, self.held)
        return Settlement(
            self.reservation_id,
            self.state,
            self.charged.tokens,
            self.remaining,
            over.tokens,
            self.charged,
            over,
        )


def beyond(charged: Amounts, held: Amounts) -> Amounts:
    """Return what of a charge was not held."""
    if (
        charged.tokens <= held.tokens
        and charged.weighted_tokens <= held.weighted_tokens
        and charged.usd_micros <= held.usd_micros
    ):
        return NOTHING
    return (charged - held).at_least(0)


@dataclass(frozen=True, slots=True)
class DefaultLimits:
    """What an organisation may use that has no limit of its own, in tokens; None: unlimited."""

    daily: int | None
    monthly: int | None

    @classmethod
    def of(cls, settings: BudgetSettings) -> "DefaultLimits":
        """Take the defaults from the settings."""
        return cls(settings.default_daily_tokens, settings.default_monthly_tokens)

    def limit(self, scope: Scope, meter: Meter, kind: LimitKind) -> int | None:
        """Return the limit of a row that has none of its own."""
        if meter != "tokens" or "." in scope:
            return None
        if kind == "daily":
            return self.daily
        return self.monthly if kind == "monthly" else None


def reset_of(key: RowKey) -> datetime | None:
    """Return when a row's window ends; None: never."""
    return None if key.end_s >= NEVER_S else _instant(key.end_s)


@lru_cache(maxsize=256)
def _instant(seconds: int) -> datetime:
    """Return the instant; thousands of rows have the same few windows."""
    return datetime.fromtimestamp(seconds, UTC)


def least_room(balances: Iterable[Balance]) -> int | None:
    """Return the least tokens that any limited row has left; None when no tokens are limited."""
    least: int | None = None
    for balance in balances:
        if balance.key.meter == "tokens":
            room = balance.room
            if room is not None and (least is None or room < least):
                least = room
    return least


def rows_as_text(rows: Sequence[RowKey]) -> str:
    """Return the rows as they are stored with reservations and entries, which is three times a request.

    A single row is told as a list of its fields in a list, and so were all before; of several each window is
    told once, and with each scope the numbers of its windows. The same rows always make the same text.
    """
    if len(rows) == 1:
        return json.dumps(rows, separators=(",", ":"))
    windows: dict[tuple[Any, ...], int] = {}
    scopes: list[list[Any]] = []
    for key in rows:
        if not scopes or scopes[-1][0] != key.scope:
            scopes.append([key.scope])
        scopes[-1].append(windows.setdefault(key[1:], len(windows)))
    return json.dumps({"windows": list(windows), "scopes": scopes}, separators=(",", ":"))


@lru_cache(maxsize=4096)
def rows_from_text(text: str) -> tuple[RowKey, ...]:
    """Return the rows that `rows_as_text` stored, in their order."""
    told = json.loads(text)
    if isinstance(told, list):
        return tuple(RowKey(*row) for row in told)
    windows = told["windows"]
    return tuple(RowKey(scope, *windows[number]) for scope, *numbers in told["scopes"] for number in numbers)


def check_amount(amount: object, what: str) -> None:
    """Refuse what is not a sensible amount.

    Raises:
        RequestMalformed: it is negative, absurdly large, or not an integer.
    """
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= LARGEST_AMOUNT:
        raise RequestMalformed(
            f"{what} must be a whole number of tokens from 0 to 2^53, not {str(amount)[:40]}.", param=what
        )


def check_amounts(amounts: Amounts, what: str) -> None:
    """Refuse amounts of which one is not sensible.

    Raises:
        RequestMalformed: see `check_amount`.
    """
    for amount in (amounts.tokens, amounts.weighted_tokens, amounts.usd_micros):
        check_amount(amount, what)


def _are_odd(amounts: Iterable[object]) -> bool:
    """Tell whether any is no plain number in its range, which is then found one by one."""
    odd = False
    for amount in amounts:
        # bool is a subclass of int, not int.
        odd = odd or type(amount) is not int or not 0 <= amount <= LARGEST_AMOUNT
    return odd


def check_charges(usage: Usage, charged: Amounts | None, earlier: Iterable[AttemptCharge]) -> None:
    """Refuse a settlement that cannot be meant.

    Raises:
        RequestMalformed: see `check_amount`.
    """
    charge = charged or NOTHING
    if _are_odd(
        (
            usage.prompt_tokens,
            usage.completion_tokens,
            charge.tokens,
            charge.weighted_tokens,
            charge.usd_micros,
        )
    ):
        check_amount(usage.prompt_tokens, "prompt_tokens")
        check_amount(usage.completion_tokens, "completion_tokens")
        check_amounts(charge, "charged")
    for attempt in earlier:
        check_amounts(attempt.charged, "charged")


def check_hold(hold: Hold) -> None:
    """Refuse a hold that cannot be meant.

    Raises:
        RequestMalformed: an amount, the output tokens, the priority or a subject is senseless.
    """
    prompt, output = hold.prompt, hold.output
    if _are_odd(
        (
            prompt.tokens,
            prompt.weighted_tokens,
            prompt.usd_micros,
            output.tokens,
            output.weighted_tokens,
            output.usd_micros,
            hold.max_output,
            hold.min_output,
        )
    ):
        check_amounts(prompt, "amount")
        check_amounts(output, "amount")
        check_amount(hold.max_output, "max_output")
        check_amount(hold.min_output, "min_output")
    if hold.min_output > hold.max_output or hold.priority not in PRIORITIES:
        raise RequestMalformed("The hold's output tokens or its priority cannot be meant.")
    if not hold.max_output and output != NOTHING:
        raise RequestMalformed("A hold of no output tokens cannot have amounts for them.", param="max_output")
    if hold.task is not None:
        check_subject(hold.task, "task")
    if hold.session is not None:
        check_subject(hold.session, "session")


def check_subject(subject: str, param: str) -> None:
    """Refuse a task or session id that is no short printable text.

    Raises:
        RequestMalformed: it is empty, too long, or holds control characters.
    """
    if not 0 < len(subject) <= SUBJECT_CHARS_MAX or not subject.isprintable():
        raise RequestMalformed(f"{param} must be 1 to {SUBJECT_CHARS_MAX} printable characters.", param=param)
