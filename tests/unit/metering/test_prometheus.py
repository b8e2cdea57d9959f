"""What a scrape finds after some requests."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.metering.makers import HEAVY, LIGHT, deployment, outcome
from trivet.domain.clock import ManualClock
from trivet.domain.outcomes import Attempt, Usage
from trivet.metering import DeviceClock, Metrics, TrivetCollector
from trivet.metering.counters import Histogram

SECOND = 1_000_000_000
SMALL = deployment("small", LIGHT)
BIG = deployment("big", HEAVY)


def scraped(collector: TrivetCollector) -> dict[str, dict[tuple[str, ...], float]]:
    """Return every sample's value by name and label values, the latter in order of the labels' names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(collector.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = (
                sample.value
            )
    return found


def test_a_scrape_shows_what_happened() -> None:
    """Requests, tokens, fallbacks, refusals, attempts, durations, busy time and what is in flight."""
    clock, metrics = ManualClock(), Metrics()
    device_clock = DeviceClock(clock)
    collector = TrivetCollector(metrics, device_clock)
    failed = Attempt(attempt_id="a", deployment=SMALL, dispatched_ns=0, error_code="upstream_busy")
    served = Attempt(attempt_id="b", deployment=BIG, dispatched_ns=0, first_token_ns=2 * SECOND)
    still = Attempt(attempt_id="c", deployment=BIG, dispatched_ns=0)
    never = Attempt(attempt_id="d", deployment=SMALL, dispatched_ns=0, error_code="upstream_unavailable")
    for attempt in (failed, served, still):
        metrics.attempt_started(attempt)
    device_clock.start("c", BIG)
    clock.advance(3)
    for attempt in (failed, served):
        metrics.attempt_ended(attempt)
    metrics.attempt_ended(never, started=False)
    metrics.observe(outcome("r1", [failed, served], started_ns=0, ended_ns=3 * SECOND, usage=Usage(100, 20)))
    metrics.observe(
        outcome(
            "r2", [], started_ns=0, ended_ns=0, status="refused", error_code="budget_exhausted", chosen=SMALL
        )
    )
    metrics.refused("model_not_found")
    samples = scraped(collector)
    assert {name: values for name, values in samples.items() if "seconds_" not in name} == {
        "trivet_requests_total": {("ok", "heavy"): 1.0, ("refused", "light"): 1.0},
        "trivet_tokens_total": {("prompt", "heavy"): 100.0, ("completion", "heavy"): 20.0},
        "trivet_fallbacks_total": {("light",): 1.0},
        "trivet_refusals_total": {("budget_exhausted",): 1.0, ("model_not_found",): 1.0},
        "trivet_attempts_total": {
            ("small", "upstream_busy"): 1.0,
            ("big", "ok"): 1.0,
            ("small", "upstream_unavailable"): 1.0,
        },
        "trivet_requests_in_flight": {("small",): 0.0, ("big",): 1.0},
    }
    assert samples["trivet_device_busy_seconds_total"] == {("host",): 3.0}
    assert samples["trivet_request_duration_seconds_count"] == {(): 1.0}
    assert samples["trivet_request_duration_seconds_sum"] == {(): 3.0}
    assert samples["trivet_request_duration_seconds_bucket"][("2.5",)] == 0.0
    assert samples["trivet_request_duration_seconds_bucket"][("5.0",)] == 1.0
    assert samples["trivet_time_to_first_token_seconds_sum"] == {(): 2.0}


def test_other_rooms_gauges_are_read_at_each_scrape() -> None:
    """A registered snapshot is asked again every time, and a name can be registered once."""
    collector = TrivetCollector(Metrics(), DeviceClock(ManualClock()))
    readings = iter([1.0, 0.0])
    collector.register_snapshot(
        "trivet_breaker_open", "Open.", ("deployment",), lambda: [(("big",), next(readings))]
    )
    assert [scraped(collector)["trivet_breaker_open"] for _ in range(2)] == [{("big",): 1.0}, {("big",): 0.0}]
    with pytest.raises(ValueError, match="registered already"):
        collector.register_snapshot("trivet_breaker_open", "Again.", (), list)


def test_collectors_do_not_share_a_registry() -> None:
    """Two installations in one process each show their own counters."""
    mine, yours = Metrics(), Metrics()
    mine.refused("no_candidate")
    collectors = [TrivetCollector(metrics, DeviceClock(ManualClock())) for metrics in (mine, yours)]
    assert [scraped(c).get("trivet_refusals_total", {}) for c in collectors] == [{("no_candidate",): 1.0}, {}]
    assert collectors[0].content_type == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("duration_ns", "expected"),
    [
        (0, [1, 0, 0]),
        (SECOND, [1, 0, 0]),
        (SECOND + 1, [0, 1, 0]),
        (2 * SECOND, [0, 1, 0]),
        (3 * SECOND, [0, 0, 1]),
    ],
)
def test_a_duration_on_a_bound_belongs_below_it(duration_ns: int, expected: list[int]) -> None:
    """Buckets hold what is up to and including their bound, as Prometheus' `le` says."""
    histogram = Histogram((1.0, 2.0))
    histogram.observe(duration_ns)
    assert histogram.counts == expected
