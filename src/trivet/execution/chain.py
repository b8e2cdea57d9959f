"""The fallback chain: candidates in order, until one produces content.

Before the first content byte the next candidate may be tried; after it, never: a second model's words
are not spliced onto the first one's.
"""

import contextlib
import uuid

import structlog

from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision
from trivet.domain.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from trivet.domain.outcomes import Attempt
from trivet.domain.requests import ChatRequest
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import CallLimits, EngineCall, Reply
from trivet.execution.breaker import Breakers, Pass
from trivet.execution.upstream import upstream_body
from trivet.fleet import Fleet
from trivet.metering import DeviceClock, Metrics

log = structlog.get_logger(__name__)


class RunningAttempt:
    """An attempt that holds its engine: slot, device time, breaker pass. Ends exactly once."""

    def __init__(self, attempt: Attempt, leave: Pass, chain: "Chain", lease: contextlib.ExitStack) -> None:
        self.attempt = attempt
        self._leave = leave
        self._chain = chain
        self._lease = lease

    def first_content(self) -> None:
        """Record that the engine produced content: the endpoint works."""
        self.attempt.first_token_ns = self._chain.clock.monotonic_ns()
        self._chain.breakers.of(self.attempt.deployment.name).succeeded(self._leave)

    def end(self, error: EngineError | None = None, *, cancelled: bool = False) -> None:
        """Stop the clocks. Idempotent; a plain call, so that no cancellation can skip it."""
        attempt = self.attempt
        if attempt.ended_ns is not None:
            return
        attempt.ended_ns = self._chain.clock.monotonic_ns()
        attempt.device_ns = self._chain.device_clock.end(attempt.attempt_id)
        if error is not None:
            attempt.error_code = error.code
        elif cancelled:
            attempt.error_code = "cancelled"
        self._lease.close()
        self._judge(error, cancelled=cancelled)
        self._chain.metrics.attempt_ended(attempt)

    def _judge(self, error: EngineError | None, *, cancelled: bool) -> None:
        breaker = self._chain.breakers.of(self.attempt.deployment.name)
        if error is None:
            if cancelled and self.attempt.first_token_ns is None:
                breaker.returned(self._leave)
        elif isinstance(error, EngineRejected | EngineIncapable | ContextOverflow):
            breaker.returned(self._leave)
        else:
            breaker.failed(self._leave)


class Chain:
    """Runs a decision's candidates under one deadline."""

    def __init__(
        self,
        fleet: Fleet,
        breakers: Breakers,
        device_clock: DeviceClock,
        metrics: Metrics,
        settings: ExecutionSettings,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self.breakers = breakers
        self.device_clock = device_clock
        self.metrics = metrics
        self._settings = settings
        self.clock = clock

    async def first_content(
        self,
        request: ChatRequest,
        decision: Decision,
        attempts: list[Attempt],
        *,
        request_id: str,
        started_ns: int,
    ) -> tuple[Reply, RunningAttempt]:
        """Return the first reply that has content, with its attempt still running.

        Every attempt made is appended to `attempts`, the failed ones included.

        Raises:
            EngineError: no candidate produced content; it is the most telling of their errors.
        """
        errors: list[EngineError] = []
        retry_after_s: float | None = None
        for index, candidate in enumerate(decision.candidates):
            if len(attempts) >= self._settings.max_attempts:
                break
            left_s = self._settings.deadline_s - (self.clock.monotonic_ns() - started_ns) / 1e9
            if left_s <= 0:
                errors.append(EngineTimeout(f"The deadline of {self._settings.deadline_s:g} s has passed."))
                break
            breaker = self.breakers.of(candidate.deployment.name)
            leave = breaker.ask()
            if leave is None:
                retry_after_s = min(breaker.retry_after_s or 1.0, retry_after_s or 3600.0)
                continue
            call = EngineCall(
                body=upstream_body(request, decision, candidate.deployment),
                stream=request.stream,
                limits=self._limits(
                    left_s, plain=not request.stream, last=index == len(decision.candidates) - 1
                ),
                request_id=request_id,
            )
            try:
                return await self._attempt(candidate.deployment, call, leave, attempts)
            except EngineError as error:
                errors.append(error)
                log.info(
                    "attempt.failed",
                    request_id=request_id,
                    deployment=candidate.deployment.name,
                    code=error.code,
                )
                if not error.retryable:
                    break
        raise _most_telling(errors, attempts, retry_after_s)

    async def _attempt(
        self, deployment: Deployment, call: EngineCall, leave: Pass, attempts: list[Attempt]
    ) -> tuple[Reply, RunningAttempt]:
        attempt = Attempt(
            attempt_id=uuid.uuid4().hex, deployment=deployment, dispatched_ns=self.clock.monotonic_ns()
        )
        attempts.append(attempt)
        # The running attempt owns the lease from the start: whatever happens, its end gives it back.
        lease = contextlib.ExitStack()
        running = RunningAttempt(attempt, leave, self, lease)
        try:
            transport = lease.enter_context(self._fleet.lease(deployment.name))
            self.metrics.attempt_started(attempt)
            self.device_clock.start(attempt.attempt_id, deployment)
            reply = await transport.chat(call)
        except EngineError as error:
            running.end(error)
            raise
        except BaseException:  # cancelled, or a fault of ours: the endpoint is not to blame
            running.end(cancelled=True)
            raise
        running.first_content()
        return reply, running

    def _limits(self, left_s: float, *, plain: bool, last: bool) -> CallLimits:
        # A plain answer shows no first content, so a hang cannot be told from a long answer. While
        # another candidate waits it may take half of the time that is left, not all of it.
        return CallLimits(
            total_s=left_s / 2 if plain and not last else left_s,
            connect_s=min(left_s, self._settings.connect_timeout_s),
            first_content_s=min(left_s, self._settings.first_content_timeout_s),
            idle_s=self._settings.idle_timeout_s,
        )


def _most_telling(
    errors: list[EngineError], attempts: list[Attempt], retry_after_s: float | None
) -> EngineError:
    """Choose the error to show when every candidate failed, and list what was tried."""
    if not errors:
        return EngineUnavailable(
            "No engine can take the request now: the circuit breakers of all candidates are open.",
            hint="`trivet doctor` shows what each engine says.",
            retry_after_s=retry_after_s or 1.0,
        )
    # What one engine cannot do matters to the caller only if nothing else went wrong on the way.
    telling = [
        error for error in errors if not isinstance(error, ContextOverflow | EngineIncapable)
    ] or errors
    error = next((e for e in telling if not e.retryable), telling[-1])
    error.details["attempts"] = [
        {
            "deployment": attempt.deployment.name,
            "tier": attempt.deployment.tier.name,
            "code": attempt.error_code,
        }
        for attempt in attempts
    ]
    if error.retry_after_s is None and isinstance(error, EngineBusy | EngineUnavailable):
        error.retry_after_s = retry_after_s or 1.0
    return error
