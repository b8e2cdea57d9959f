"""How many repeated tries a tier may be asked for: a tenth of its requests, and one a second besides.

Without a bound, engines that fail under load are asked several times as often as they would be if they
worked, and cannot recover (Google's SRE book, "Handling Overload": a retry ratio of 10 % for each client).
A bucket holds at most `DEPTH` tries. Each request that begins at the tier puts in a tenth of one, each
second one, and each repeated try takes one out. So in any span there are at most 10 + 0.1 per request + 1
per second of them.
"""

from trivet.domain.clock import Clock

RetryCounts = dict[tuple[str, ...], int]
"""Repeated tries by tier and result, `made` or `refused`."""

DEPTH = 10
REQUESTS_PER_RETRY = 10
NS_PER_RETRY = 1_000_000_000
# One unit is a nanosecond of the floor, so that all is counted in whole numbers.
_FULL = DEPTH * NS_PER_RETRY
_SHARE = NS_PER_RETRY // REQUESTS_PER_RETRY


class RetryBudget:
    """The bucket of one tier. For the event loop's thread."""

    __slots__ = ("_at_ns", "_clock", "_counts", "_level", "_tier")

    def __init__(self, clock: Clock, tier: str, counts: RetryCounts) -> None:
        self._clock = clock
        self._tier = tier
        self._counts = counts
        self._level = _FULL
        self._at_ns = clock.monotonic_ns()

    def request(self) -> None:
        """Note that a request begins at the tier."""
        if self._level < _FULL:
            self._level = min(_FULL, self._level + _SHARE)

    def take(self) -> bool:
        """Take one repeated try out; False: there is none left, and it must not be made."""
        now_ns = self._clock.monotonic_ns()
        self._level = min(_FULL, self._level + now_ns - self._at_ns)
        self._at_ns = now_ns
        allowed = self._level >= NS_PER_RETRY
        if allowed:
            self._level -= NS_PER_RETRY
        result = (self._tier, "made" if allowed else "refused")
        self._counts[result] = self._counts.get(result, 0) + 1
        return allowed


class RetryBudgets:
    """The buckets of all tiers, made when first asked for."""

    def __init__(self, clock: Clock, counts: RetryCounts) -> None:
        """Take the clock, and where to count repeated tries."""
        self._clock = clock
        self._counts = counts
        self._by_tier: dict[str, RetryBudget] = {}

    def of(self, tier: str) -> RetryBudget:
        """Return the bucket of a tier."""
        budget = self._by_tier.get(tier)
        if budget is None:
            budget = self._by_tier[tier] = RetryBudget(self._clock, tier, self._counts)
        return budget
