"""A circuit breaker for each endpoint, also where a tier has only one.

Closed: requests pass. Open: none pass until a time, which doubles with each re-opening up to a maximum
and is jittered so that replicas do not probe in step. Half-open: one real request at a time passes;
three successes close, one failure opens again. A client that leaves, and a request that is itself at
fault, say nothing about the endpoint.

"In a row" means in the order in which the requests were sent, for failures are told sooner than successes,
or later, once it is known how others took the same request. So that a few among many requests under way do
not pass for "all fail", the failure of a request that was sent before one that succeeded is in no row, and
requests that have not been heard of yet count as if they succeeded.
"""

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import Clock

RATE_WINDOW_NS = 30_000_000_000
RATE_MINIMUM = 10
RATE_THRESHOLD = 0.5
PROBES_TO_CLOSE = 3
ORIGINS_KEPT = 256

_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class Pass:
    """Leave to send one request; give it back with what became of it."""

    probe: bool
    """A probe is spent with the first word about it; what follows counts as an ordinary request's."""
    pending: bool = False
    """Whether nothing has been heard of it yet."""
    number: int = 0
    """The place in the order in which requests were let through."""


class Breaker:
    """Counts the failures of one endpoint and closes the way to it for a while."""

    def __init__(self, settings: ExecutionSettings, clock: Clock, dice: random.Random) -> None:
        self.rests = False
        """Whether it is open or half-open."""
        self._settings = settings
        self._clock = clock
        self._dice = dice
        self._recent: deque[tuple[int, bool]] = deque(maxlen=256)
        self._origins: dict[int, int] = {}
        self._consecutive = 0
        self._opened_times = 0
        self._open_until_ns: int | None = None
        self._probing = False
        self._probe_successes = 0
        self._pending = 0
        self._numbers = 0
        self._newest_success = 0

    @property
    def state(self) -> str:
        """Return `closed`, `open` or `half_open`."""
        if self._open_until_ns is None:
            return "closed"
        return "open" if self._clock.monotonic_ns() < self._open_until_ns else "half_open"

    @property
    def retry_after_s(self) -> float | None:
        """Return the seconds until a probe is let through; None unless open."""
        if self.state != "open" or self._open_until_ns is None:
            return None
        return (self._open_until_ns - self._clock.monotonic_ns()) / 1e9

    @property
    def lets_through(self) -> bool:
        """Tell whether `ask` would give a Pass now."""
        return self._open_until_ns is None or (self.state == "half_open" and not self._probing)

    def ask(self) -> Pass | None:
        """Return a Pass, or None when the request must go elsewhere."""
        if self.rests:
            if not self.lets_through:
                return None
            self._probing = True
        self._pending += 1
        self._numbers += 1
        return Pass(self.rests, True, self._numbers)

    def unasked(self) -> Pass:
        """Return a Pass for a request that failed before it could be sent."""
        self._pending += 1
        self._numbers += 1
        return Pass(False, True, self._numbers)

    def succeeded(self, leave: Pass) -> None:
        """Record that content arrived."""
        self._consecutive = 0
        if leave.number > self._newest_success:
            self._newest_success = leave.number
        self._recent.append((self._clock.monotonic_ns(), True))
        if leave.pending and not leave.probe:
            leave.pending = False
            self._pending -= 1
        elif self._spend(leave):
            self._probe_successes += 1
            if self._probe_successes >= PROBES_TO_CLOSE:
                self._close()

    def failed(self, leave: Pass, *, origin: int | None = None) -> None:
        """Record that the endpoint failed the request.

        Args:
            leave: what let the request through.
            origin: set where the request itself may be the cause. The same one counts once in a while, so
                that a client which repeats an odd request does not close the way for all others.
        """
        now_ns = self._clock.monotonic_ns()
        if origin is not None and self._was_seen(origin, now_ns):
            self.returned(leave)
            return
        self._recent.append((now_ns, False))
        self._consecutive += leave.number > self._newest_success
        if self._spend(leave) or (self._open_until_ns is None and self._too_many(now_ns)):
            self._open(now_ns)

    def returned(self, leave: Pass) -> None:
        """Record nothing: the client left, or the request itself was at fault, or all has been said."""
        if leave.pending or leave.probe:
            self._spend(leave)

    def _was_seen(self, origin: int, now_ns: int) -> bool:
        seen_ns = self._origins.get(origin)
        if seen_ns is not None and now_ns - seen_ns <= RATE_WINDOW_NS:
            return True
        if len(self._origins) >= ORIGINS_KEPT:
            self._origins.clear()
        self._origins[origin] = now_ns
        return False

    def _spend(self, leave: Pass) -> bool:
        if leave.pending:
            leave.pending = False
            self._pending -= 1
        if not leave.probe:
            return False
        leave.probe = False
        self._probing = False
        return True

    def _too_many(self, now_ns: int) -> bool:
        if self._consecutive >= max(self._settings.breaker_consecutive_failures, self._pending):
            return True
        window = [ok for at_ns, ok in self._recent if now_ns - at_ns <= RATE_WINDOW_NS]
        heard_of = len(window)
        return heard_of >= RATE_MINIMUM and window.count(False) >= RATE_THRESHOLD * (heard_of + self._pending)

    def _open(self, now_ns: int) -> None:
        open_s = min(
            self._settings.breaker_open_max_s,
            self._settings.breaker_open_s * 2.0 ** min(self._opened_times, 16),
        )
        self.rests = True
        self._opened_times += 1
        self._probe_successes = 0
        self._open_until_ns = now_ns + int(open_s * self._dice.uniform(0.8, 1.0) * 1e9)

    def _close(self) -> None:
        self._open_until_ns = None
        self.rests = False
        self._opened_times = 0
        self._probe_successes = 0
        self._consecutive = 0
        self._recent.clear()


class Breakers:
    """The breakers of all endpoints, made when first asked for."""

    def __init__(self, settings: ExecutionSettings, clock: Clock, dice: random.Random | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._dice = dice or random.Random()  # noqa: S311 - jitter, not a secret
        self._by_name: dict[str, Breaker] = {}

    def of(self, name: str) -> Breaker:
        """Return the breaker of a deployment."""
        breaker = self._by_name.get(name)
        if breaker is None:
            breaker = self._by_name[name] = Breaker(self._settings, self._clock, self._dice)
        return breaker

    def shut(self) -> frozenset[str]:
        """Return the deployments whose breaker lets nothing through now."""
        for breaker in self._by_name.values():
            if breaker.rests:
                break
        else:
            return _NONE
        return frozenset([name for name, breaker in self._by_name.items() if breaker.state == "open"])

    def report(self, name: str) -> dict[str, Any] | None:
        """Return how a deployment's breaker stands, as JSON; None before its first request."""
        breaker = self._by_name.get(name)
        if breaker is None:
            return None
        wait_s = breaker.retry_after_s
        return {"state": breaker.state, "retry_after_s": None if wait_s is None else round(wait_s, 1)}

    def states(self) -> dict[str, str]:
        """Return the state of every breaker that was ever asked."""
        return {name: breaker.state for name, breaker in self._by_name.items()}
