"""`ModelMetricsCollector`: what was routed where, in memory, for a small program's own reports."""

import math
import threading
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from trivet.domain.clock import Clock, SystemClock
from trivet.domain.errors import ConfigError, RequestMalformed
from trivet.domain.tiers import ModelTier
from trivet.sdk.cost_weights import CostWeights, cost_reduction_pct

TenantId = uuid.UUID | str


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """One routed request and how it ended.

    Raises (when made):
        RequestMalformed: the timestamp has no time zone, or a number is negative or not finite.
    """

    timestamp: datetime
    """When it was decided; aware."""
    tenant_id: TenantId | None
    task_type: str | None
    selected_tier: ModelTier | str
    estimated_complexity: float
    tokens_used: int
    """Prompt and output together."""
    latency_ms: float
    """From the request to the end of the answer."""

    def __post_init__(self) -> None:
        if self.timestamp.utcoffset() is None:
            raise RequestMalformed(
                "timestamp must have a time zone.", hint="Use datetime.now(timezone.utc).", param="timestamp"
            )
        tokens: object = self.tokens_used
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise RequestMalformed("tokens_used must be a whole number of 0 or more.", param="tokens_used")
        if not math.isfinite(self.latency_ms) or self.latency_ms < 0:
            raise RequestMalformed("latency_ms must be a number of 0 or more.", param="latency_ms")
        if not math.isfinite(self.estimated_complexity):
            raise RequestMalformed("estimated_complexity must be a number.", param="estimated_complexity")


class ModelMetricsCollector:
    """Keeps the latest decisions and reports on them. Plain functions, safe from many threads.

    The time that is saved is modelled: a decision's latency stands for its engine time, and the heaviest
    tier would have taken heaviest / weight times as long. What a device really did is measured by Trivet's
    own clock and reported by `Trivet.savings`.
    """

    def __init__(
        self,
        capacity: int = 100_000,
        *,
        clock: Clock | None = None,
        cost_weights: Mapping[str, float] | None = None,
    ) -> None:
        """Keep at most `capacity` decisions; the oldest make room and are counted as dropped.

        Args:
            capacity: at least 1.
            clock: tells which decisions lie within a period.
            cost_weights: by tier; by default 1, 3 and 10 for light, standard and heavy.

        Raises:
            ConfigError: the capacity is below 1, or a weight is not above 0.
        """
        if capacity < 1:
            raise ConfigError(f"capacity must be at least 1, not {capacity}.", param="capacity")
        self._decisions: deque[RoutingDecision] = deque(maxlen=capacity)
        self._recorded = 0
        self._lock = threading.Lock()
        self._clock = clock or SystemClock()
        self._weights = CostWeights(dict(cost_weights)) if cost_weights is not None else CostWeights()

    def record_decision(self, decision: RoutingDecision) -> None:
        """Remember a decision."""
        with self._lock:
            self._decisions.append(decision)
            self._recorded += 1

    def get_tier_distribution(
        self, tenant_id: TenantId | None = None, period_hours: float = 24
    ) -> dict[str, float]:
        """Return each tier's share of the requests in per cent; empty where there were none.

        Args:
            tenant_id: None for all tenants together.
            period_hours: how far back from now.
        """
        return _shares(self._within(tenant_id, period_hours))

    def get_savings_estimate(
        self, tenant_id: TenantId | None = None, period_hours: float = 24
    ) -> dict[str, Any]:
        """Return what was saved against sending all to the heaviest tier.

        `tokens_saved` = sum of tokens * (heaviest - weight) / heaviest; `engine_hours_saved` = sum of
        latency * (heaviest / weight - 1), in hours. `gpu_hours_saved` is 0.0: a latency is no GPU time.
        """
        return self._savings(self._within(tenant_id, period_hours))

    def export_metrics(self, tenant_id: TenantId | None = None, period_hours: float = 24) -> dict[str, Any]:
        """Return everything about a period as a dictionary that JSON can carry, for a dashboard."""
        decisions = self._within(tenant_id, period_hours)
        now = self._clock.now()
        with self._lock:
            dropped = self._recorded - len(self._decisions)
        return {
            "tenant_id": None if tenant_id is None else str(tenant_id),
            "since": (now - _period(period_hours)).isoformat(),
            "until": now.isoformat(),
            "period_hours": period_hours,
            "requests": len(decisions),
            "tokens_used": sum(decision.tokens_used for decision in decisions),
            "tier_distribution": _shares(decisions),
            "tiers": {
                tier: _summary([decision for decision in decisions if _tier(decision) == tier])
                for tier in _shares(decisions)
            },
            "task_types": dict(Counter(decision.task_type or "" for decision in decisions).most_common()),
            "mean_complexity": _mean([decision.estimated_complexity for decision in decisions]),
            "savings": self._savings(decisions),
            "decisions_dropped": dropped,
        }

    def _within(self, tenant_id: TenantId | None, period_hours: float) -> list[RoutingDecision]:
        since = self._clock.now() - _period(period_hours)
        with self._lock:
            decisions = list(self._decisions)
        wanted = None if tenant_id is None else str(tenant_id)
        return [
            decision
            for decision in decisions
            if decision.timestamp >= since and (wanted is None or str(decision.tenant_id) == wanted)
        ]

    def _savings(self, decisions: Sequence[RoutingDecision]) -> dict[str, Any]:
        tokens = sum(decision.tokens_used for decision in decisions)
        saved = sum(self._weights.saved_tokens(_tier(d), d.tokens_used) for d in decisions)
        actual_s = sum(decision.latency_ms for decision in decisions) / 1000
        saved_s = sum(self._weights.saved_seconds(_tier(d), d.latency_ms / 1000) for d in decisions)
        return {
            "requests": len(decisions),
            "tokens_used": tokens,
            "tokens_saved": round(saved),
            "cost_reduction_pct": cost_reduction_pct(saved, tokens),
            "gpu_hours_saved": 0.0,
            "engine_hours_actual": round(actual_s / 3600, 6),
            "engine_hours_baseline": round((actual_s + saved_s) / 3600, 6),
            "engine_hours_saved": round(saved_s / 3600, 6),
            "basis": "modelled",
        }


def _period(period_hours: object) -> timedelta:
    if isinstance(period_hours, bool) or not isinstance(period_hours, int | float) or not period_hours > 0:
        raise RequestMalformed(
            f"period_hours must be a number above 0, not {period_hours!r:.40}.", param="period_hours"
        )
    # A century is for ever; more would leave the calendar.
    return timedelta(hours=min(float(period_hours), 24 * 36_500))


def _tier(decision: RoutingDecision) -> str:
    tier = decision.selected_tier
    return tier.value if isinstance(tier, ModelTier) else str(tier)


def _shares(decisions: Sequence[RoutingDecision]) -> dict[str, float]:
    counts = Counter(_tier(decision) for decision in decisions)
    return {tier: round(100.0 * count / len(decisions), 2) for tier, count in counts.most_common()}


def _summary(decisions: Sequence[RoutingDecision]) -> dict[str, Any]:
    latencies = sorted(decision.latency_ms for decision in decisions)
    return {
        "requests": len(decisions),
        "tokens_used": sum(decision.tokens_used for decision in decisions),
        "mean_latency_ms": _mean(latencies),
        "p50_latency_ms": _nearest_rank(latencies, 50),
        "p95_latency_ms": _nearest_rank(latencies, 95),
    }


def _nearest_rank(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None
