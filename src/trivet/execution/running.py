"""An attempt under way: all that it has taken, until it ends."""

import contextlib
from typing import Protocol

from trivet.domain.clock import Clock
from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineLoading,
    EngineRejected,
    EngineTimeout,
)
from trivet.domain.outcomes import Attempt
from trivet.engines.protocol import CallLimits, Transport
from trivet.execution.admission import Ticket
from trivet.execution.breaker import Pass
from trivet.execution.conditions import Conditions
from trivet.execution.station import Station
from trivet.fleet import Lease
from trivet.metering import DeviceClock, Metrics


class Books(Protocol):
    """Where an attempt is booked: what all attempts of a chain have in common."""

    clock: Clock
    device_clock: DeviceClock
    metrics: Metrics
    conditions: Conditions
    full_time_s: float


class RunningAttempt:
    """An attempt that holds its engine: slot, device time, breaker pass. Ends exactly once."""

    __slots__ = (
        "_books",
        "_lease",
        "_leave",
        "_place",
        "_station",
        "_ticket",
        "attempt",
        "error",
        "limits",
    )

    def __init__(
        self,
        attempt: Attempt,
        books: Books,
        station: Station,
        leave: Pass,
        limits: CallLimits,
        ticket: Ticket | None,
        place: contextlib.ExitStack | None,
    ) -> None:
        self.attempt = attempt
        self.error: EngineError | None = None
        self.limits = limits
        self._books = books
        self._station = station
        self._leave = leave
        station.condition.pending += 1
        self._ticket = ticket
        """Its place at the gate; None where models take turns, which has places of its own."""
        self._place = place
        """Such a place."""
        self._lease: Lease | None = None

    def enter(self) -> Transport:
        """Take the way to the engine until the attempt ends.

        Raises:
            EngineUnavailable: there is none yet.
        """
        self._lease = lease = self._station.endpoint.lease()
        return lease.transport

    @property
    def suspect(self) -> bool:
        """Tell whether the engine answered with a fault that the request itself may have caused."""
        return isinstance(self.error, EngineBroken) and self.error.status is not None

    def first_content(self) -> None:
        """Record that the engine produced content: the endpoint works."""
        now_ns = self.attempt.first_token_ns = self._books.clock.monotonic_ns()
        if self._lease is not None:
            self._lease.answered()
        if self._ticket is not None:
            self._ticket.answered(self.attempt.dispatched_ns, now_ns)
        condition = self._station.condition
        condition.pending -= 1
        condition.answered()
        self._station.breaker.succeeded(self._leave)

    def end(self, error: EngineError | None = None, *, cancelled: bool = False) -> None:
        """Stop the clocks. Idempotent; a plain call, so that no cancellation can skip it."""
        attempt = self.attempt
        if attempt.ended_ns is not None:
            return
        books, leave = self._books, self._leave
        now_ns = attempt.ended_ns = books.clock.monotonic_ns()
        attempt.device_ns = books.device_clock.end(attempt.attempt_id)
        if attempt.first_token_ns is None:
            self._station.condition.pending -= 1
        if error is not None:
            self.error = error
            attempt.error_code = error.code
            books.conditions.failed(attempt.deployment.name, error)
            if self._ticket is not None and isinstance(error, EngineBusy | EngineTimeout):
                self._ticket.refused(attempt.dispatched_ns, now_ns)
        elif cancelled:
            attempt.error_code = "cancelled"
        if self._lease is not None:
            self._lease.close()
        if self._ticket is not None:
            self._ticket.release()
        if self._place is not None:
            self._place.close()
        books.metrics.attempt_ended(attempt, started=self._lease is not None)
        if error is None or not self._engine_at_fault(error):
            if leave.pending or leave.probe:
                self._station.breaker.returned(leave)
        elif attempt.first_token_ns is not None or not self.suspect:
            self._station.breaker.failed(leave)

    def judge(self, *, guilty: bool, origin: int | None = None) -> None:
        """Give the verdict on a suspect, once it is known how others answered the same request.

        Args:
            guilty: whether the engine is to blame.
            origin: what the request can be known by, where nobody else can bear witness.
        """
        if guilty:
            self._station.breaker.failed(self._leave, origin=origin)
        else:
            self._station.breaker.returned(self._leave)

    def _engine_at_fault(self, error: EngineError) -> bool:
        if isinstance(error, EngineRejected | EngineIncapable | ContextOverflow):
            return False  # the request's fault
        if isinstance(error, EngineBusy | EngineLoading):
            return False  # the engine works, at its limit, or will
        if not isinstance(error, EngineTimeout):
            return True
        # A timeout speaks against the engine only if it had its full time, not a deadline's last second.
        elapsed_s = ((self.attempt.ended_ns or 0) - self.attempt.dispatched_ns) / 1e9
        cut_short = elapsed_s >= 0.95 * self.limits.total_s
        return not cut_short or self.limits.total_s >= self._books.full_time_s
