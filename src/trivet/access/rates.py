"""Rate limits: requests a minute, tokens a minute, requests at once, on any scope; the strictest wins.

Soft, unlike budgets: they smooth load, in this process's memory, and a restart begins them anew. A minute's
amount is a bucket that refills steadily, so no burst at the turn of a minute gets twice as much. What a
request may take of the tokens is estimated when it comes and corrected when it ends.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy import insert as insert_row

from trivet.domain.clock import Clock
from trivet.domain.errors import RateLimitExceeded
from trivet.domain.scopes import Scope, lineage
from trivet.storage.database import Database
from trivet.storage.instants import ns_of
from trivet.storage.schema import rate_limits

_MINUTE_S = 60.0
CONCURRENT_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What one scope, with all below it, may do. None: not limited."""

    scope: Scope
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the limit as the API and the CLI show it."""
        return {
            "scope": self.scope,
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "concurrent": self.concurrent,
        }


@dataclass(slots=True)
class _Bucket:
    """An amount that refills within a minute; corrections may overdraw it."""

    size: int
    level: float
    at_ns: int

    def refill(self, now_ns: int) -> None:
        self.level = min(self.size, self.level + self.size * (now_ns - self.at_ns) / 1e9 / _MINUTE_S)
        self.at_ns = now_ns

    def wait_s(self, amount: float) -> float:
        """Return how long until so much is there, or the whole bucket where that is less."""
        if not self.size:
            return math.inf
        return max(0.0, min(amount, self.size) - self.level) / self.size * _MINUTE_S


@dataclass(slots=True)
class _Gauge:
    """What one limited scope did lately."""

    limit: RateLimit
    requests: _Bucket | None
    tokens: _Bucket | None
    running: int = 0


@dataclass(slots=True)
class Admitted:
    """A request that was let in. `end` it once, whatever becomes of it."""

    headers: dict[str, str] = field(default_factory=dict)
    """What is left, by OpenAI's names."""
    _end: Callable[[int | None], None] | None = None

    def end(self, tokens: int | None) -> None:
        """Count the request as gone, with the tokens that it used; None: leave the estimate. Idempotent."""
        end, self._end = self._end, None
        if end is not None:
            end(tokens)


class RateLimits:
    """All rate limits, and what is left of them. Usable from any thread; admitting never blocks for long."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Load the limits; blocks."""
        self._database = database
        self._clock = clock
        self._gate = threading.Lock()
        self._gauges: dict[Scope, _Gauge] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the limits anew: another replica may have changed some. What is used of them stays; blocks."""
        found = self._database.read(_load)
        with self._gate:
            for scope in self._gauges.keys() - found.keys():
                del self._gauges[scope]
            for limit in found.values():
                self._take_up(limit)

    def limits(self) -> list[RateLimit]:
        """Return every limit, by scope."""
        with self._gate:
            return sorted((gauge.limit for gauge in self._gauges.values()), key=lambda limit: limit.scope)

    def set_limit(self, limit: RateLimit, *, author: str) -> None:
        """Set what a scope may do, all of it anew; blocks."""
        now_ns = ns_of(self._clock.now())
        self._database.transact(lambda connection: _put(connection, limit, author, now_ns)).result()
        with self._gate:
            self._take_up(limit)

    def clear(self, scope: Scope) -> None:
        """Remove a scope's limits; nothing if it has none; blocks."""
        self._database.transact(lambda connection: _remove(connection, scope)).result()
        with self._gate:
            self._gauges.pop(scope, None)

    def admit(self, scope: Scope, estimated_tokens: int) -> Admitted:
        """Let a request in, on its scope and all above, or on none of them.

        Args:
            scope: whose request it is.
            estimated_tokens: what it will probably use, prompt and output.

        Raises:
            RateLimitExceeded: with the seconds after which it would be let in, if nothing else comes.
        """
        if not self._gauges:
            return Admitted()
        with self._gate:
            gauges = [gauge for above in lineage(scope) if (gauge := self._gauges.get(above)) is not None]
            if not gauges:
                return Admitted()
            now_ns = self._clock.monotonic_ns()
            for gauge in gauges:
                _check(gauge, estimated_tokens, now_ns)
            for gauge in gauges:
                gauge.running += 1
                if gauge.requests is not None:
                    gauge.requests.level -= 1
                if gauge.tokens is not None:
                    gauge.tokens.level -= estimated_tokens
            headers = _headers(gauges)

        def end(tokens: int | None) -> None:
            self._left(gauges, 0 if tokens is None else estimated_tokens - tokens)

        return Admitted(headers, end)

    def _left(self, gauges: Sequence[_Gauge], given_back: int) -> None:
        with self._gate:
            for gauge in gauges:
                gauge.running -= 1
                if gauge.tokens is not None:
                    gauge.tokens.level += given_back

    def _take_up(self, limit: RateLimit) -> None:
        """Gauge a limit; what runs and what was used of an earlier one counts on."""
        known, now_ns = self._gauges.get(limit.scope), self._clock.monotonic_ns()
        if known is not None and known.limit == limit:
            return
        if known is None:
            requests = _resized(None, limit.requests_per_minute, now_ns)
            tokens = _resized(None, limit.tokens_per_minute, now_ns)
            self._gauges[limit.scope] = _Gauge(limit, requests, tokens)
            return
        known.requests = _resized(known.requests, limit.requests_per_minute, now_ns)
        known.tokens = _resized(known.tokens, limit.tokens_per_minute, now_ns)
        known.limit = limit


def _resized(bucket: _Bucket | None, size: int | None, now_ns: int) -> _Bucket | None:
    if size is None:
        return None
    if bucket is None:
        return _Bucket(size, size, now_ns)
    bucket.refill(now_ns)
    bucket.level += size - bucket.size
    bucket.size = size
    return bucket


def _check(gauge: _Gauge, tokens: int, now_ns: int) -> None:
    limit = gauge.limit
    if limit.concurrent is not None and gauge.running >= limit.concurrent:
        raise _refusal(
            gauge, "concurrent", limit.concurrent, CONCURRENT_RETRY_S if limit.concurrent else None
        )
    buckets = ((gauge.requests, 1, "requests_per_minute"), (gauge.tokens, tokens, "tokens_per_minute"))
    for bucket, amount, name in buckets:
        if bucket is None:
            continue
        bucket.refill(now_ns)
        wait_s = bucket.wait_s(amount)
        if wait_s > 0:
            raise _refusal(gauge, name, bucket.size, None if math.isinf(wait_s) else wait_s)


def _refusal(gauge: _Gauge, name: str, limit: int, wait_s: float | None) -> RateLimitExceeded:
    words = {
        "concurrent": f"{limit} requests at once",
        "requests_per_minute": f"{limit} requests a minute",
        "tokens_per_minute": f"{limit} tokens a minute",
    }
    return RateLimitExceeded(
        f"{gauge.limit.scope} may have {words[name]}.",
        hint="Nothing passes." if wait_s is None else f"Try again in {math.ceil(wait_s)} s.",
        retry_after_s=wait_s,
        details={
            "scope": gauge.limit.scope,
            "rate": name,
            "limit": limit,
            "running": gauge.running,
            "headers": _headers([gauge]),
        },
    )


def _headers(gauges: Sequence[_Gauge]) -> dict[str, str]:
    """Return OpenAI's `x-ratelimit-*` headers, of the bucket that has the least left of each kind."""
    headers: dict[str, str] = {}
    for kind in ("requests", "tokens"):
        buckets: list[_Bucket] = [b for gauge in gauges if (b := getattr(gauge, kind)) is not None]
        if buckets:
            least = min(buckets, key=lambda bucket: bucket.level)
            headers[f"x-ratelimit-limit-{kind}"] = str(least.size)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(least.level)))
            headers[f"x-ratelimit-reset-{kind}"] = _duration(least.wait_s(least.size))
    return headers


def _duration(seconds: float) -> str:
    """Write a duration as OpenAI does: 150ms, 1.5s, 1m30s."""
    if math.isinf(seconds):
        return "0s"
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


def _load(connection: Connection) -> dict[Scope, RateLimit]:
    return {
        Scope(row.scope): RateLimit(
            scope=Scope(row.scope),
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
            concurrent=row.concurrent,
        )
        for row in connection.execute(select(rate_limits))
    }


def _put(connection: Connection, limit: RateLimit, author: str, now_ns: int) -> None:
    values = {
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
        "concurrent": limit.concurrent,
        "author": author,
        "updated_ns": now_ns,
    }
    changed = connection.execute(
        update(rate_limits)
        .where(rate_limits.c.scope == limit.scope)
        .values(**values, version=rate_limits.c.version + 1)
    )
    if not changed.rowcount:
        connection.execute(insert_row(rate_limits).values(**values, scope=limit.scope, version=1))


def _remove(connection: Connection, scope: Scope) -> None:
    connection.execute(delete(rate_limits).where(rate_limits.c.scope == scope))
