"""The request in nine verbs: authenticate (at the door), describe, decide, admit, reserve, attempt,
relay, settle, announce.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from trivet.access import Admitted, RateLimits, SharedRates, require_inference
from trivet.budgets.outside import OutsideCalls
from trivet.domain.budgets import Amounts, Settlement
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision, Offer
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import (
    ApprovalRequired,
    BudgetError,
    IdempotencyError,
    Overloaded,
    RateLimitExceeded,
    Stopping,
    StoreUnavailable,
    TrivetError,
)
from trivet.domain.failpoints import reach
from trivet.domain.ids import new_id
from trivet.domain.outcomes import Outcome, OutcomeStatus
from trivet.domain.requests import ChatRequest, Principal
from trivet.execution.admission import LIKELY_BYTES_PER_TOKEN
from trivet.execution.answer import Answer
from trivet.execution.boarding import find_place
from trivet.execution.chain import Chain
from trivet.execution.drain import Drain
from trivet.execution.memory import AnswerMemory
from trivet.execution.outside import Outside, Promise, Report, Taken
from trivet.execution.run import Budgeting, Desk, Keep, Run
from trivet.execution.settler import Settler
from trivet.execution.tariff import Tariff
from trivet.fleet import Fleet
from trivet.metering import Metrics, UsageRecords
from trivet.routing import Router, describe
from trivet.storage.instants import ns_of

log = structlog.get_logger(__name__)


class Pipeline:
    """Introduces the rooms to one another, one request at a time."""

    def __init__(
        self,
        *,
        router: Router,
        fleet: Fleet,
        settler: Settler,
        chain: Chain,
        records: UsageRecords,
        metrics: Metrics,
        text_limit_chars: int,
        budget: Budgeting,
        rates: RateLimits,
        outside_calls: OutsideCalls,
        clock: Clock,
        memory: AnswerMemory | None = None,
        shared_rates: SharedRates | None = None,
        listener: Callable[[Outcome], None] | None = None,
        journal: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._router = router
        self._fleet = fleet
        self._settler = settler
        self._chain = chain
        self._records = records
        self._metrics = metrics
        self._text_limit_chars = text_limit_chars
        self._desk = Desk(
            settler=settler, budget=budget, clock=clock, row_writer=records.writer, announce=self.announce
        )
        self._rates = rates
        self._clock = clock
        self._memory = memory
        self._listener = listener
        self._journal = journal or _log_done
        self.drain = Drain()
        """Whether requests are taken."""
        self._shared_rates = shared_rates
        self._outside = Outside(
            outside_calls,
            settler,
            records.writer,
            self.announce,
            lifetime_s=budget.outside_hold_s,
            deadline_s=budget.deadline_s,
            clock=clock,
        )

    def decide(self, request: ChatRequest, principal: Principal, *, patient: bool = False) -> Decision:
        """Describe the request and choose its candidates; nothing is held and nothing is sent.

        `patient`: of models that share memory none is preferred because it happens to be there.

        Raises:
            ModelUnknown, ContextTooLong, NoCandidate, PermissionDenied, RequestMalformed
        """
        try:
            needs = describe(request, text_limit_chars=self._text_limit_chars)
            return self._router.decide(
                request,
                needs,
                [_awake(offer) for offer in self._offers()] if patient else self._offers(),
                principal=principal,
                decision_id=new_id(),
                pressure=self._settler.pressing(principal.scope),
            )
        except TrivetError as error:
            self._metrics.refused(error.code)
            raise

    async def execute(
        self,
        request: ChatRequest,
        principal: Principal,
        *,
        request_id: str,
        on_wait: Callable[[Decision], None] | None = None,
        decision: Decision | None = None,
        keep: Keep | None = None,
    ) -> Answer:
        """Serve the request; return once the first content has arrived (a plain answer: all of it).

        `on_wait` is called with the decision when a model must be waited for, perhaps several times.
        `decision` was made by `decide` just now; else it is made here. `keep` gives a write for the
        transaction that charges for a whole plain answer.

        The answer must be closed by the caller. Cancelling this call cancels the work upstream; what
        was held is settled or released in every case.

        Raises:
            TrivetError: see `decide`; RateLimitExceeded before anything is held; BudgetError and
                StoreUnavailable when the hold is refused; EngineError when no candidate produced content;
                Stopping when Trivet was told to stop before an engine had the request.
        """
        require_inference(principal)
        self.drain.check()
        started_ns = self._clock.monotonic_ns()
        reservation, tariff = None, None
        decided_here = decision is None and request.decision_id is None
        if request.decision_id is None:
            if decision is None:
                decision = await self._decided(request, principal)
            admitted = await self._admit(request, principal, decision)
        else:
            taken = await self._take(request.decision_id, request, principal)
            decision, admitted = taken.decision, taken.admitted
            reservation, tariff = taken.reservation, taken.tariff
        run = Run(self._desk, request_id, principal, request, decision, started_ns, admitted, on_wait)
        run.keep = keep
        wait = self.drain.opened(request_id, run)
        if reservation is not None and tariff is not None:
            run.adopt(reservation, tariff)
        try:
            if self._memory is not None and (kept := await self._memory.recall(run)) is not None:
                return _settled_if_whole(kept)
            with wait:
                # An engine's tokenizer takes no place from those that generate.
                if run.computes and not self._chain.admission.enter(run.entry, decision.deployment):
                    again = partial(self.decide, request, principal) if decided_here else None
                    await find_place(run, self._chain, again=again)
                await run.hold()
                reach("after_reserve")
                if run.decision.passed_over is not None:
                    self._fleet.wish(run.decision.passed_over)
                reply, running = await self._chain.first_content(run)
        except BaseException as error:
            await self._broken_off(run, error)
            raise
        if self._memory is not None:
            reply = self._memory.watch(run, reply)
        return _settled_if_whole(Answer(run, reply, running))

    async def route(self, request: ChatRequest, principal: Principal) -> Decision:
        """Decide, for the caller's information or for a later `execute`; nothing is held.

        Raises:
            TrivetError: see `decide`.
        """
        decision = await self._decided(request, principal)
        self._outside.remember(decision, request, principal)
        return decision

    def ceiling(self, decision: Decision, n: int) -> tuple[Amounts, bool]:
        """Return the most that `n` choices can take of each meter at the first candidate, and whether that
        candidate's price is known.
        """
        tariff = Tariff.of(decision.deployment, self._desk.budget.prices)
        prompt = decision.estimated.prompt_tokens
        output = tariff.output(decision.max_output_tokens * n, prompt_tokens=prompt)
        return tariff.prompt(prompt) + output, tariff.price.known

    async def reserve(self, request: ChatRequest, principal: Principal) -> Promise:
        """Decide, and hold budget for a caller that executes elsewhere and reports, or executes here later.

        Raises:
            TrivetError: see `execute`, but for the engines' errors.
        """
        require_inference(principal)
        self.drain.check()
        started_ns = self._clock.monotonic_ns()
        decision = await self._decided(request, principal)
        admitted = await self._admit(request, principal, decision)
        run = Run(self._desk, decision.decision_id, principal, request, decision, started_ns, admitted)
        expires_at = self._outside.expiry()
        run.given_until_ns = ns_of(expires_at)
        try:
            await run.hold()
            assert run.reservation is not None  # noqa: S101 - or it would have raised
            promise = await self._outside.give(
                run.decision, request, principal, run.reservation, run.tariff, expires_at
            )
        except BaseException as error:
            await self._broken_off(run, error)
            raise
        run.admitted.end(None)
        return promise

    async def report(self, decision_id: str, report: Report, principal: Principal) -> Settlement:
        """Settle a hold by its caller's report; see `Outside.report`."""
        require_inference(principal)
        return await self._outside.report(decision_id, report, principal, self._fleet.offers())

    async def _decided(self, request: ChatRequest, principal: Principal) -> Decision:
        """Decide; of a refusal for a budget's sake tell which budget that is."""
        try:
            return self.decide(request, principal)
        except ApprovalRequired as refused:
            refused.details = {**await self._settler.fullest(principal.scope), **refused.details}
            raise

    def _tell_what_works(self, refused: ApprovalRequired, run: Run) -> None:
        """Name the tiers that would serve the request without the approval that the ledger asks for."""
        tiers = self._router.cheaper_tiers(
            run.request,
            describe(run.request, text_limit_chars=self._text_limit_chars),
            self._offers(),
            principal=run.principal,
            below=run.decision.deployment.tier.order,
        )
        refused.details["still_works"] = [f"tier {name}" for name in tiers]

    async def _take(self, decision_id: str, request: ChatRequest, principal: Principal) -> Taken:
        try:
            needs = describe(request, text_limit_chars=self._text_limit_chars)
            return await self._outside.take(
                decision_id,
                request,
                needs,
                principal,
                self._fleet.offers(),
                admit=lambda decision: self._admit(request, principal, decision),
            )
        except TrivetError as error:
            if not isinstance(error, RateLimitExceeded):  # which is counted where it is raised
                self._metrics.refused(error.code)
            raise

    async def _broken_off(self, run: Run, error: BaseException) -> None:
        """Book the end of a request that failed, and tell the caller what had been decided."""
        run.entry.close()
        refused = error if isinstance(error, TrivetError) else None
        ending = run.close(_status_of(error), error=refused)
        if refused is None:
            return
        if isinstance(refused, ApprovalRequired):
            self._tell_what_works(refused, run)
        decision = run.decision
        refused.details.update(decision_id=decision.decision_id, tier=decision.deployment.tier.name)
        if ending is not None:
            await ending

    async def _admit(self, request: ChatRequest, principal: Principal, decision: Decision) -> Admitted:
        """Ask the rate limits. The ceiling of a prompt counts bytes, of which a token has four or so."""
        likely = decision.estimated.prompt_tokens // LIKELY_BYTES_PER_TOKEN
        try:
            tokens = likely + decision.max_output_tokens * request.n
            if self._shared_rates is not None:
                return await self._shared_rates.admit(principal.scope, tokens)
            return self._rates.admit(principal.scope, tokens)
        except RateLimitExceeded as refused:
            self._metrics.refused(refused.code)
            raise

    def _offers(self) -> Sequence[Offer]:
        offers, shut = self._fleet.offers(), self._chain.breakers.shut()
        if not shut:
            return offers
        return [
            replace(offer, state="open")
            if offer.state == "ready" and offer.deployment.name in shut
            else offer
            for offer in offers
        ]

    def announce(self, outcome: Outcome) -> None:
        """Tell metrics, the cache and the log what became of a request."""
        self.drain.closed(outcome.request_id)
        if self._memory is not None:
            self._memory.learn(outcome)
        self._metrics.observe(outcome)
        if self._listener is not None:
            self._listener(outcome)
        self._journal(outcome)


def _log_done(outcome: Outcome) -> None:
    log.info(**outcome.words())


def _settled_if_whole(answer: Answer) -> Answer:
    """Settle a plain answer, which is there as a whole; a stream is settled when it ends."""
    if not answer.run.request.stream:
        answer.complete()
    return answer


def _awake(offer: Offer) -> Offer:
    """Return a model that shares memory as if it were there, unless something is wrong with it."""
    if offer.deployment.swap_group is None or offer.state in (EngineState.FAILED, EngineState.DOWN, "open"):
        return offer
    return replace(offer, state=EngineState.READY, in_flight=0, wait_s=0.0)


def _status_of(error: BaseException) -> OutcomeStatus:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    refusals = BudgetError | IdempotencyError | StoreUnavailable | Overloaded | Stopping
    return "refused" if isinstance(error, refusals) else "failed"
