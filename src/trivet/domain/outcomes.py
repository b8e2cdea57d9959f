"""What became of a request: its attempts, its usage, its end."""

from dataclasses import dataclass, field
from typing import Any, Literal

from trivet.domain.budgets import NOTHING, Amounts
from trivet.domain.decisions import Decision
from trivet.domain.requests import Hints
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment
from trivet.domain.values import value

UsageSource = Literal["engine", "counted", "ceiling", "reported"]
"""engine: its own usage, checked; counted: our count of the streamed text; ceiling: the hold's bound;
reported: an outside caller's word."""

OutcomeStatus = Literal["ok", "cut", "failed", "cancelled", "refused"]
"""ok; cut: failed after the first byte; failed: no attempt succeeded; cancelled: the client left; refused."""


@value()
class Usage:
    """Tokens that a request used."""

    prompt_tokens: int
    completion_tokens: int
    source: UsageSource = "engine"
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Return prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@value(kw_only=True)
class AttemptCharge:
    """What a tenant owes for an attempt that was not the last: an engine worked, and was left.

    `charged` is at the tariff of the deployment that worked.
    """

    attempt_id: str
    deployment: str
    tier: str
    usage: Usage
    charged: Amounts


@dataclass(slots=True)
class Attempt:
    """One dispatch to one deployment. Instants are monotonic nanoseconds of this process."""

    attempt_id: str
    deployment: Deployment
    dispatched_ns: int
    waited_ns: int = 0
    """How long the request waited for the deployment's model before that; no part of the attempt."""
    ended_ns: int | None = None
    first_token_ns: int | None = None
    device_ns: int = 0
    """Device time attributed by the device clock, summed over the deployment's devices."""
    usage: Usage | None = None
    error_code: str | None = None


@dataclass(slots=True)
class Outcome:
    """Everything that is recorded about one request, written when it is settled."""

    request_id: str
    key_id: str
    scope: Scope
    decision: Decision
    hints: Hints
    stream: bool
    started_ns: int
    ended_ns: int
    status: OutcomeStatus
    attempts: list[Attempt] = field(default_factory=list)
    usage: Usage | None = None
    """Usage charged to the tenant; None when nothing was."""
    error_code: str | None = None
    charged: Amounts = NOTHING
    """What was charged on every meter."""
    saved_device_ns: int | None = None
    """Device time that the answer had taken when it was kept; None: it is none from the cache."""

    @property
    def fallbacks(self) -> int:
        """Return how many attempts failed before another deployment was tried."""
        return max(0, len(self.attempts) - 1)

    @property
    def served_by(self) -> Deployment | None:
        """Return the deployment of the last attempt, if it delivered anything."""
        if self.attempts and self.status in ("ok", "cut", "cancelled"):
            return self.attempts[-1].deployment
        return None

    def words(self) -> dict[str, Any]:
        """Return what the log says of it: no prompt, no key."""
        served_by, waited_ns = self.served_by, 0
        for attempt in self.attempts:
            waited_ns += attempt.waited_ns
        return {
            "event": "request.done",
            "request_id": self.request_id,
            "scope": self.scope,
            "status": self.status,
            "tier": served_by.tier.name if served_by else None,
            "model": served_by.model if served_by else None,
            "complexity": round(self.decision.complexity.score, 3),
            "attempts": len(self.attempts),
            "tokens": self.usage.total_tokens if self.usage else 0,
            "cached": self.saved_device_ns is not None,
            "waited_ms": round(waited_ns / 1e6, 1),
            "latency_ms": round((self.ended_ns - self.started_ns) / 1e6, 1),
            "code": self.error_code,
        }
