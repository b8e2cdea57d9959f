"""Time as an injected value, so that tests can own it."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: wall time for records and windows, monotonic time for durations."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Return a clock that never goes back, in nanoseconds, of arbitrary origin."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    monotonic_ns = staticmethod(time.monotonic_ns)
    """Return the machine's monotonic clock in nanoseconds. Every request asks some twenty times."""


class ManualClock:
    """A clock that moves only when told; shipped for tests and simulation."""

    def __init__(self, start: datetime | None = None) -> None:
        """Start at `start`, by default at the first instant of 2026 in UTC."""
        self._now_ns = int((start or datetime(2026, 1, 1, tzinfo=UTC)).timestamp()) * 1_000_000_000
        self._monotonic_ns = 0

    def now(self) -> datetime:
        """Return the wall time as it was set."""
        return datetime.fromtimestamp(self._now_ns / 1e9, UTC)

    def monotonic_ns(self) -> int:
        """Return the nanoseconds advanced so far."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        step_ns = round(seconds * 1e9)
        self._now_ns += step_ns
        self._monotonic_ns += step_ns
