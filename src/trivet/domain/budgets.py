"""Budgets as values: meters, windows, what is asked, what was held and charged, status."""

from dataclasses import field
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from trivet.domain.scopes import Scope
from trivet.domain.values import value

Meter = Literal["tokens", "weighted_tokens", "usd_micros"]
"""Tokens; tokens times the serving tier's cost weight, rounded up; millionths of a US dollar."""
METERS: tuple[Meter, ...] = ("tokens", "weighted_tokens", "usd_micros")

WindowKind = Literal["daily", "weekly", "monthly", "total"]
"""Calendar windows in the tenant's zone; a week begins on Monday; `total` has no beginning and no end."""
WINDOW_KINDS: tuple[WindowKind, ...] = ("daily", "weekly", "monthly", "total")
SubjectKind = Literal["task", "session"]
"""Windows that are no time: everything that one task or one session uses."""
SUBJECT_KINDS: tuple[SubjectKind, ...] = ("task", "session")
CounterKind = Literal["daily", "weekly", "monthly", "total", "task", "session"]
"""What a counter counts over."""
LimitKind = Literal["daily", "weekly", "monthly", "total", "request", "task", "session"]
"""What a limit can bound. `request` has no counter: each single request stays within it."""
LIMIT_KINDS: tuple[LimitKind, ...] = ("daily", "weekly", "monthly", "total", "request", "task", "session")

NEVER_S = 253_402_300_800
"""The end of what does not end, in seconds since 1970: the year 10000."""

ReservationState = Literal["held", "settled", "released", "expired_charged"]
"""`expired_charged` is unverified: its owner died or fell silent, and the whole hold was charged."""

Priority = Literal["critical", "interactive", "batch"]
"""`critical` may use its own allowance beyond a limit; `batch` is what is not essential."""
PRIORITIES: tuple[Priority, ...] = ("batch", "interactive", "critical")
"""From the least to the most urgent."""

LadderAction = Literal[
    "notify", "prefer_cheaper", "enforce_cheaper", "approve_heavy", "block_nonessential", "critical_only"
]
"""What a step of the graduated response does; see `config.settings.LadderStep`."""

OverrideKind = Literal["amount", "approval", "emergency"]
"""More of a meter for all; leave to use the dearest tier; more of a meter for critical requests alone."""
OverrideState = Literal["requested", "approved", "denied", "revoked"]


@value()
class Amounts:
    """One amount on every meter; also used for signed differences."""

    tokens: int = 0
    weighted_tokens: int = 0
    usd_micros: int = 0

    def of(self, meter: Meter) -> int:
        """Return the amount on one meter."""
        if meter == "tokens":
            return self.tokens
        return self.weighted_tokens if meter == "weighted_tokens" else self.usd_micros

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.tokens + other.tokens,
            self.weighted_tokens + other.weighted_tokens,
            self.usd_micros + other.usd_micros,
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.tokens - other.tokens,
            self.weighted_tokens - other.weighted_tokens,
            self.usd_micros - other.usd_micros,
        )

    def at_least(self, floor: int) -> "Amounts":
        """Return the amounts, none of them below `floor`."""
        return Amounts(max(floor, self.tokens), max(floor, self.weighted_tokens), max(floor, self.usd_micros))

    def at_most(self, other: "Amounts") -> "Amounts":
        """Return the lesser of both on each meter."""
        return Amounts(
            min(self.tokens, other.tokens),
            min(self.weighted_tokens, other.weighted_tokens),
            min(self.usd_micros, other.usd_micros),
        )

    def part(self, numerator: int, denominator: int) -> "Amounts":
        """Return numerator/denominator of each amount, rounded up; all of it when the denominator is 0."""
        if numerator == denominator:
            return self
        return Amounts(
            -(-self.tokens * numerator // denominator),
            -(-self.weighted_tokens * numerator // denominator),
            -(-self.usd_micros * numerator // denominator),
        )

    def as_json(self) -> dict[str, int]:
        """Return the amounts by the names of their meters."""
        return {meter: self.of(meter) for meter in METERS}


NOTHING = Amounts()


@value()
class Idempotency:
    """A caller's promise that a request is the same one: its key, and a digest of the request."""

    key: str
    fingerprint: str


@value()
class Hold:
    """What is asked of the ledger for one request: a true ceiling of what it can use.

    For `o` of the `max_output` output tokens it holds prompt + output * o / max_output, rounded up on each
    meter. Where little is left, fewer output tokens may be granted, down to `min_output`.
    """

    scope: Scope
    prompt: Amounts
    output: Amounts = Amounts()
    """For `max_output` tokens."""
    max_output: int = 0
    min_output: int = 0
    """Equal to `max_output`: all or nothing."""
    priority: Priority = "interactive"
    task: str | None = None
    session: str | None = None
    tier: str | None = None
    dearest: bool = False
    """Whether the tier is the dearest one, which a ladder may ask approval for."""
    idempotency: Idempotency | None = None
    expires_at_ns: int | None = None
    """Nanoseconds since 1970 after which an unreported hold is charged; None: it ends with its owner."""
    decision_id: str | None = None
    unpriced: bool = False
    """Whether nobody knows what the model costs; then no row limited in dollars admits it."""

    @classmethod
    def of_tokens(cls, scope: Scope, tokens: int) -> "Hold":
        """Return a plain hold of so many tokens of weight 1, all or nothing."""
        return cls(scope=scope, prompt=Amounts(tokens, tokens))

    def amounts(self, output_tokens: int) -> Amounts:
        """Return what is held if so many output tokens are granted."""
        return self.prompt + self.output.part(output_tokens, self.max_output)


@value()
class Window:
    """A calendar window [start, end) in UTC."""

    kind: WindowKind
    start: datetime
    end: datetime


@value()
class Reservation:
    """A hold on every row of one request: a true ceiling of what it can use."""

    reservation_id: str
    scope: Scope
    amount: int
    """Tokens held, prompt and output together."""
    remaining: int | None
    """The tokens that any limited row has left after this hold, the least; None when no row is limited."""
    amounts: Amounts = Amounts()
    """The hold on every meter."""
    max_output: int = 0
    """Output tokens granted; fewer than asked: clamped, and to be enforced upstream."""
    clamped: bool = False
    expires_at_ns: int | None = None
    dollars_limited: bool = False
    """Whether any of its rows has a limit in dollars."""


@value()
class Settlement:
    """How a reservation ended. `remaining` as in Reservation; `overrun` is what exceeded the hold."""

    reservation_id: str
    state: ReservationState
    charged: int
    """Tokens."""
    remaining: int | None
    overrun: int = 0
    """Tokens."""
    charged_amounts: Amounts = Amounts()
    overrun_amounts: Amounts = Amounts()
    repeated: bool = field(default=False, compare=False)
    """Whether it had ended like this before it was asked for."""


@value()
class Pressure:
    """How far a scope's budgets are used, and what the ladder makes of it. Advice: a moment old."""

    percent_used: float
    """Of the fullest limited row, settled use only."""
    actions: frozenset[LadderAction]
    approved: bool = False
    """Whether an approval for the dearest tier is in force."""


@value(kw_only=True)
class Override:
    """Leave to exceed a budget for a while; see `OverrideKind`."""

    override_id: str
    kind: OverrideKind
    scope: Scope
    meter: Meter
    window: LimitKind
    amount: int
    """Beyond the limit; 0 for an approval."""
    state: OverrideState
    requester: str
    approver: str | None
    reason: str
    requested_at: datetime
    expires_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the override as the API and the CLI show it."""
        return {
            "override_id": self.override_id,
            "kind": self.kind,
            "scope": self.scope,
            "meter": self.meter,
            "window": self.window,
            "amount": self.amount,
            "state": self.state,
            "requester": self.requester,
            "approver": self.approver,
            "reason": self.reason,
            "requested_at": self.requested_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
        }


@value()
class BudgetRow:
    """One counter: what a scope used and holds in one window, against its limit (None: unlimited)."""

    scope: Scope
    meter: Meter
    window: CounterKind
    window_start: datetime
    resets_at: datetime | None
    """None: never."""
    used: int
    held: int
    limit: int | None
    overridden: int = 0
    """What approved overrides in force add to the limit."""
    critical_allowance: int = 0
    """What critical requests may use beyond it."""

    @property
    def remaining(self) -> int | None:
        """Return what may still be reserved; never below zero; None when unlimited."""
        return None if self.limit is None else max(0, self.limit + self.overridden - self.used - self.held)

    @property
    def percent_used(self) -> float | None:
        """Return settled use as a percentage of the limit; None when unlimited."""
        if self.limit is None:
            return None
        return 100.0 if self.limit == 0 else round(100.0 * self.used / self.limit, 2)

    def as_json(self) -> dict[str, Any]:
        """Return the row as the API and the CLI show it."""
        return {
            "scope": self.scope,
            "meter": self.meter,
            "window": self.window,
            "window_start": _text_of(self.window_start),
            "resets_at": _text_of(self.resets_at) if self.resets_at else None,
            "used": self.used,
            "held": self.held,
            "limit": self.limit,
            "overridden": self.overridden,
            "critical_allowance": self.critical_allowance,
            "remaining": self.remaining,
            "percent_used": self.percent_used,
        }


@lru_cache(maxsize=256)
def _text_of(instant: datetime) -> str:
    """Return the instant in words; thousands of rows have the same few windows."""
    return instant.isoformat()


@value()
class BudgetCap:
    """A limit on each single request, task or session."""

    scope: Scope
    meter: Meter
    window: LimitKind
    limit: int

    def as_json(self) -> dict[str, Any]:
        """Return the cap as the API and the CLI show it."""
        return {"scope": self.scope, "meter": self.meter, "window": self.window, "limit": self.limit}


@value(kw_only=True)
class BudgetStatus:
    """What an operator wants to know about one scope, its own rows and those above it."""

    scope: Scope
    status: str
    """`ok`, `warning` (a threshold is passed), `exhausted`."""
    time_zone: str
    """Of the organisation; one that was set lately counts from the next windows on."""
    rows: tuple[BudgetRow, ...]
    caps: tuple[BudgetCap, ...]
    burn_rate_per_hour: float
    """Tokens of this scope."""
    burn_rates: Amounts
    """Per hour, rounded, on every meter."""
    projected_total: int | None
    """What `projected_row` will have used at its window's end; None: it has no end."""
    projected_row: BudgetRow
    """The row whose limit is reached first at the present rates; else the fullest one, or the scope's own."""
    breach_at: datetime | None
    requests_remaining: int | None
    thresholds: tuple[int, ...]
    active_alerts: tuple[dict[str, Any], ...]
    overrides: tuple[Override, ...]
    """Requested ones, and approved ones in force, of the scope and those above it."""
    actions: tuple[LadderAction, ...]
    """What the ladder has in force."""

    def as_json(self) -> dict[str, Any]:
        """Return the status as the API and the CLI show it."""
        return {
            "scope": self.scope,
            "status": self.status,
            "time_zone": self.time_zone,
            "rows": [row.as_json() for row in self.rows],
            "caps": [cap.as_json() for cap in self.caps],
            "burn_rate_per_hour": self.burn_rate_per_hour,
            "burn_rates": self.burn_rates.as_json(),
            "projected_total": self.projected_total,
            "projected_row": {
                "scope": self.projected_row.scope,
                "meter": self.projected_row.meter,
                "window": self.projected_row.window,
            },
            "breach_at": self.breach_at.isoformat() if self.breach_at else None,
            "requests_remaining": self.requests_remaining,
            "thresholds": list(self.thresholds),
            "active_alerts": list(self.active_alerts),
            "overrides": [override.as_json() for override in self.overrides],
            "actions": list(self.actions),
        }
