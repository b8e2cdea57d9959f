"""One request on its way: what is known of it, and what is booked when it ends, however it ends."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from trivet.domain.budgets import Reservation, Settlement
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision
from trivet.domain.errors import EngineTimeout, TrivetError
from trivet.domain.outcomes import Attempt, Outcome, OutcomeStatus, Usage
from trivet.domain.requests import ChatRequest, Principal
from trivet.engines.protocol import Reply
from trivet.execution.settler import AlsoWrite, Settler
from trivet.execution.upstream import believable


class Announce(Protocol):
    """Called once with every outcome; a listener's fault is its own."""

    def __call__(self, outcome: Outcome) -> None:
        """Take note of the outcome."""
        ...


class Run:
    """The record of one request between admission and settlement. Closes exactly once."""

    def __init__(
        self,
        *,
        request_id: str,
        principal: Principal,
        request: ChatRequest,
        decision: Decision,
        settler: Settler,
        clock: Clock,
        started_ns: int,
        row_writer: Callable[[Outcome], AlsoWrite],
        announce: Announce,
    ) -> None:
        self.request_id = request_id
        self.principal = principal
        self.request = request
        self.decision = decision
        self.started_ns = started_ns
        self.attempts: list[Attempt] = []
        self.reservation: Reservation | None = None
        self.settlement: Settlement | None = None
        self.closed = False
        self._settler = settler
        self._clock = clock
        self._row_writer = row_writer
        self._announce = announce

    @property
    def ceiling(self) -> int:
        """Return the tokens to hold: the prompt's ceiling and every choice's output cap."""
        return self.decision.estimated.prompt_tokens + self.output_cap

    @property
    def output_cap(self) -> int:
        """Return the most tokens that an engine can generate for this request."""
        return self.decision.max_output_tokens * self.request.n

    @property
    def budget_remaining(self) -> int | None:
        """Return what the tightest limit leaves: after settlement if settled, else after the hold."""
        known = self.settlement or self.reservation
        return known.remaining if known else None

    def close(
        self, status: OutcomeStatus, *, reply: Reply | None = None, error: TrivetError | None = None
    ) -> asyncio.Task[Settlement | None] | None:
        """Book the request's end; a plain call that cannot be interrupted. Idempotent.

        Returns:
            The settlement in progress, when there was a hold.
        """
        if self.closed:
            return None
        self.closed = True
        usage = self._charge(status, reply)
        if usage is not None and self.attempts:
            self.attempts[-1].usage = usage
        outcome = Outcome(
            request_id=self.request_id,
            key_id=self.principal.key_id,
            scope=self.principal.scope,
            decision=self.decision,
            hints=self.request.hints,
            stream=self.request.stream,
            started_ns=self.started_ns,
            ended_ns=self._clock.monotonic_ns(),
            status=status,
            attempts=self.attempts,
            usage=usage,
            error_code=error.code if error else None,
        )
        also = self._row_writer(outcome)
        self._announce(outcome)
        if self.reservation is None:
            self._settler.note(also)
            return None
        if usage is None:
            task = self._settler.release(self.reservation.reservation_id, also)
        else:
            task = self._settler.settle(self.reservation.reservation_id, usage, also)
        task.add_done_callback(self._settled)
        return task

    def _settled(self, task: asyncio.Task[Settlement | None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.settlement = task.result()

    def _charge(self, status: OutcomeStatus, reply: Reply | None) -> Usage | None:
        """Return what the tenant owes: the engine's word if believable, else our count, else the ceiling."""
        prompt_ceiling = self.decision.estimated.prompt_tokens
        if self.reservation is None or not self.attempts:
            return None
        if reply is None:
            return self._charge_without_reply(status, prompt_ceiling)
        deployment = self.attempts[-1].deployment
        told = believable(
            reply.usage,
            output_cap=self.output_cap,
            context_tokens=max(deployment.context_tokens, prompt_ceiling),
            content_events=reply.content_events,
        )
        if told is not None:
            return told
        if self.request.stream:
            return Usage(prompt_ceiling, min(self.output_cap, reply.content_events), "counted")
        # A token is at least one byte of the body that carries it.
        return Usage(prompt_ceiling, min(self.output_cap, len(reply.body or b"")), "ceiling")

    def _charge_without_reply(self, status: OutcomeStatus, prompt_ceiling: int) -> Usage | None:
        if status == "cancelled":
            # The engine was at work when the client left. A plain answer shows nothing of how far it
            # came, so its whole ceiling is charged: else timing out would be a way to free tokens.
            return Usage(prompt_ceiling, 0 if self.request.stream else self.output_cap, "ceiling")
        if any(attempt.error_code == EngineTimeout.code for attempt in self.attempts):
            return Usage(prompt_ceiling, 0, "ceiling")
        return None
