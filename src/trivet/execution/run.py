"""One request on its way: what is known of it, and what is booked when it ends, however it ends."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from trivet.access import Admitted
from trivet.domain.budgets import Amounts, Hold, Reservation, Settlement
from trivet.domain.clock import Clock
from trivet.domain.decisions import Candidate, Decision
from trivet.domain.errors import ApprovalRequired, BudgetError, EngineTimeout, PriceUnknown, TrivetError
from trivet.domain.failpoints import reach
from trivet.domain.outcomes import Attempt, Outcome, OutcomeStatus, Usage, UsageSource
from trivet.domain.prices import Prices
from trivet.domain.requests import ChatRequest, Principal
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import Reply
from trivet.execution.settler import AlsoWrite, MakeAlso, Settler
from trivet.execution.tariff import Tariff
from trivet.execution.upstream import believable

log = structlog.get_logger(__name__)


class Announce(Protocol):
    """Called once with every outcome; a listener's fault is its own."""

    def __call__(self, outcome: Outcome) -> None:
        """Take note of the outcome."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeting:
    """What a run needs to know to hold budget."""

    prices: Prices
    dearest_order: int
    """The position of the dearest tier."""
    wait_s: float
    """How long to wait for open holds that are in the way."""
    minimum_output_tokens: int | None
    """For each choice: fewer are not worth granting; None: all or nothing."""
    outside_hold_s: float
    """How long an outside caller may hold budget."""
    deadline_s: float
    """How long a request may take."""


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
        budget: Budgeting,
        clock: Clock,
        started_ns: int,
        row_writer: Callable[[Outcome], AlsoWrite],
        announce: Announce,
        admitted: Admitted | None = None,
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
        self.clamped = False
        self.downgraded_from: str | None = decision.downgraded_from
        """The tier that was chosen, where budget allowed a lower one only."""
        self.given_until_ns: int | None = None
        """Where the hold is for an outside caller: when it runs out, in nanoseconds since 1970."""
        self.admitted = admitted or Admitted()
        """What the rate limits say; ended with the run."""
        self._settler = settler
        self._budget = budget
        self._kept: dict[str, Tariff] = {}
        self._tariff = Tariff.of(decision.deployment, budget.prices)
        # Whether the ladder let the hold use the dearest tier; it asks, whatever that tier weighs.
        self._held_for_dearest = False
        self._clock = clock
        self._row_writer = row_writer
        self._announce = announce

    @property
    def tariff(self) -> Tariff:
        """Return what a token counts at the deployment that is held for."""
        return self._tariff

    def adopt(self, reservation: Reservation, tariff: Tariff) -> None:
        """Take a hold that was made before, at its prices of then."""
        self.reservation = reservation
        self._tariff = tariff
        self._kept[self.decision.deployment.name] = tariff
        self._held_for_dearest = self._is_dearest(self.decision.deployment)

    async def hold(self) -> None:
        """Hold what the first candidate can use; where little is left, lower the request's output cap to it.

        Where a tier's weight, its price or a missing approval is in the way, cheaper candidates are asked
        for instead, the best first: served lower rather than refused.

        Raises:
            BudgetError: nothing useful fits, or policy refuses it.
            IdempotencyError: the request was made before.
            StoreUnavailable: the ledger did not answer.
        """
        cap = self.output_cap
        while self.reservation is None:
            try:
                self.reservation = await self._settler.hold(
                    self._asked(cap),
                    wait_s=self._budget.wait_s,
                    within_s=self._left_s(),
                    reservation_id=self.decision.decision_id if self.given_until_ns else None,
                )
            except BudgetError as refused:
                others = self._candidates_instead(refused)
                if not others:
                    raise
                before = self.decision.deployment.tier
                if others[0].deployment.tier.order < before.order:
                    self.downgraded_from = self.downgraded_from or before.name
                self.decision = replace(self.decision, candidates=others)
                self._tariff = Tariff.of(self.decision.deployment, self._budget.prices)
        self._held_for_dearest = self._is_dearest(self.decision.deployment)
        if self.reservation.max_output < cap:
            self.clamped = True
            granted = self.reservation.max_output // self.request.n
            self.decision = replace(self.decision, max_output_tokens=granted)

    def _left_s(self) -> float:
        """Return how much of its time the request has left."""
        spent_ns = self._clock.monotonic_ns() - self.started_ns
        return max(0.0, self._budget.deadline_s - spent_ns / 1e9)

    def _asked(self, cap: int) -> Hold:
        tier, hints = self.decision.deployment.tier, self.request.hints
        least = self._budget.minimum_output_tokens
        return Hold(
            scope=self.principal.scope,
            prompt=self._tariff.prompt(self.decision.estimated.prompt_tokens),
            output=self._tariff.output(cap, prompt_tokens=self.decision.estimated.prompt_tokens),
            max_output=cap,
            min_output=cap if least is None else min(cap, least * self.request.n),
            priority=self.principal.priority_of(hints.priority),
            task=hints.task_id,
            session=hints.session,
            tier=tier.name,
            dearest=self._is_dearest(self.decision.deployment),
            idempotency=self.request.idempotency,
            expires_at_ns=self.given_until_ns,
            decision_id=self.decision.decision_id,
            unpriced=not self._tariff.price.known,
        )

    def _candidates_instead(self, refused: BudgetError) -> tuple[Candidate, ...]:
        """Return the candidates that may be served where the first one was refused; none: nobody may."""
        if isinstance(refused, PriceUnknown):
            prices = self._budget.prices
            return tuple(c for c in self.decision.candidates if prices.of(c.deployment).known)
        return self._cheaper_candidates() if _lies_in_the_tier(refused) else ()

    def _cheaper_candidates(self) -> tuple[Candidate, ...]:
        """Return the candidates of lower tiers that no part makes dearer than the first one."""
        first = self.decision.deployment.tier
        return tuple(
            candidate
            for candidate in self.decision.candidates
            if candidate.deployment.tier.order < first.order
            and not Tariff.of(candidate.deployment, self._budget.prices).is_dearer_than(self._tariff)
        )

    async def weigh(self, deployment: Deployment) -> bool:
        """Hold what another candidate can use instead; False: it is too dear, and no candidate."""
        held = self.reservation
        tariff = self._kept.get(deployment.name) or Tariff.of(deployment, self._budget.prices)
        dearest = self._is_dearest(deployment)
        if held is None or (tariff == self._tariff and (self._held_for_dearest or not dearest)):
            return True
        if held.dollars_limited and not tariff.price.known:
            log.info("candidate.price_unknown", deployment=deployment.name)
            return False
        before = self._tariff
        if before.is_dearer_than(tariff):
            # Should this be cut short, nobody knows which of both is held: the cheaper one surely is.
            self._tariff = tariff
        try:
            await self._settler.reweight(
                held.reservation_id,
                tariff.prompt(self.decision.estimated.prompt_tokens),
                tariff.output(held.max_output, prompt_tokens=self.decision.estimated.prompt_tokens),
                tier=deployment.tier.name,
                dearest=dearest,
            )
        except BudgetError as refused:
            log.info("candidate.too_dear", deployment=deployment.name, code=refused.code)
            self._tariff = before
            return False
        self._tariff, self._held_for_dearest = tariff, dearest
        return True

    def _is_dearest(self, deployment: Deployment) -> bool:
        return deployment.tier.order == self._budget.dearest_order

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
        self.admitted.end(usage.total_tokens if usage is not None else 0)
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
        if usage is not None:
            outcome.charged = self._tariff.charge(usage)
        task = self._settle(usage, outcome.charged, lambda: self._row_writer(outcome))
        try:
            self._announce(outcome)
        except Exception as fault:  # noqa: BLE001 - listeners get copies, and may fail without loss
            log.warning("announcement.failed", error=type(fault).__name__)
        return task

    def _settle(
        self, usage: Usage | None, charged: Amounts, also: MakeAlso
    ) -> asyncio.Task[Settlement | None] | None:
        if self.reservation is None:
            self._settler.note(also)
            return None
        reach("before_settle")
        if usage is None:
            task = self._settler.release(self.reservation.reservation_id, also)
        else:
            task = self._settler.settle(self.reservation.reservation_id, usage, charged, also)
        task.add_done_callback(self._settled)
        return task

    def _settled(self, task: asyncio.Task[Settlement | None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.settlement = task.result()

    def _charge(self, status: OutcomeStatus, reply: Reply | None) -> Usage | None:
        """Return what the tenant owes: the engine's word if believable, else a bound on what it did."""
        if self.reservation is None or not self.attempts:
            return None
        usage = self._charge_of_reply(reply) if reply is not None else self._charge_without_reply(status)
        unseen = self._unseen_prompts(skip_last=reply is None and usage is not None)
        if not unseen:
            return usage
        usage = usage or Usage(0, 0, "ceiling")
        # The hold is a ceiling for one attempt's work; what silent attempts read is charged up to it.
        room = max(0, self.reservation.amount - usage.total_tokens)
        return replace(usage, prompt_tokens=usage.prompt_tokens + min(room, unseen), source="ceiling")

    def _charge_of_reply(self, reply: Reply) -> Usage:
        deployment = self.attempts[-1].deployment
        prompt_ceiling = self.decision.estimated.prompt_tokens
        told = believable(
            reply.usage,
            output_ceiling=max(self.output_cap, reply.content_bytes),
            context_tokens=max(deployment.context_tokens, prompt_ceiling),
            content_events=reply.content_events,
        )
        if told is not None:
            return told
        source: UsageSource = "counted" if self.request.stream else "ceiling"
        # A token is at least one byte of what carries it.
        return Usage(prompt_ceiling, min(self.output_cap, reply.content_bytes), source)

    def _charge_without_reply(self, status: OutcomeStatus) -> Usage | None:
        """Return the charge of a request whose client left, or whose engine fell silent, before content.

        The engine was at work, unless the client left while no attempt was under way: between two of them,
        or waiting for a model to be loaded. A plain answer shows nothing of how far it came, so its whole
        ceiling is charged: else timing out would be a way to free tokens.
        """
        left_at_work = status == "cancelled" and self.attempts[-1].error_code == "cancelled"
        if not left_at_work and self.attempts[-1].error_code != EngineTimeout.code:
            return None
        return Usage(
            self.decision.estimated.prompt_tokens, 0 if self.request.stream else self.output_cap, "ceiling"
        )

    def _unseen_prompts(self, *, skip_last: bool) -> int:
        attempts = self.attempts[:-1] if skip_last else self.attempts
        silent = [attempt for attempt in attempts if attempt.error_code == EngineTimeout.code]
        return self.decision.estimated.prompt_tokens * len(silent)


def _lies_in_the_tier(refused: BudgetError) -> bool:
    """Tell whether a cheaper tier may be allowed where this one was refused; tokens are tokens anywhere."""
    return isinstance(refused, ApprovalRequired) or refused.details.get("meter") != "tokens"
