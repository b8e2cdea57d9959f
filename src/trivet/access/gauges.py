"""What a rate limit measures with: buckets that refill steadily, and the words for one that is empty."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trivet.domain.errors import RateLimitExceeded
from trivet.domain.scopes import Scope

MINUTE_S = 60.0
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
class Bucket:
    """An amount that refills within a minute; corrections may overdraw it."""

    size: int
    level: float
    at_ns: int

    def refill(self, now_ns: int) -> None:
        """Bring the level up to now."""
        self.level = min(self.size, self.level + self.size * (now_ns - self.at_ns) / 1e9 / MINUTE_S)
        self.at_ns = now_ns

    def wait_s(self, amount: float) -> float:
        """Return how long until so much is there, or the whole bucket where that is less."""
        if not self.size:
            return math.inf
        return max(0.0, min(amount, self.size) - self.level) / self.size * MINUTE_S


@dataclass(slots=True)
class Gauge:
    """What one limited scope did lately."""

    limit: RateLimit
    requests: Bucket | None
    tokens: Bucket | None
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


UNLIMITED = Admitted()
"""Let in where nothing is limited: there is nothing to end."""


def resized(bucket: Bucket | None, size: int | None, now_ns: int) -> Bucket | None:
    """Return a bucket of another size, with what was used of it used; a new one is full; None: no limit."""
    if size is None:
        return None
    if bucket is None:
        return Bucket(size, size, now_ns)
    bucket.refill(now_ns)
    bucket.level += size - bucket.size
    bucket.size = size
    return bucket


def check(gauge: Gauge, tokens: int, now_ns: int) -> None:
    """Let a request pass.

    Raises:
        RateLimitExceeded: there is not enough for it.
    """
    limit = gauge.limit
    if limit.concurrent is not None and gauge.running >= limit.concurrent:
        raise refusal(gauge, "concurrent", limit.concurrent, CONCURRENT_RETRY_S if limit.concurrent else None)
    buckets = ((gauge.requests, 1, "requests_per_minute"), (gauge.tokens, tokens, "tokens_per_minute"))
    for bucket, amount, name in buckets:
        if bucket is None:
            continue
        bucket.refill(now_ns)
        wait_s = bucket.wait_s(amount)
        if wait_s > 0:
            raise refusal(gauge, name, bucket.size, None if math.isinf(wait_s) else wait_s)


def refusal(gauge: Gauge, name: str, limit: int, wait_s: float | None) -> RateLimitExceeded:
    """Return the refusal for one rate of a scope; a wait of None: nothing ever passes."""
    words = {
        "concurrent": f"{limit} request{'s' if limit != 1 else ''} at once",
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
            "headers": rate_headers([gauge]),
        },
    )


def rate_headers(gauges: Sequence[Gauge]) -> dict[str, str]:
    """Return OpenAI's `x-ratelimit-*` headers, of the bucket that has the least left of each kind."""
    headers: dict[str, str] = {}
    for kind in ("requests", "tokens"):
        buckets: list[Bucket] = [b for gauge in gauges if (b := getattr(gauge, kind)) is not None]
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
    if seconds < MINUTE_S:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
