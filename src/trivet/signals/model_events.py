"""What was chosen for requests, and what was slow: gathered for a while, then put into the outbox.

Telemetry, no books: it costs a request one append to a list in memory, a crash loses the last seconds of it,
and where more comes than fits the oldest is left out and counted.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog

from trivet.config.signal_settings import SignalSettings
from trivet.domain.clock import Clock
from trivet.domain.errors import StoreError
from trivet.domain.outcomes import Outcome
from trivet.domain.scopes import Scope, organisation
from trivet.signals.outbox import LATENCY_WARNING, SELECTION, Outbox

log = structlog.get_logger(__name__)

GATHERED_MAX = 10_000
"""Requests of one interval that are looked at; of more the latest."""
TOLD_SINGLY_MAX = 50
"""Requests of one item that are told one by one; the others are in its counts."""


class ModelEvents:
    """Listens to outcomes. `note` for the event loop's thread."""

    def __init__(self, outbox: Outbox, settings: SignalSettings, clock: Clock) -> None:
        """Take where events go, which of them are wanted, and the clock."""
        self._outbox = outbox
        self._wanted = frozenset(settings.events)
        self._slow_ms = settings.latency_warning_ms
        self._interval_s = settings.events_interval_s
        self._clock = clock
        self._gathered: deque[Outcome] = deque(maxlen=GATHERED_MAX)
        self._seen = 0

    def note(self, outcome: Outcome) -> None:
        """Take note of the end of a request; never blocks and never fails."""
        self._gathered.append(outcome)
        self._seen += 1

    async def flush(self) -> int:
        """Put what was gathered into the outbox; return how many items that are.

        Raises:
            StoreError: the store does not take them; they are lost.
        """
        outcomes, left_out = list(self._gathered), self._seen - len(self._gathered)
        self._gathered.clear()
        self._seen = 0
        now, now_ns = self._clock.now(), self._clock.monotonic_ns()

        def at(outcome: Outcome) -> datetime:
            return now - timedelta(microseconds=max(0, now_ns - outcome.ended_ns) // 1000)

        items: list[tuple[Scope, str, dict[str, Any]]] = []
        by_organisation: dict[Scope, list[tuple[datetime, Outcome]]] = {}
        for outcome in outcomes:
            by_organisation.setdefault(organisation(outcome.scope), []).append((at(outcome), outcome))
        for owner, some in sorted(by_organisation.items()):
            if SELECTION in self._wanted:
                items.append((owner, SELECTION, _selections(owner, some) | {"left_out": left_out}))
            slow = [(when, one) for when, one in some if (_first_content_ms(one) or 0.0) > self._slow_ms]
            if slow and LATENCY_WARNING in self._wanted:
                items.append((owner, LATENCY_WARNING, _slow(owner, slow, self._slow_ms)))
        await asyncio.gather(*(asyncio.wrap_future(self._outbox.put(*item)) for item in items))
        return len(items)

    @contextlib.asynccontextmanager
    async def flushing(self) -> AsyncIterator["ModelEvents"]:
        """Flush from time to time while the block runs, and once at its end."""
        task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self._try_to_flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except StoreError as error:
            log.warning("signals.events_lost", error=str(error))


def _selections(owner: Scope, some: Iterable[tuple[datetime, Outcome]]) -> dict[str, Any]:
    """Return which tiers and deployments were chosen, and why, for the latest one by one."""
    seen = list(some)
    chosen = [outcome.decision.deployment for _, outcome in seen]
    return {
        "scope": owner,
        "requests": len(seen),
        "by_tier": dict(Counter(deployment.tier.name for deployment in chosen)),
        "by_deployment": dict(Counter(deployment.name for deployment in chosen)),
        "latest": [_selection(at, outcome) for at, outcome in seen[-TOLD_SINGLY_MAX:]],
    }


def _selection(at: datetime, outcome: Outcome) -> dict[str, Any]:
    decision = outcome.decision
    served_by = outcome.served_by
    return {
        "at": at.isoformat(),
        "request_id": outcome.request_id,
        "decision_id": decision.decision_id,
        "scope": outcome.scope,
        "tier": decision.deployment.tier.name,
        "deployment": decision.deployment.name,
        "served_by": None if served_by is None else served_by.name,
        "complexity": round(decision.complexity.score, 3),
        "policy": decision.policy,
        "strategy": decision.strategy,
        "reasons": [reason.code for reason in decision.reasons],
        "downgraded_from": decision.downgraded_from,
        "status": outcome.status,
    }


def _slow(owner: Scope, slow: list[tuple[datetime, Outcome]], slow_ms: int) -> dict[str, Any]:
    """Return for which requests the first content took longer than is wanted, the slowest first."""
    told = [
        {
            "at": at.isoformat(),
            "request_id": outcome.request_id,
            "scope": outcome.scope,
            "deployment": outcome.attempts[-1].deployment.name,
            "first_content_ms": round(_first_content_ms(outcome) or 0.0),
            "waited_ms": round(sum(attempt.waited_ns for attempt in outcome.attempts) / 1e6),
            "attempts": len(outcome.attempts),
        }
        for at, outcome in slow
    ]
    told.sort(key=lambda one: -int(str(one["first_content_ms"])))
    return {
        "scope": owner,
        "latency_warning_ms": slow_ms,
        "requests": len(told),
        "slowest_ms": told[0]["first_content_ms"],
        "by_deployment": dict(Counter(str(one["deployment"]) for one in told)),
        "slowest": told[:TOLD_SINGLY_MAX],
    }


def _first_content_ms(outcome: Outcome) -> float | None:
    """Return how long the caller waited for the first content; None: no engine answered."""
    if outcome.served_by is None:
        return None
    first_ns = outcome.attempts[-1].first_token_ns or outcome.ended_ns
    return (first_ns - outcome.started_ns) / 1e6
