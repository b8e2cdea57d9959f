"""ModelMetricsCollector: what was routed where, in a bounded memory."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trivet import ModelMetricsCollector, ModelTier, RoutingDecision
from trivet.domain.clock import ManualClock
from trivet.domain.errors import ConfigError, RequestMalformed

NOON = datetime(2026, 5, 10, 12, tzinfo=UTC)
ACME, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


def decision(tier: ModelTier | str = "light", **changes: Any) -> RoutingDecision:
    """Return a decision of ACME at noon."""
    fields: dict[str, Any] = {
        "timestamp": NOON,
        "tenant_id": ACME,
        "task_type": "chat",
        "selected_tier": tier,
        "estimated_complexity": 0.25,
        "tokens_used": 100,
        "latency_ms": 36_000.0,
    }
    return RoutingDecision(**(fields | changes))


@pytest.fixture
def metrics() -> ModelMetricsCollector:
    """A collector at noon."""
    return ModelMetricsCollector(clock=ManualClock(NOON))


def test_distribution(metrics: ModelMetricsCollector) -> None:
    """Shares are per cent of the requests, by tenant and in all."""
    for tier in ("light", ModelTier.LIGHT, "standard", ModelTier.HEAVY):
        metrics.record_decision(decision(tier))
    metrics.record_decision(decision("cloud", tenant_id=OTHER))
    assert metrics.get_tier_distribution(ACME) == {"light": 50.0, "standard": 25.0, "heavy": 25.0}
    assert metrics.get_tier_distribution(str(OTHER)) == {"cloud": 100.0}
    assert metrics.get_tier_distribution() == {"light": 40.0, "standard": 20.0, "heavy": 20.0, "cloud": 20.0}
    assert metrics.get_tier_distribution(uuid.uuid4()) == {}


@pytest.mark.parametrize(("hours_ago", "counted"), [(0, True), (23.9, True), (24, True), (24.1, False)])
def test_periods(metrics: ModelMetricsCollector, hours_ago: float, counted: bool) -> None:
    """A decision counts if it lies within the period before now."""
    metrics.record_decision(decision(timestamp=NOON - timedelta(hours=hours_ago)))
    assert bool(metrics.get_tier_distribution(ACME, period_hours=24)) is counted


def test_timestamps_of_any_zone(metrics: ModelMetricsCollector) -> None:
    """Instants are compared, not their writing."""
    east = NOON.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+09:00").tzinfo)
    metrics.record_decision(decision(timestamp=east))
    assert metrics.get_tier_distribution(period_hours=0.5) == {"light": 100.0}


def test_savings(metrics: ModelMetricsCollector) -> None:
    """Tokens by weights; hours from latency times weight ratio, called modelled; no GPU hours."""
    for tier in ("light", "standard", "heavy", "unheard-of"):
        metrics.record_decision(decision(tier))
    assert metrics.get_savings_estimate(ACME, period_hours=24) == {
        "requests": 4,
        "tokens_used": 400,
        "tokens_saved": 160,
        "cost_reduction_pct": 40.0,
        "gpu_hours_saved": 0.0,
        "engine_hours_actual": 0.04,
        "engine_hours_baseline": 0.153333,
        "engine_hours_saved": 0.113333,
        "basis": "modelled",
    }


def test_nothing_recorded(metrics: ModelMetricsCollector) -> None:
    """Every key is there when nothing happened."""
    savings = metrics.get_savings_estimate(ACME, period_hours=24)
    assert (savings["tokens_saved"], savings["cost_reduction_pct"], savings["gpu_hours_saved"]) == (
        0,
        0.0,
        0.0,
    )
    assert metrics.export_metrics(ACME)["mean_complexity"] is None


def test_export(metrics: ModelMetricsCollector) -> None:
    """An export is JSON: shares, latencies, task types and savings of the period."""
    for latency_ms in range(1, 21):
        metrics.record_decision(decision(latency_ms=float(latency_ms)))
    metrics.record_decision(decision(ModelTier.HEAVY, task_type=None, estimated_complexity=1.0))
    exported = json.loads(json.dumps(metrics.export_metrics(ACME, period_hours=24)))
    assert (exported["tenant_id"], exported["requests"], exported["tokens_used"]) == (str(ACME), 21, 2_100)
    assert (exported["since"], exported["until"]) == (
        "2026-05-09T12:00:00+00:00",
        "2026-05-10T12:00:00+00:00",
    )
    assert exported["tiers"]["light"] == {
        "requests": 20,
        "tokens_used": 2_000,
        "mean_latency_ms": 10.5,
        "p50_latency_ms": 10.0,
        "p95_latency_ms": 19.0,
    }
    assert exported["task_types"] == {"chat": 20, "": 1}
    assert exported["mean_complexity"] == 0.2857
    assert exported["savings"]["gpu_hours_saved"] == 0.0


def test_memory_is_bounded() -> None:
    """The oldest decisions make room, and the export says how many were dropped."""
    metrics = ModelMetricsCollector(capacity=10, clock=ManualClock(NOON))
    for number in range(25):
        metrics.record_decision(decision("heavy" if number < 15 else "light"))
    assert metrics.get_tier_distribution() == {"light": 100.0}
    assert metrics.export_metrics()["decisions_dropped"] == 15


def test_from_many_threads(metrics: ModelMetricsCollector) -> None:
    """Nothing is lost while some threads record and others report."""

    def work(number: int) -> None:
        metrics.record_decision(decision())
        if number % 50 == 0:
            metrics.export_metrics()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(2_000)))
    assert metrics.export_metrics()["requests"] == 2_000


async def test_inside_a_running_loop(metrics: ModelMetricsCollector) -> None:
    """The plain functions work inside a coroutine."""
    metrics.record_decision(decision())
    assert metrics.get_tier_distribution(ACME) == {"light": 100.0}


def test_the_default_clock_is_the_machines() -> None:
    """Without a clock, now is now."""
    metrics = ModelMetricsCollector()
    metrics.record_decision(decision(timestamp=datetime.now(UTC)))
    assert metrics.get_tier_distribution() == {"light": 100.0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timestamp": datetime(2026, 5, 10)}, "timestamp"),  # noqa: DTZ001 - that is the point
        ({"tokens_used": -1}, "tokens_used"),
        ({"tokens_used": 1.5}, "tokens_used"),
        ({"tokens_used": True}, "tokens_used"),
        ({"latency_ms": -0.1}, "latency_ms"),
        ({"latency_ms": float("inf")}, "latency_ms"),
        ({"estimated_complexity": float("nan")}, "estimated_complexity"),
    ],
)
def test_senseless_decisions_are_refused(changes: dict[str, Any], field: str) -> None:
    """A decision that would spoil every sum cannot be made."""
    with pytest.raises(RequestMalformed, match=field):
        decision(**changes)


@pytest.mark.parametrize("hours", [0, -1, float("nan"), "24", True])
def test_senseless_periods_are_refused(metrics: ModelMetricsCollector, hours: Any) -> None:
    """A period is a number of hours above 0."""
    with pytest.raises(RequestMalformed, match="period_hours"):
        metrics.get_tier_distribution(period_hours=hours)


def test_for_ever_is_a_period(metrics: ModelMetricsCollector) -> None:
    """Periods longer than the calendar mean everything."""
    metrics.record_decision(decision(timestamp=datetime(1999, 1, 1, tzinfo=UTC)))
    assert metrics.get_tier_distribution(period_hours=float("inf")) == {"light": 100.0}


def test_a_collector_holds_something() -> None:
    """A capacity below 1 is a mistake."""
    with pytest.raises(ConfigError, match="capacity"):
        ModelMetricsCollector(capacity=0)
