"""What requests found at the endpoints lately. Shared by all requests, known to this process only.

The breaker says whether an endpoint may be asked at all; this says which of several is asked first, and which
tries count as repeated ones.
"""

from dataclasses import dataclass

from trivet.domain.clock import Clock
from trivet.domain.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineRejected,
    Overloaded,
)

DOUBTFUL_AFTER = 2
"""So many failures with no success between them, whatever they were, make an endpoint doubtful; and no
fewer than there are requests that have not been heard of yet, since failures are often told sooner."""


@dataclass(slots=True)
class Condition:
    """One endpoint's, as the last answers tell."""

    clock: Clock
    failures_in_row: int = 0
    pending: int = 0
    """Attempts of which nothing has been heard yet."""
    busy_until_ns: int = 0
    """Until then it wants to be left alone: it said so with `Retry-After`."""

    @property
    def is_doubtful(self) -> bool:
        """Tell whether its last answers were all failures, so that one more try is likely to be, too."""
        return self.failures_in_row >= max(DOUBTFUL_AFTER, self.pending)

    @property
    def busy_s(self) -> float:
        """Return for how many seconds the endpoint still wants to be left alone; 0: it may be asked."""
        until_ns = self.busy_until_ns
        return max(0.0, (until_ns - self.clock.monotonic_ns()) / 1e9) if until_ns else 0.0

    def answered(self) -> None:
        """Note that the endpoint produced content."""
        self.failures_in_row = self.busy_until_ns = 0


class Conditions:
    """The conditions of all endpoints. For the event loop's thread."""

    def __init__(self, clock: Clock, *, longest_busy_s: float) -> None:
        """Take the clock, and how long an engine's `Retry-After` is believed: one that errs must not rest."""
        self._clock = clock
        self._longest_busy_s = longest_busy_s
        self._by_name: dict[str, Condition] = {}

    def of(self, name: str) -> Condition:
        """Return the condition of a deployment's endpoint."""
        condition = self._by_name.get(name)
        if condition is None:
            condition = self._by_name[name] = Condition(self._clock)
        return condition

    def failed(self, name: str, error: EngineError) -> None:
        """Note what an endpoint said instead of content."""
        if isinstance(error, EngineRejected | EngineIncapable | ContextOverflow | Overloaded):
            return  # it works; the request was not for it, or was not sent at all
        condition = self.of(name)
        condition.failures_in_row += 1
        # Of what Trivet itself expects, such as how long a model takes to load, the fleet keeps account.
        if isinstance(error, EngineBusy) and error.status is not None and error.retry_after_s:
            busy_s = min(error.retry_after_s, self._longest_busy_s)
            until_ns = self._clock.monotonic_ns() + int(busy_s * 1e9)
            condition.busy_until_ns = max(condition.busy_until_ns, until_ns)
