"""Budgets as values: windows, reservations, settlements, status."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from trivet.domain.scopes import Scope

Meter = Literal["tokens"]
WindowKind = Literal["daily", "monthly"]
WINDOW_KINDS: tuple[WindowKind, ...] = ("daily", "monthly")

ReservationState = Literal["held", "settled", "released", "expired_charged"]


@dataclass(frozen=True, slots=True)
class Window:
    """A calendar window [start, end) in UTC."""

    kind: WindowKind
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Reservation:
    """A hold on every scope and window of one request: a true ceiling of what it can use."""

    reservation_id: str
    scope: Scope
    amount: int
    """Tokens held, prompt and output together."""
    remaining: int | None
    """The least that any limited row has left after this hold; None when no row is limited."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a reservation ended. `remaining` as in Reservation; `overrun` is what exceeded the hold."""

    reservation_id: str
    state: ReservationState
    charged: int
    remaining: int | None
    overrun: int = 0


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One counter: what a scope used and holds in one window, against its limit (None: unlimited)."""

    scope: Scope
    meter: Meter
    window: WindowKind
    window_start: datetime
    resets_at: datetime
    used: int
    held: int
    limit: int | None

    @property
    def remaining(self) -> int | None:
        """Return what may still be reserved; never below zero; None when unlimited."""
        return None if self.limit is None else max(0, self.limit - self.used - self.held)

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
            "window_start": self.window_start.isoformat(),
            "resets_at": self.resets_at.isoformat(),
            "used": self.used,
            "held": self.held,
            "limit": self.limit,
            "remaining": self.remaining,
            "percent_used": self.percent_used,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """What an operator wants to know about one scope, its own rows and those above it."""

    scope: Scope
    status: str
    """`ok`, `warning` (a threshold is passed), `exhausted`."""
    rows: tuple[BudgetRow, ...]
    burn_rate_per_hour: float
    projected_total: int | None
    breach_at: datetime | None
    requests_remaining: int | None
    thresholds: tuple[int, ...]
    active_alerts: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the status as the API and the CLI show it."""
        return {
            "scope": self.scope,
            "status": self.status,
            "rows": [row.as_json() for row in self.rows],
            "burn_rate_per_hour": self.burn_rate_per_hour,
            "projected_total": self.projected_total,
            "breach_at": self.breach_at.isoformat() if self.breach_at else None,
            "requests_remaining": self.requests_remaining,
            "thresholds": list(self.thresholds),
            "active_alerts": list(self.active_alerts),
        }
