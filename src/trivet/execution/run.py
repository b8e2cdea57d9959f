"""One request on its way: what is known of it, and what is booked when it ends, however it ends."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import structlog

from trivet.access import Admitted
from trivet.domain.budgets import NOTHING, Hold, Reservation
from trivet.domain.clock import Clock
from trivet.domain.decisions import Candidate, Decision
from trivet.domain.errors import ApprovalRequired, BudgetError, Overloaded, PriceUnknown, TrivetError
from trivet.domain.failpoints import reach
from trivet.domain.outcomes import Attempt, Outcome, OutcomeStatus
from trivet.domain.prices import Prices
from trivet.domain.requests import ChatRequest, Principal
from trivet.domain.tiers import Deployment
from trivet.domain.values import value
from trivet.engines.protocol import Reply
from trivet.execution.admission import LIKELY_BYTES_PER_TOKEN, Claim, Entry
from trivet.execution.charging import Bill, Charges
from trivet.execution.settler import AlsoWrite, Ending, MakeAlso, Settler
from trivet.execution.tariff import Tariff

log = structlog.get_logger(__name__)


class Announce(Protocol):
    """Called once with every outcome; a listener's fault is its own."""

    def __call__(self, outcome: Outcome) -> None:
        """Take note of the outcome."""
        ...


Keep = Callable[[Outcome, Reply], AlsoWrite]
"""Return a write for the transaction that charges for a whole plain answer."""


@value(kw_only=True)
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


@value(kw_only=True)
class Desk:
    """What all runs have in common: where they hold and settle, by what rules, and who is told."""

    settler: Settler
    budget: Budgeting
    clock: Clock
    row_writer: Callable[[Outcome], AlsoWrite]
    announce: Announce


class Run:
    """The record of one request between admission and settlement. Closes exactly once."""

    def __init__(
        self,
        desk: Desk,
        request_id: str,
        principal: Principal,
        request: ChatRequest,
        decision: Decision,
        started_ns: int,
        admitted: Admitted | None = None,
        on_wait: Callable[[Decision], None] | None = None,
    ) -> None:
        self.request_id = request_id
        self.principal = principal
        self.request = request
        self.decision = decision
        self.started_ns = started_ns
        self.attempts: list[Attempt] = []
        self.computes = request.surface.computes
        """Whether a model works on it, and not only an engine's tokenizer."""
        self.priority = principal.priority_of(request.hints.priority)
        prompt_bytes = decision.estimated.prompt_tokens
        self.entry = Entry(
            Claim(
                principal.scope,
                self.priority,
                prompt_bytes // LIKELY_BYTES_PER_TOKEN + decision.max_output_tokens * request.n,
                prompt_bytes,
                request.stream,
            )
        )
        """Leave to go to an engine, once it is given."""
        self.reservation: Reservation | None = None
        self.closed = False
        self._charged_tokens = 0
        self.clamped = False
        self.downgraded_from: str | None = decision.downgraded_from
        """The tier that was chosen, where budget allowed a lower one only."""
        self.given_until_ns: int | None = None
        """Where the hold is for an outside caller: when it runs out, in nanoseconds since 1970."""
        self.admitted = admitted or Admitted()
        """What the rate limits say; ended with the run."""
        self.keep: Keep | None = None
        """What is to be written with the charge for a whole answer."""
        self.cache_headers: dict[str, str] = {}
        """What the client is told of the cache; nothing while it is off."""
        self.saved_device_ns: int | None = None
        """Device time that a kept answer saved; None: an engine answers."""
        self._desk = desk
        self._kept: dict[str, Tariff] = {}
        deployment = decision.deployment
        self._tariff = Tariff.of(deployment, desk.budget.prices)
        # By deployment, as they were when its use was allowed; prices may change under way.
        self._tariffs = {deployment.name: self._tariff}
        self._held = NOTHING
        self._held_for: Deployment | None = None
        # Whether the ladder let the hold use the dearest tier; it asks, whatever that tier weighs.
        self._held_for_dearest = False
        self._on_wait = on_wait

    @property
    def tariff(self) -> Tariff:
        """Return what a token counts at the deployment that is held for."""
        return self._tariff

    def adopt(self, reservation: Reservation, tariff: Tariff) -> None:
        """Take a hold that was made before, at its prices of then."""
        self.reservation = reservation
        self._tariff = tariff
        self._kept[self.decision.deployment.name] = self._tariffs[self.decision.deployment.name] = tariff
        self._held = reservation.amounts
        self._held_for = self.decision.deployment
        self._held_for_dearest = self._is_dearest(self.decision.deployment)

    def waits(self) -> None:
        """Tell whoever listens that a model, or a place before an engine, has to be waited for."""
        if self._on_wait is not None:
            self._on_wait(self.decision)

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
                self.reservation = await self._desk.settler.hold(
                    self._asked(cap),
                    wait_s=self._desk.budget.wait_s,
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
                self._tariff = Tariff.of(self.decision.deployment, self._desk.budget.prices)
        deployment, held = self.decision.deployment, self.reservation
        self._held = held.amounts
        self._held_for = deployment
        self._held_for_dearest = deployment.tier.order == self._desk.budget.dearest_order
        self._tariffs[deployment.name] = self._tariff
        if held.max_output < cap:
            self.clamped = True
            granted = held.max_output // self.request.n
            self.decision = replace(self.decision, max_output_tokens=granted)

    def _left_s(self) -> float:
        """Return how much of its time the request has left."""
        spent_ns = self._desk.clock.monotonic_ns() - self.started_ns
        return max(0.0, self._desk.budget.deadline_s - spent_ns / 1e9)

    def _asked(self, cap: int) -> Hold:
        decision, hints, tariff = self.decision, self.request.hints, self._tariff
        tier, prompt_tokens = decision.deployment.tier, decision.estimated.prompt_tokens
        least = self._desk.budget.minimum_output_tokens
        min_output = cap if least is None else min(cap, least * self.request.n)
        dearest, unpriced = tier.order == self._desk.budget.dearest_order, not tariff.price.known
        # By position, as each request makes one: by keyword it takes three times as long.
        return Hold(
            self.principal.scope,
            tariff.prompt(prompt_tokens),
            tariff.output(cap, prompt_tokens=prompt_tokens),
            cap,
            min_output,
            self.priority,
            hints.task_id,
            hints.session,
            tier.name,
            dearest,
            self.request.idempotency,
            self.given_until_ns,
            decision.decision_id,
            unpriced,
        )

    def _candidates_instead(self, refused: BudgetError) -> tuple[Candidate, ...]:
        """Return the candidates that may be served where the first one was refused; none: nobody may."""
        if isinstance(refused, PriceUnknown):
            prices = self._desk.budget.prices
            return tuple(c for c in self.decision.candidates if prices.of(c.deployment).known)
        return self._cheaper_candidates() if _lies_in_the_tier(refused) else ()

    def _cheaper_candidates(self) -> tuple[Candidate, ...]:
        """Return the candidates of lower tiers that no part makes dearer than the first one."""
        first = self.decision.deployment.tier
        return tuple(
            candidate
            for candidate in self.decision.candidates
            if candidate.deployment.tier.order < first.order
            and not Tariff.of(candidate.deployment, self._desk.budget.prices).is_dearer_than(self._tariff)
        )

    def is_held_for(self, deployment: Deployment) -> bool:
        """Tell whether what is held was weighed for this deployment the last time."""
        return deployment is self._held_for

    async def weigh(self, deployment: Deployment) -> bool:
        """Hold what another candidate can use instead; False: it is too dear, and no candidate."""
        held = self.reservation
        tariff = self._kept.get(deployment.name) or Tariff.of(deployment, self._desk.budget.prices)
        dearest = self._is_dearest(deployment)
        self._tariffs[deployment.name] = tariff
        self._held_for = None
        if held is None or (tariff == self._tariff and (self._held_for_dearest or not dearest)):
            return True
        if held.dollars_limited and not tariff.price.known:
            log.info("candidate.price_unknown", deployment=deployment.name)
            return False
        before, held_before = self._tariff, self._held
        prompt = tariff.prompt(self.decision.estimated.prompt_tokens)
        output = tariff.output(held.max_output, prompt_tokens=self.decision.estimated.prompt_tokens)
        # Should this be cut short, nobody knows which of both is held: the lesser amounts surely are.
        self._held = held_before.at_most(prompt + output)
        if before.is_dearer_than(tariff):
            self._tariff = tariff
        try:
            again = await self._desk.settler.reweight(
                held.reservation_id,
                prompt,
                output,
                tier=deployment.tier.name,
                dearest=dearest,
            )
        except BudgetError as refused:
            log.info("candidate.too_dear", deployment=deployment.name, code=refused.code)
            self._tariff, self._held = before, held_before
            return False
        self._tariff, self._held_for_dearest = tariff, dearest
        self._held = again.amounts
        return True

    def _is_dearest(self, deployment: Deployment) -> bool:
        return deployment.tier.order == self._desk.budget.dearest_order

    @property
    def at_work(self) -> bool:
        """Tell whether an engine has the request now."""
        return any(attempt.ended_ns is None for attempt in self.attempts)

    @property
    def output_cap(self) -> int:
        """Return the most tokens that an engine can generate for this request."""
        return self.decision.max_output_tokens * self.request.n

    @property
    def budget_remaining(self) -> int | None:
        """Return what the tightest limit leaves: as the hold found it, less the hold or the charge."""
        held = self.reservation
        if held is None or held.remaining is None or not self.closed:
            return held.remaining if held is not None else None
        return max(0, held.remaining + held.amounts.tokens - self._charged_tokens)

    def close(
        self, status: OutcomeStatus, *, reply: Reply | None = None, error: TrivetError | None = None
    ) -> Ending | None:
        """Book the request's end; a plain call that cannot be interrupted. Idempotent.

        Returns:
            The hold on its way to its end, when there was one.
        """
        if self.closed:
            return None
        self.closed = True
        charges = self._charges(status, reply)
        usage, charged, last = charges.usage, charges.charged, charges.last
        self._charged_tokens = charged.tokens
        self.admitted.end(usage.total_tokens if usage is not None else 0)
        if last is not None:
            last.attempt.usage = last.usage
        for charge in charges.earlier:
            charge.attempt.usage = charge.usage
        principal, request = self.principal, self.request
        ended_ns, error_code = self._desk.clock.monotonic_ns(), error.code if error is not None else None
        # By position, as each request makes one: by keyword it takes three times as long.
        outcome = Outcome(
            self.request_id,
            principal.key_id,
            principal.scope,
            self.decision,
            request.hints,
            request.stream,
            self.started_ns,
            ended_ns,
            status,
            self.attempts,
            usage,
            error_code,
            charged,
            self.saved_device_ns,
        )
        # Who was sent away with nothing held or tried leaves no record: load is what there is too much of.
        unrecorded = isinstance(error, Overloaded) and self.reservation is None and not self.attempts
        ending = None
        if not unrecorded:
            ending = self._settle(charges, lambda: self._records_of(outcome, reply))
        try:
            self._desk.announce(outcome)
        except Exception as fault:  # noqa: BLE001 - listeners get copies, and may fail without loss
            log.warning("announcement.failed", error=type(fault).__name__)
        return ending

    def _records_of(self, outcome: Outcome, reply: Reply | None) -> AlsoWrite:
        write = self._desk.row_writer(outcome)
        if self.keep is None or reply is None or outcome.status != "ok":
            return write
        keep = self.keep(outcome, reply)

        def both(connection: sqlite3.Connection) -> None:
            write(connection)
            keep(connection)

        return both

    def _settle(self, charges: Charges, also: MakeAlso) -> Ending | None:
        if self.reservation is None:
            self._desk.settler.note(also)
            return None
        reach("before_settle")
        name, last = self.reservation.reservation_id, charges.last
        if last is not None and not charges.earlier:
            return self._desk.settler.settle(name, last.usage, last.charged, also)
        if last is None and not charges.earlier:
            return self._desk.settler.release(name, also)
        usage, charged = charges.own
        return self._desk.settler.settle(name, usage, charged, also, earlier=charges.entries)

    def _charges(self, status: OutcomeStatus, reply: Reply | None) -> Charges:
        """Return what the tenant owes for each attempt."""
        if self.reservation is None or not self.attempts:
            return Charges()
        bill = Bill(self.decision, self.request.stream, self.output_cap, self._held, self._tariffs)
        return bill.charges(self.attempts, status, reply)


def _lies_in_the_tier(refused: BudgetError) -> bool:
    """Tell whether a cheaper tier may be allowed where this one was refused; tokens are tokens anywhere."""
    return isinstance(refused, ApprovalRequired) or refused.details.get("meter") != "tokens"
