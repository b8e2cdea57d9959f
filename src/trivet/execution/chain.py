"""The fallback chain: candidates in order, until one produces content.

Before the first content byte the next candidate may be tried; after it, never: a second model's words
are not spliced onto the first one's.
"""

import asyncio
import contextlib
import json
import random

import structlog

from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision
from trivet.domain.errors import EngineError, EngineTimeout
from trivet.domain.failpoints import reach
from trivet.domain.ids import new_id
from trivet.domain.outcomes import Attempt
from trivet.domain.requests import ChatRequest
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import CallLimits, EngineCall, Reply
from trivet.execution.admission import Admission, Ticket
from trivet.execution.breaker import Breakers
from trivet.execution.conditions import Conditions
from trivet.execution.itinerary import Itinerary, Stop
from trivet.execution.retry_budget import RetryBudgets
from trivet.execution.run import Run
from trivet.execution.running import RunningAttempt
from trivet.execution.station import Station
from trivet.execution.upstream import upstream_body
from trivet.execution.verdict import most_telling
from trivet.fleet import Fleet
from trivet.metering import DeviceClock, Metrics

log = structlog.get_logger(__name__)

MINIMUM_WITNESSES = 2
LONG_PAUSE_S = 1.0
"""A stream's client is shown signs of life in a pause longer than this."""


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
        dice: random.Random | None = None,
    ) -> None:
        self._fleet = fleet
        self.breakers = breakers
        self.device_clock = device_clock
        self.metrics = metrics
        self._settings = settings
        self.clock = clock
        self.full_time_s = settings.first_content_timeout_s
        """The time within which an engine must have produced content."""
        self._dice = dice or random.Random()  # noqa: S311 - jitter, not a secret
        self._deadline_ns = int(settings.deadline_s * 1e9)
        self._retries = RetryBudgets(clock, metrics.retries)
        self._stations: dict[str, Station] = {}
        self.conditions = Conditions(clock, longest_busy_s=settings.breaker_open_max_s)
        self.admission = Admission(settings.admission, clock, takes=self._takes, waits=metrics.queue_wait)

    async def first_content(self, run: Run) -> tuple[Reply, RunningAttempt]:
        """Return the first reply that has content, with its attempt still running.

        Every attempt made is appended to the run's `attempts`, the failed ones included.

        Raises:
            EngineError: no candidate produced content; it is the most telling of their errors.
        """
        failed: list[RunningAttempt] = []
        shut: dict[Deployment, float] = {}
        way: Itinerary | None = None
        try:
            stop = self._first_stop(run)
            if stop is None:
                way = self._way_of(run)
                stop = self._next_stop(way, run)
            while stop is not None:
                if stop.pause_s:
                    await self._pause(stop, run)
                error: EngineError | None = None
                if run.is_held_for(stop.deployment) or await run.weigh(stop.deployment):
                    running = await self._begin(stop.deployment, run, last=stop.last)
                    if running is None:
                        shut[stop.deployment] = self.breakers.of(stop.deployment.name).retry_after_s or 1.0
                    else:
                        reply = await self._dispatch(running, run)
                        if reply is not None:
                            if failed:
                                self._judge(failed, guilty=True)
                            return reply, running
                        failed.append(running)
                        error = running.error
                if way is None:
                    way = self._way_of(run, after=stop)
                if error is not None:
                    if not error.retryable:
                        break
                    way.failed(stop, error)
                stop = self._next_stop(way, run)
        except BaseException:
            self._judge(failed, guilty=False)  # no verdict can follow: give the passes back
            raise
        assert way is not None  # noqa: S101 - or there was a reply
        self._judge_without_answer(failed, run)
        raise self._verdict(failed, way, run, shut)

    def _first_stop(self, run: Run) -> Stop | None:
        """Return the best candidate, if it may be asked now: nearly always that is the whole way."""
        candidates = run.decision.candidates
        deployment = candidates[0].deployment
        station = self._stations.get(deployment.name) or self._new_station(deployment)
        if station.condition.busy_until_ns or self.clock.monotonic_ns() - run.started_ns >= self._deadline_ns:
            return None
        station.retries.request()
        return Stop(deployment, 0.0, len(candidates) == 1)

    def _way_of(self, run: Run, *, after: Stop | None = None) -> Itinerary:
        return Itinerary(
            run.decision.candidates,
            self.conditions,
            self._retries,
            self._dice,
            self._settings.retry_pause_max_s,
            after=after,
        )

    def _next_stop(self, way: Itinerary, run: Run) -> Stop | None:
        """Return where to go next; None: there is nowhere, or no time."""
        left_s = self._left_s(run)
        if left_s <= 0 or len(run.attempts) >= self._settings.max_attempts:
            return None
        return way.following(left_s, begun=bool(run.attempts))

    def _new_station(self, deployment: Deployment) -> Station:
        """Make a deployment's station, the first time that it is asked for."""
        name = deployment.name
        station = self._stations[name] = Station(
            self._fleet.endpoint(name),
            self.breakers.of(name),
            self.conditions.of(name),
            self._retries.of(deployment.tier.name),
        )
        return station

    async def _pause(self, stop: Stop, run: Run) -> None:
        """Wait until it is time for a stop."""
        if stop.pause_s > LONG_PAUSE_S:
            run.waits()
        await asyncio.sleep(stop.pause_s)

    def _verdict(
        self, failed: list[RunningAttempt], way: Itinerary, run: Run, shut: dict[Deployment, float]
    ) -> EngineError:
        errors = [each.error for each in failed if each.error is not None]
        if way.left_alone is not None:
            errors.append(way.left_alone)
        if self._left_s(run) <= 0:
            errors.append(EngineTimeout(f"The deadline of {self._settings.deadline_s:g} s has passed."))
        shut |= dict.fromkeys(way.refused, 1.0)
        return most_telling(errors, run.attempts, run.decision, shut)

    async def find_place(self, run: Run) -> Decision:
        """Get leave to go to a candidate's engine, before anything is held; see `Admission.find_place`."""
        return await self.admission.find_place(
            run.entry, run.decision, left_s=self._left_s(run), on_wait=run.waits
        )

    async def _begin(self, deployment: Deployment, run: Run, *, last: bool) -> RunningAttempt | None:
        """Wait for the deployment's model if it is not in memory; then the attempt begins, no earlier.

        Returns:
            The attempt, which has ended if the wait was in vain; None if the breaker lets nothing through.
        """
        name = deployment.name
        station = self._stations.get(name) or self._new_station(deployment)
        breaker = station.breaker
        if breaker.rests and not breaker.lets_through:
            return None
        asked_ns = self.clock.monotonic_ns()
        fault: EngineError | None = None
        place: contextlib.ExitStack | None = None
        ticket: Ticket | None = None
        running: RunningAttempt | None = None
        try:
            try:
                if not station.endpoint.is_there:
                    place = contextlib.ExitStack()
                    place.enter_context(
                        await self._fleet.ensure_ready(
                            name, left_s=self._left_s(run), last=last, on_wait=run.waits
                        )
                    )
                if run.computes:
                    ticket = run.entry.take(name) or await self.admission.place(
                        run.entry, deployment, left_s=self._left_s(run), last=last, on_wait=run.waits
                    )
            except EngineError as error:
                fault = error
            leave = breaker.ask() if fault is None else breaker.unasked()
            if leave is None:
                return None
            now_ns = self.clock.monotonic_ns()
            waited_ns = now_ns - asked_ns + run.entry.take_wait_ns()
            attempt = Attempt(new_id(), deployment, now_ns, waited_ns)
            run.attempts.append(attempt)
            # The running attempt owns what was taken from the start: whatever happens, its end gives it back.
            left_s = self._settings.deadline_s - (now_ns - run.started_ns) / 1e9
            limits = self._limits(left_s, plain=not run.request.stream, last=last)
            running = RunningAttempt(attempt, self, station, leave, limits, ticket, place)
        finally:
            if running is None:
                if ticket is not None:
                    ticket.release()
                if place is not None:
                    place.close()
        if fault is not None:
            self._fail(running, fault, run)
        return running

    async def _dispatch(self, running: RunningAttempt, run: Run) -> Reply | None:
        """Return the reply once it has content; None when the attempt has failed and ended."""
        attempt, request = running.attempt, run.request
        if attempt.ended_ns is not None:
            return None
        deployment = attempt.deployment
        try:
            body = upstream_body(request, run.decision, deployment)
            call = EngineCall(body, request.stream, running.limits, run.request_id, request.surface)
            transport = running.enter()
            self.metrics.attempt_started(attempt)
            if run.computes:
                self.device_clock.start(attempt.attempt_id, deployment)
            reply = await transport.chat(call)
            reach("after_dispatch")
        except EngineError as error:
            self._fail(running, error, run)
            return None
        except BaseException:  # cancelled, or a fault of ours: the endpoint is not to blame
            running.end(cancelled=True)
            raise
        running.first_content()
        return reply

    def _fail(self, running: RunningAttempt, error: EngineError, run: Run) -> None:
        running.end(error)
        name = running.attempt.deployment.name
        log.info("attempt.failed", request_id=run.request_id, deployment=name, code=error.code)

    def _takes(self, deployment: Deployment) -> bool:
        """Tell whether an engine can be sent a request now, as far as is known."""
        station = self._stations.get(deployment.name) or self._new_station(deployment)
        return station.takes

    def _left_s(self, run: Run) -> float:
        return self._settings.deadline_s - (self.clock.monotonic_ns() - run.started_ns) / 1e9

    def _judge(self, failed: list[RunningAttempt], *, guilty: bool, origin: int | None = None) -> None:
        for each in failed:
            if each.suspect:
                each.judge(guilty=guilty, origin=origin)

    def _judge_without_answer(self, failed: list[RunningAttempt], run: Run) -> None:
        """Judge the engines of a request that none of them answered.

        Where several answered it with a fault, and nothing else happened, the request is the likelier cause:
        one tenant's odd request must not close the way for all others. Where one engine stands alone, the
        request counts against it once, however often it is repeated.
        """
        suspects = {each.attempt.deployment.name for each in failed if each.suspect}
        if not suspects:
            return
        if len(suspects) >= MINIMUM_WITNESSES and all(each.suspect for each in failed):
            self._judge(failed, guilty=False)
        else:
            self._judge(failed, guilty=True, origin=fingerprint(run.request))

    def _limits(self, left_s: float, *, plain: bool, last: bool) -> CallLimits:
        # A plain answer shows no first content, so a hang cannot be told from a long answer. While
        # another candidate waits it may take half of the time that is left, not all of it.
        settings = self._settings
        total_s = left_s / 2 if plain and not last else left_s
        connect_s, first_content_s = settings.connect_timeout_s, settings.first_content_timeout_s
        return CallLimits(
            total_s,
            connect_s if connect_s < left_s else left_s,
            first_content_s if first_content_s < left_s else left_s,
            settings.idle_timeout_s,
        )


def fingerprint(request: ChatRequest) -> int:
    """Return what a request can be known again by, within this process."""
    return hash(json.dumps(request.body, sort_keys=True))
