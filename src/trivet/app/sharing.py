"""Shows what replicas share in Redis, and how often it was not there."""

from collections.abc import Callable

from trivet.access import SharedRates
from trivet.app.books import Books
from trivet.metering import TrivetCollector
from trivet.storage.redis_link import RedisLink

Sample = tuple[tuple[str, ...], float]


def register_sharing(collector: TrivetCollector, books: Books) -> None:
    """Register the gauges; families without samples where there is no Redis."""
    link, rates = books.redis, books.shared_rates

    def of_link(read: Callable[[RedisLink], float]) -> list[Sample]:
        return [] if link is None else [((), float(read(link)))]

    def of_rates(read: Callable[[SharedRates], float]) -> list[Sample]:
        return [] if rates is None else [((), float(read(rates)))]

    collector.register_snapshot(
        "trivet_redis_up", "1 while Redis answers.", (), lambda: of_link(lambda each: each.up)
    )
    collector.register_snapshot(
        "trivet_redis_failures",
        "Commands that Redis did not answer, since the start.",
        (),
        lambda: of_link(lambda each: each.failures),
    )
    collector.register_snapshot(
        "trivet_rate_limit_fallbacks",
        "Requests whose rate limits this replica counted by itself, for want of Redis, since the start.",
        (),
        lambda: of_rates(lambda each: each.fallbacks),
    )
