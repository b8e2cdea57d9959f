"""What Prometheus will ask for, kept as plain integers: an entry in a dictionary each."""

from bisect import bisect_left
from collections import defaultdict

from trivet.domain.outcomes import Attempt, Outcome

REQUEST_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
QUEUE_BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
FIRST_TOKEN_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram:
    """Durations counted by buckets; `counts[i]` is of those above the bound before and up to bound i."""

    __slots__ = ("bounds_ns", "bounds_s", "counts", "sum_ns")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.bounds_ns = [round(bound * 1e9) for bound in bounds_s]
        self.counts = [0] * (len(bounds_s) + 1)
        """The last is of those above every bound."""
        self.sum_ns = 0

    def observe(self, duration_ns: int) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_ns, duration_ns)] += 1
        self.sum_ns += duration_ns


class Metrics:
    """Counts requests and attempts as they happen. For the event loop's thread; labels are all bounded.

    Labels are names from the configuration, statuses, and Trivet's own error codes: never a scope, a key,
    a task type or anything else that a caller can invent.
    """

    def __init__(self) -> None:
        self.requests: dict[tuple[str, ...], int] = defaultdict(int)
        """By tier (that served, or that was chosen) and status."""
        self.tokens: dict[tuple[str, ...], int] = defaultdict(int)
        """By tier and direction, `prompt` or `completion`, as charged."""
        self.fallbacks: dict[str, int] = defaultdict(int)
        """By the tier that was left."""
        self.retries: dict[tuple[str, ...], int] = defaultdict(int)
        """Repeated tries at engines that fail, by tier and result: `made`, or `refused` by its budget."""
        self.refusals: dict[str, int] = defaultdict(int)
        """By code."""
        self.attempts: dict[tuple[str, ...], int] = defaultdict(int)
        """By deployment and result: `ok` or an error code."""
        self.in_flight: dict[str, int] = defaultdict(int)
        """By deployment."""
        self.request_duration = Histogram(REQUEST_BOUNDS_S)
        """Of requests that reached an engine, from arrival to end."""
        self.time_to_first_token = Histogram(FIRST_TOKEN_BOUNDS_S)
        """From arrival to the first content, failed attempts included."""
        self.queue_wait = Histogram(QUEUE_BOUNDS_S)
        """Of requests that had to wait for their turn at an engine and were let through."""

    def refused(self, code: str) -> None:
        """Count a refusal that came before there was an outcome."""
        self.refusals[code] += 1

    def attempt_started(self, attempt: Attempt) -> None:
        """Count an attempt as in flight."""
        name = attempt.deployment.name
        self.in_flight[name] += 1

    def attempt_ended(self, attempt: Attempt, *, started: bool = True) -> None:
        """Count an attempt's result; one that never started was not in flight either."""
        name = attempt.deployment.name
        if started:
            self.in_flight[name] -= 1
        result = (name, attempt.error_code or "ok")
        self.attempts[result] += 1

    def observe(self, outcome: Outcome) -> None:
        """Count a request that has ended."""
        attempts, usage = outcome.attempts, outcome.usage
        tier = (outcome.served_by or outcome.decision.deployment).tier.name
        ended = (tier, outcome.status)
        self.requests[ended] += 1
        if outcome.status == "refused":
            self.refused(outcome.error_code or "refused")
        if usage is not None:
            self.tokens[tier, "prompt"] += usage.prompt_tokens
            self.tokens[tier, "completion"] += usage.completion_tokens
        if not attempts:
            return
        if len(attempts) > 1:
            for left in attempts[:-1]:
                self.fallbacks[left.deployment.tier.name] += 1
        self.request_duration.observe(outcome.ended_ns - outcome.started_ns)
        first_token_ns = attempts[-1].first_token_ns
        if first_token_ns is not None:
            self.time_to_first_token.observe(first_token_ns - outcome.started_ns)
