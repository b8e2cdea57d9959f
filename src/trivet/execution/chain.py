"""The fallback chain: candidates in order, until one produces content.

Before the first content byte the next candidate may be tried; after it, never: a second model's words
are not spliced onto the first one's.
"""

import contextlib
import uuid
from contextlib import AbstractContextManager

import structlog

from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision
from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
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
from trivet.engines.protocol import CallLimits, EngineCall, Reply, Transport
from trivet.execution.breaker import Breaker, Breakers, Pass
from trivet.execution.upstream import upstream_body
from trivet.fleet import Fleet
from trivet.metering import DeviceClock, Metrics

log = structlog.get_logger(__name__)

MINIMUM_WITNESSES = 2
_TELLING: dict[type[EngineError], int] = {
    EngineBusy: 1,
    EngineTimeout: 2,
    EngineBroken: 3,
    EngineUnavailable: 4,
    ContextOverflow: 5,
    EngineIncapable: 6,
}


class RunningAttempt:
    """An attempt that holds its engine: slot, device time, breaker pass. Ends exactly once."""

    def __init__(
        self, attempt: Attempt, leave: Pass, chain: "Chain", lease: contextlib.ExitStack, limits: CallLimits
    ) -> None:
        self.attempt = attempt
        self.error: EngineError | None = None
        self._leave = leave
        self._chain = chain
        self._lease = lease
        self._limits = limits

    def enter(self, lease: AbstractContextManager[Transport]) -> Transport:
        """Take the engine's lease until the attempt ends."""
        return self._lease.enter_context(lease)

    @property
    def breaker(self) -> Breaker:
        """Return the breaker of the attempt's endpoint."""
        return self._chain.breakers.of(self.attempt.deployment.name)

    @property
    def suspect(self) -> bool:
        """Tell whether the engine answered with a fault that the request itself may have caused."""
        return isinstance(self.error, EngineBroken) and self.error.status is not None

    def first_content(self) -> None:
        """Record that the engine produced content: the endpoint works."""
        self.attempt.first_token_ns = self._chain.clock.monotonic_ns()
        self.breaker.succeeded(self._leave)

    def end(self, error: EngineError | None = None, *, cancelled: bool = False) -> None:
        """Stop the clocks. Idempotent; a plain call, so that no cancellation can skip it."""
        attempt = self.attempt
        if attempt.ended_ns is not None:
            return
        attempt.ended_ns = self._chain.clock.monotonic_ns()
        attempt.device_ns = self._chain.device_clock.end(attempt.attempt_id)
        self.error = error
        if error is not None:
            attempt.error_code = error.code
        elif cancelled:
            attempt.error_code = "cancelled"
        self._lease.close()
        self._chain.metrics.attempt_ended(attempt)
        if error is None or not self._engine_at_fault(error):
            self.breaker.returned(self._leave)
        elif attempt.first_token_ns is not None or not self.suspect:
            self.breaker.failed(self._leave)

    def judge(self, *, guilty: bool) -> None:
        """Give the verdict on a suspect, once it is known how others answered the same request."""
        if guilty:
            self.breaker.failed(self._leave)
        else:
            self.breaker.returned(self._leave)

    def _engine_at_fault(self, error: EngineError) -> bool:
        if isinstance(error, EngineRejected | EngineIncapable | ContextOverflow | EngineBusy):
            return False  # the request's fault, or an engine that works: at its limit
        if not isinstance(error, EngineTimeout):
            return True
        # A timeout speaks against the engine only if it had its full time, not a deadline's last second.
        elapsed_s = ((self.attempt.ended_ns or 0) - self.attempt.dispatched_ns) / 1e9
        cut_short = elapsed_s >= 0.95 * self._limits.total_s
        return not cut_short or self._limits.total_s >= self._chain.full_time_s


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
        failed: list[RunningAttempt] = []
        deadline_error: EngineTimeout | None = None
        retry_after_s: float | None = None
        last = len(decision.candidates) - 1
        for index, candidate in enumerate(decision.candidates):
            if len(attempts) >= self._settings.max_attempts:
                break
            left_s = self._settings.deadline_s - (self.clock.monotonic_ns() - started_ns) / 1e9
            if left_s <= 0:
                deadline_error = EngineTimeout(f"The deadline of {self._settings.deadline_s:g} s has passed.")
                break
            breaker = self.breakers.of(candidate.deployment.name)
            leave = breaker.ask()
            if leave is None:
                retry_after_s = min(breaker.retry_after_s or 1.0, retry_after_s or 3600.0)
                continue
            call = EngineCall(
                body=upstream_body(request, decision, candidate.deployment),
                stream=request.stream,
                limits=self._limits(left_s, plain=not request.stream, last=index == last),
                request_id=request_id,
            )
            running = self._begin(candidate.deployment, call, leave, attempts)
            try:
                reply = await self._dispatch(running, call)
            except BaseException:
                self._judge(failed, guilty=False)  # no verdict can follow: give the passes back
                raise
            if reply is not None:
                self._judge(failed, guilty=True)
                return reply, running
            failed.append(running)
            if running.error is not None and not running.error.retryable:
                break
        # Where every engine answered the same request with a fault, the request is the likelier cause;
        # one tenant's odd request must not close the way for all others.
        self._judge(
            failed, guilty=len(failed) < MINIMUM_WITNESSES or not all(each.suspect for each in failed)
        )
        errors = [each.error for each in failed if each.error is not None]
        raise _most_telling([*errors, *([deadline_error] if deadline_error else [])], attempts, retry_after_s)

    def _begin(
        self, deployment: Deployment, call: EngineCall, leave: Pass, attempts: list[Attempt]
    ) -> RunningAttempt:
        attempt = Attempt(
            attempt_id=uuid.uuid4().hex, deployment=deployment, dispatched_ns=self.clock.monotonic_ns()
        )
        attempts.append(attempt)
        # The running attempt owns the lease from the start: whatever happens, its end gives it back.
        return RunningAttempt(attempt, leave, self, contextlib.ExitStack(), call.limits)

    async def _dispatch(self, running: RunningAttempt, call: EngineCall) -> Reply | None:
        """Return the reply once it has content; None when the attempt failed and has ended."""
        attempt = running.attempt
        try:
            transport = running.enter(self._fleet.lease(attempt.deployment.name))
            self.metrics.attempt_started(attempt)
            self.device_clock.start(attempt.attempt_id, attempt.deployment)
            reply = await transport.chat(call)
        except EngineError as error:
            running.end(error)
            log.info(
                "attempt.failed",
                request_id=call.request_id,
                deployment=attempt.deployment.name,
                code=error.code,
            )
            return None
        except BaseException:  # cancelled, or a fault of ours: the endpoint is not to blame
            running.end(cancelled=True)
            raise
        running.first_content()
        return reply

    def _judge(self, failed: list[RunningAttempt], *, guilty: bool) -> None:
        for each in failed:
            if each.suspect:
                each.judge(guilty=guilty)

    @property
    def full_time_s(self) -> float:
        """Return the time within which an engine must have produced content."""
        return self._settings.first_content_timeout_s

    def _limits(self, left_s: float, *, plain: bool, last: bool) -> CallLimits:
        # A plain answer shows no first content, so a hang cannot be told from a long answer. While
        # another candidate waits it may take half of the time that is left, not all of it.
        return CallLimits(
            total_s=left_s / 2 if plain and not last else left_s,
            connect_s=min(left_s, self._settings.connect_timeout_s),
            first_content_s=min(left_s, self._settings.first_content_timeout_s),
            idle_s=self._settings.idle_timeout_s,
        )


def _tells_less(error: EngineError) -> int:
    """Rank errors by what they tell the caller: the request's own fault first, then what a wait may cure.

    What one engine cannot do matters only if nothing else went wrong on the way.
    """
    return 0 if not error.retryable else _TELLING.get(type(error), len(_TELLING) + 1)


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
    error = min(errors, key=_tells_less)
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
