"""What follows from the deployments that are there, kept until others are there.

Requests differ in their text and little else. Most are of one of a few kinds, and for all of a kind the tiers
that may serve, the deployments that can, and the words for it are the same. What changes by itself is read
each time: the engines' states, the requests in flight, how full a budget is.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from trivet.domain.decisions import Candidate, Offer, Reason, Rejection
from trivet.domain.engine_states import EngineState
from trivet.domain.requests import ChatRequest, Needs, Principal
from trivet.domain.tiers import Deployment, Tier
from trivet.routing.availability import availability_reasons, passed_over
from trivet.routing.policies import Policy
from trivet.routing.scoring import scored
from trivet.routing.steering import Aim

KINDS_MAX = 1024
"""Kinds of requests that are kept; callers choose some of what they differ in."""
SCORED_MAX = 8192
"""Scores that are kept, of so many requests in flight somewhere under one aim."""

RANKINGS_MAX = 64
"""Orders that a plan keeps, of so many requests in flight at each of its deployments."""

_READY = EngineState.READY
_score = attrgetter("score")


Kind = tuple[Hashable, ...]
"""All of a request that its plan depends on, but for the length of its prompt and a filling budget."""


def kind_of(request: ChatRequest, needs: Needs, recommended_tier: str, principal: Principal | None) -> Kind:
    """Return the kind of a request; of who asks count the role and the limits of the key."""
    hints = request.hints
    asks = (
        request.model,
        request.surface,
        recommended_tier,
        needs.task_type,
        needs.capabilities,
        hints.min_tier,
        hints.max_tier,
        hints.local_only,
    )
    return asks if principal is None else (*asks, principal.role, principal.tiers, principal.models)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan comes to with one deployment in front."""

    reasons: tuple[Reason, ...]
    rejected: tuple[Rejection, ...]
    """With their differences from the chosen one."""
    passed_over: str | None = None


@dataclass(slots=True, kw_only=True)
class Plan:
    """Where the requests of one kind are aimed, and who may serve them."""

    policy: Policy
    aim: Aim
    downgraded_from: str | None
    eligible: tuple[int, ...]
    """Positions among the deployments; never empty."""
    rejected: tuple[Rejection, ...]
    """As far as the caller may know of them."""
    window_tokens: int
    """The least context window of those that may serve: what surely fits it is of this plan."""
    template_tokens: int
    """The most that a chat template of theirs adds."""
    pooled: bool
    """Whether any of them is one endpoint of several."""
    _outlooks: dict[str, Outlook] = field(default_factory=dict)
    rankings: dict[tuple[int, ...], tuple[Candidate, ...]] = field(default_factory=dict)
    """Of its deployments, all of them ready, by the requests that each has in flight."""

    def outlook(
        self, offers: Sequence[Offer], candidates: Sequence[Candidate], tiers: Sequence[Tier], *, ready: bool
    ) -> Outlook:
        """Return what is to be said of the candidates; `ready`: all of them are, which is kept."""
        chosen = candidates[0].deployment
        known = self._outlooks.get(chosen.name) if ready else None
        if known is not None:
            return known
        eligible = [offers[position] for position in self.eligible]
        outlook = Outlook(
            (
                *self.aim.reasons,
                *availability_reasons(self.aim, tiers, eligible, self.rejected, candidates),
            ),
            tuple(_compared(rejection, chosen) for rejection in self.rejected),
            passed_over(candidates),
        )
        if ready:
            self._outlooks[chosen.name] = outlook
        return outlook


class Roster:
    """The deployments that are there, with the plans for them and what the ready ones score."""

    def __init__(self, deployments: tuple[Deployment, ...], tier_count: int) -> None:
        self.deployments = deployments
        self._tier_count = tier_count
        self._plans: dict[Kind, Plan] = {}
        self._scored: dict[tuple[int, int, bool, int], Candidate] = {}

    def plan(self, kind: Kind) -> Plan | None:
        """Return the plan of a kind of requests, if one is kept."""
        return self._plans.get(kind)

    def keep(self, kind: Kind, plan: Plan) -> None:
        """Keep a plan as long as the roster is."""
        if len(self._plans) >= KINDS_MAX:
            self._plans.clear()
        self._plans[kind] = plan

    def ranked(self, offers: Sequence[Offer], plan: Plan) -> tuple[tuple[Candidate, ...], bool]:
        """Return those that may serve, best first, as `scoring.rank` does, and whether all are ready."""
        in_flight: list[int] = []
        for position in plan.eligible:
            offer = offers[position]
            if offer.state != _READY:
                return self._ranked(offers, plan), False
            in_flight.append(offer.in_flight)
        busy = tuple(in_flight)
        ranking = plan.rankings.get(busy)
        if ranking is None:
            if len(plan.rankings) >= RANKINGS_MAX:
                plan.rankings.clear()
            ranking = plan.rankings[busy] = self._ranked(offers, plan)
        return ranking, True

    def _ranked(self, offers: Sequence[Offer], plan: Plan) -> tuple[Candidate, ...]:
        aim, known = plan.aim, self._scored
        found: list[Candidate] = []
        for position in plan.eligible:
            offer = offers[position]
            if offer.state != _READY:
                found.append(self._score(offer, aim))
                continue
            standing = position, aim.order, aim.prefers_cheaper, offer.in_flight
            candidate = known.get(standing)
            if candidate is None:
                if len(known) >= SCORED_MAX:
                    known.clear()
                candidate = known[standing] = self._score(offer, aim)
            found.append(candidate)
        found.sort(key=_score, reverse=True)
        return tuple(found)

    def _score(self, offer: Offer, aim: Aim) -> Candidate:
        return scored(
            offer,
            target_order=aim.order,
            tier_count=self._tier_count,
            prefers_cheaper=aim.prefers_cheaper,
        )


def _compared(rejection: Rejection, chosen: Deployment) -> Rejection:
    difference = rejection.deployment.tier.cost_weight - chosen.tier.cost_weight
    return replace(rejection, cost_difference=round(difference, 6))
