"""The fallback chain: candidates in order, until one produces content.

Before the first content byte the next candidate may be tried; after it, never: a second model's words
are not spliced onto the first one's.
"""

import contextlib
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

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
    EngineLoading,
    EngineRejected,
    EngineTimeout,
)
from trivet.domain.failpoints import reach
from trivet.domain.outcomes import Attempt
from trivet.domain.requests import ChatRequest
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import CallLimits, EngineCall, Reply, Transport
from trivet.execution.breaker import Breaker, Breakers, Pass
from trivet.execution.upstream import upstream_body
from trivet.execution.verdict import most_telling
from trivet.fleet import Fleet
from trivet.metering import DeviceClock, Metrics

log = structlog.get_logger(__name__)

MINIMUM_WITNESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One request on its way through the candidates."""

    request: ChatRequest
    decision: Decision
    attempts: list[Attempt]
    """Filled as they are made."""
    request_id: str
    started_ns: int
    on_wait: Callable[[], None]
    """Called when a model has to be waited for."""
    weigh: Callable[[Deployment], Awaitable[bool]]
    """Hold budget for another candidate before it is tried; False: it does not fit, so it is none."""


class RunningAttempt:
    """An attempt that holds its engine: slot, device time, breaker pass. Ends exactly once."""

    def __init__(
        self, attempt: Attempt, leave: Pass, chain: "Chain", lease: contextlib.ExitStack, limits: CallLimits
    ) -> None:
        self.attempt = attempt
        self.error: EngineError | None = None
        self._leave = leave
        self._chain = chain
        self.limits = limits
        self._lease = lease

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
        if isinstance(error, EngineRejected | EngineIncapable | ContextOverflow):
            return False  # the request's fault
        if isinstance(error, EngineBusy | EngineLoading):
            return False  # the engine works, at its limit, or will
        if not isinstance(error, EngineTimeout):
            return True
        # A timeout speaks against the engine only if it had its full time, not a deadline's last second.
        elapsed_s = ((self.attempt.ended_ns or 0) - self.attempt.dispatched_ns) / 1e9
        cut_short = elapsed_s >= 0.95 * self.limits.total_s
        return not cut_short or self.limits.total_s >= self._chain.full_time_s


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

    async def first_content(self, course: "Course") -> tuple[Reply, RunningAttempt]:
        """Return the first reply that has content, with its attempt still running.

        Every attempt made is appended to the course's `attempts`, the failed ones included.

        Raises:
            EngineError: no candidate produced content; it is the most telling of their errors.
        """
        failed: list[RunningAttempt] = []
        deadline_error: EngineTimeout | None = None
        retry_after_s: float | None = None
        attempts, last = course.attempts, len(course.decision.candidates) - 1
        for index, candidate in enumerate(course.decision.candidates):
            if len(attempts) >= self._settings.max_attempts:
                break
            if self._left_s(course) <= 0:
                deadline_error = EngineTimeout(f"The deadline of {self._settings.deadline_s:g} s has passed.")
                break
            try:
                if not await course.weigh(candidate.deployment):
                    continue
                running = await self._begin(candidate.deployment, course, last=index == last)
                if running is None:
                    breaker = self.breakers.of(candidate.deployment.name)
                    retry_after_s = min(breaker.retry_after_s or 1.0, retry_after_s or 3600.0)
                    continue
                reply = await self._dispatch(running, course)
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
        raise most_telling([*errors, *([deadline_error] if deadline_error else [])], attempts, retry_after_s)

    async def _begin(self, deployment: Deployment, course: "Course", *, last: bool) -> RunningAttempt | None:
        """Wait for the deployment's model if it is not in memory; then the attempt begins, no earlier.

        Returns:
            The attempt, which has ended if the wait was in vain; None if the breaker lets nothing through.
        """
        breaker = self.breakers.of(deployment.name)
        if not breaker.lets_through:
            return None
        asked_ns = self.clock.monotonic_ns()
        with contextlib.ExitStack() as lease:
            fault: EngineError | None = None
            try:
                lease.enter_context(
                    await self._fleet.ensure_ready(
                        deployment.name, left_s=self._left_s(course), last=last, on_wait=course.on_wait
                    )
                )
            except EngineError as error:
                fault = error
            leave = breaker.ask() if fault is None else Pass(probe=False)
            if leave is None:
                return None
            now_ns = self.clock.monotonic_ns()
            attempt = Attempt(
                attempt_id=uuid.uuid4().hex,
                deployment=deployment,
                dispatched_ns=now_ns,
                waited_ns=now_ns - asked_ns,
            )
            course.attempts.append(attempt)
            # The running attempt owns the lease from the start: whatever happens, its end gives it back.
            limits = self._limits(self._left_s(course), plain=not course.request.stream, last=last)
            running = RunningAttempt(attempt, leave, self, lease.pop_all(), limits)
        if fault is not None:
            self._fail(running, fault, course)
        return running

    async def _dispatch(self, running: RunningAttempt, course: "Course") -> Reply | None:
        """Return the reply once it has content; None when the attempt has failed and ended."""
        attempt = running.attempt
        if attempt.ended_ns is not None:
            return None
        request = course.request
        try:
            call = EngineCall(
                body=upstream_body(request, course.decision, attempt.deployment),
                stream=request.stream,
                limits=running.limits,
                request_id=course.request_id,
            )
            transport = running.enter(self._fleet.lease(attempt.deployment.name))
            self.metrics.attempt_started(attempt)
            self.device_clock.start(attempt.attempt_id, attempt.deployment)
            reply = await transport.chat(call)
            reach("after_dispatch")
        except EngineError as error:
            self._fail(running, error, course)
            return None
        except BaseException:  # cancelled, or a fault of ours: the endpoint is not to blame
            running.end(cancelled=True)
            raise
        running.first_content()
        return reply

    def _fail(self, running: RunningAttempt, error: EngineError, course: "Course") -> None:
        running.end(error)
        name = running.attempt.deployment.name
        log.info("attempt.failed", request_id=course.request_id, deployment=name, code=error.code)

    def _left_s(self, course: "Course") -> float:
        return self._settings.deadline_s - (self.clock.monotonic_ns() - course.started_ns) / 1e9

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
