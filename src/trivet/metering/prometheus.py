"""The counters in Prometheus' text format, read at scrape time. On a registry of its own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from trivet.metering.counters import Histogram, Metrics
from trivet.metering.device_clock import DeviceClock

Snapshot = Callable[[], Iterable[tuple[tuple[str, ...], float]]]
"""Returns (label values, value) pairs when asked."""


@dataclass(frozen=True, slots=True)
class _Gauge:
    name: str
    documentation: str
    labels: tuple[str, ...]
    read: Snapshot


class TrivetCollector(Collector):
    """What `/metrics` shows. For the event loop's thread, like the counters that it reads."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, metrics: Metrics, device_clock: DeviceClock) -> None:
        self._metrics = metrics
        self._device_clock = device_clock
        self._gauges: dict[str, _Gauge] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def register_snapshot(self, name: str, help: str, labels: tuple[str, ...], fn: Snapshot) -> None:  # noqa: A002
        """Add a gauge whose values are asked for at each scrape.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._gauges:
            raise ValueError(f"a gauge called {name} is registered already")
        self._gauges[name] = _Gauge(name, help, labels, fn)

    def render(self) -> bytes:
        """Return all metrics as text; `content_type` is what to send with it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families as they stand."""
        metrics = self._metrics
        yield _counter("trivet_requests", "Requests that ended.", ("tier", "status"), metrics.requests)
        yield _counter("trivet_tokens", "Tokens charged.", ("tier", "direction"), metrics.tokens)
        yield _counter(
            "trivet_fallbacks",
            "Failed attempts after which another deployment was tried, by the tier that was left.",
            ("tier",),
            _single(metrics.fallbacks),
        )
        yield _counter(
            "trivet_retries",
            "Repeated tries at engines that fail; refused ones were beyond the tier's retry budget.",
            ("tier", "result"),
            metrics.retries,
        )
        yield _counter("trivet_refusals", "Requests refused, by code.", ("code",), _single(metrics.refusals))
        yield _counter("trivet_attempts", "Attempts that ended.", ("deployment", "result"), metrics.attempts)
        yield _histogram(
            "trivet_request_duration_seconds",
            "From arrival to end, of requests that reached an engine.",
            metrics.request_duration,
        )
        yield _histogram(
            "trivet_time_to_first_token_seconds",
            "From arrival to the first content.",
            metrics.time_to_first_token,
        )
        yield _histogram(
            "trivet_admission_wait_seconds",
            "Waits for a turn at an engine, of requests that had to wait and were let through.",
            metrics.queue_wait,
        )
        busy_s: dict[tuple[str, ...], float] = {
            (name,): busy_ns / 1e9 for name, busy_ns in self._device_clock.busy_ns().items()
        }
        yield _counter(
            "trivet_device_busy_seconds", "Time with work, by the device clock.", ("device",), busy_s
        )
        yield _gauge(
            _Gauge(
                "trivet_requests_in_flight",
                "Attempts under way.",
                ("deployment",),
                lambda: [((name,), float(count)) for name, count in metrics.in_flight.items()],
            )
        )
        for gauge in self._gauges.values():
            yield _gauge(gauge)


def _single(counts: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(label,): count for label, count in counts.items()}


def _counter(
    name: str, documentation: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _gauge(gauge: _Gauge) -> GaugeMetricFamily:
    family = GaugeMetricFamily(gauge.name, gauge.documentation, labels=gauge.labels)
    for values, value in gauge.read():
        family.add_metric(values, value)
    return family


def _histogram(name: str, documentation: str, histogram: Histogram) -> HistogramMetricFamily:
    cumulative = list(accumulate(histogram.counts))
    bounds = [*map(floatToGoString, histogram.bounds_s), "+Inf"]
    family = HistogramMetricFamily(name, documentation)
    family.add_metric(
        [], buckets=list(zip(bounds, cumulative, strict=True)), sum_value=histogram.sum_ns / 1e9
    )
    return family
