"""Decisions that are carried out later: by an outside caller, which reports, or by Trivet itself."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from trivet.access import Admitted
from trivet.budgets.outside import OutsideCall, OutsideCalls
from trivet.domain.budgets import Reservation, Settlement
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision, Offer
from trivet.domain.errors import (
    DecisionSpent,
    NoCandidate,
    NotFound,
    RequestMalformed,
    StoreUnavailable,
)
from trivet.domain.outcomes import Outcome, Usage
from trivet.domain.requests import ChatRequest, Needs, Principal
from trivet.domain.scopes import Scope, contains
from trivet.domain.tiers import Deployment
from trivet.execution.decision_record import (
    decision_of,
    hints_of,
    record_of,
    reservation_of,
    tariff_of,
)
from trivet.execution.settler import AlsoWrite, Ending, Settler
from trivet.execution.tariff import Tariff
from trivet.routing.refit import refit
from trivet.storage.instants import ns_of

RECENT_MAX = 2048
LARGEST_COUNT = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A hold that an outside caller has got."""

    decision: Decision
    reservation: Reservation
    expires_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return what the caller has to know beside the decision."""
        return {
            "reservation_id": self.reservation.reservation_id,
            "expires_at": self.expires_at.isoformat(),
            "max_tokens": self.decision.max_output_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an outside caller says that it used."""

    prompt_tokens: int
    completion_tokens: int
    latency_ms: float | None = None
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """A decision to be executed now; with its hold and what that was made at, if it has one."""

    decision: Decision
    admitted: Admitted
    reservation: Reservation | None = None
    tariff: Tariff | None = None


@dataclass(frozen=True, slots=True)
class _Recent:
    scope: Scope
    decision: Decision
    asked_model: str
    until_ns: int


class Outside:
    """Remembers decisions for a while, and gives each held one to whoever takes it up first."""

    def __init__(
        self,
        calls: OutsideCalls,
        settler: Settler,
        row_writer: Callable[[Outcome], AlsoWrite],
        announce: Callable[[Outcome], None],
        *,
        lifetime_s: float,
        deadline_s: float,
        clock: Clock,
    ) -> None:
        """Take the rooms.

        Args:
            calls: what was given out.
            settler: ends holds.
            row_writer: records outcomes.
            announce: tells of them.
            lifetime_s: how long a decision may wait to be carried out.
            deadline_s: how long an execution may take.
            clock: both clocks.
        """
        self._calls = calls
        self._settler = settler
        self._row_writer = row_writer
        self._announce = announce
        self._lifetime_s = lifetime_s
        self._deadline_s = deadline_s
        self._clock = clock
        self._recent: OrderedDict[str, _Recent] = OrderedDict()

    def expiry(self) -> datetime:
        """Return when a decision that is made now runs out."""
        return self._clock.now() + timedelta(seconds=self._lifetime_s)

    def remember(self, decision: Decision, request: ChatRequest, principal: Principal) -> None:
        """Keep a decision that holds nothing, in memory, for as long as a held one lives."""
        until_ns = self._clock.monotonic_ns() + int(self._lifetime_s * 1e9)
        self._recent[decision.decision_id] = _Recent(principal.scope, decision, request.model, until_ns)
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    async def give(
        self,
        decision: Decision,
        request: ChatRequest,
        principal: Principal,
        reservation: Reservation,
        tariff: Tariff,
        expires_at: datetime,
    ) -> Promise:
        """Write down what was held for the caller.

        Raises:
            StoreUnavailable: it could not be; the hold must be given back.
        """
        call = OutsideCall(
            decision_id=decision.decision_id,
            scope=principal.scope,
            key_id=principal.key_id,
            facts=record_of(decision, request, reservation, tariff),
        )
        await asyncio.wrap_future(self._calls.keep(call))
        return Promise(decision=decision, reservation=reservation, expires_at=expires_at)

    async def take(
        self,
        decision_id: str,
        request: ChatRequest,
        needs: Needs,
        principal: Principal,
        offers: Sequence[Offer],
        *,
        admit: Callable[[Decision], Awaitable[Admitted]],
    ) -> Taken:
        """Return a decision of the caller's tenant to execute it now; a held one can be taken once.

        `admit` asks the rate limits, before a hold is taken: whoever is refused may come again for it.

        Raises:
            RateLimitExceeded: too much at once.
            NotFound: there is none, or not the caller's.
            DecisionSpent: it was executed or reported already, or has run out.
            RequestMalformed: the body does not fit what was decided on and held.
        """
        recent = self._recent.get(decision_id)
        if recent is not None and contains(principal.scope, recent.scope):
            if recent.until_ns <= self._clock.monotonic_ns():
                raise DecisionSpent(
                    f"The decision {decision_id[:40]} has run out.",
                    hint="POST /api/v1/route decides anew.",
                    param="x-trivet-decision-id",
                )
            decision = refit(
                recent.decision, request, needs, principal, asked_model=recent.asked_model, held_output=None
            )
            return Taken(decision, await admit(decision))
        call = await self._find(decision_id, principal)
        deployments: dict[str, Deployment] = {offer.deployment.name: offer.deployment for offer in offers}
        reservation = reservation_of(decision_id, call.scope, call.facts)
        decision = refit(
            decision_of(decision_id, call.facts, deployments),
            request,
            needs,
            principal,
            asked_model=call.facts["model"],
            held_output=reservation.max_output,
        )
        until_ns = ns_of(self._clock.now()) + int(self._deadline_s * 1e9)
        admitted = await admit(decision)
        try:
            await self._settler.take(
                lambda: self._calls.take_to_execute(decision_id, until_ns=until_ns), decision_id
            )
        except BaseException:
            admitted.end(0)
            raise
        return Taken(decision, admitted, reservation, tariff_of(call.facts))

    async def report(
        self, decision_id: str, report: Report, principal: Principal, offers: Sequence[Offer]
    ) -> Settlement:
        """Settle a hold by what its caller says that it used; repeated, the first report counts.

        One that comes after its hold has run out, and was charged in full, corrects that.

        Raises:
            NotFound: nothing was held under this id, or not for the caller's tenant.
            DecisionSpent: Trivet executes or executed the request itself.
            RequestMalformed: a figure is senseless.
            StoreUnavailable: it could not be written down; the report may be repeated.
        """
        _check(report)
        call = await self._find(decision_id, principal)
        deployments = {offer.deployment.name: offer.deployment for offer in offers}
        await asyncio.wrap_future(self._calls.take_to_report(decision_id))
        usage = Usage(report.prompt_tokens, report.completion_tokens, "reported")
        ended_ns = self._clock.monotonic_ns()
        charged = tariff_of(call.facts).charge(usage)
        try:
            decision = decision_of(decision_id, call.facts, deployments)
        except NoCandidate:
            # What served it is configured no more; the charge stands all the same, without a record.
            return await self._settled(self._settler.settle(decision_id, usage, charged, _no_record))
        outcome = Outcome(
            request_id=decision_id,
            key_id=call.key_id,
            scope=call.scope,
            decision=decision,
            hints=hints_of(call.facts),
            stream=call.facts["stream"],
            started_ns=ended_ns - int((report.latency_ms or 0.0) * 1e6),
            ended_ns=ended_ns,
            status="ok" if report.ok else "failed",
            usage=usage,
            charged=charged,
        )
        settlement = await self._settled(
            self._settler.settle(decision_id, usage, charged, lambda: self._row_writer(outcome))
        )
        if not settlement.repeated:
            self._announce(outcome)
        return settlement

    async def _settled(self, ending: Ending) -> Settlement:
        settlement = await ending
        if settlement is None:
            raise StoreUnavailable("The report could not be written down.", hint="Send it again.")
        return settlement

    async def _find(self, decision_id: str, principal: Principal) -> OutsideCall:
        call = await self._calls.find(decision_id)
        if call is None or not (principal.is_admin or contains(principal.scope, call.scope)):
            raise NotFound(
                f"There is no decision {decision_id[:40]!a} that waits.",
                hint="POST /api/v1/route decides; with reserve: true it holds, too.",
                param="x-trivet-decision-id",
            )
        return call


def _no_record() -> AlsoWrite:
    return lambda _: None


def _check(report: Report) -> None:
    for name in ("prompt_tokens", "completion_tokens"):
        if not 0 <= getattr(report, name) <= LARGEST_COUNT:
            raise RequestMalformed(f"{name} must be a whole number from 0.", param=name)
    if report.latency_ms is not None and not 0 <= report.latency_ms <= LARGEST_COUNT:
        raise RequestMalformed("latency_ms must be a number from 0.", param="latency_ms")
