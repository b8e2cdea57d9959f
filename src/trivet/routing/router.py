"""The decision: which tier should serve, which deployments may, in which order, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from operator import itemgetter, mul

from trivet.config.settings import PolicySettings, RoutingSettings
from trivet.domain.budgets import Pressure
from trivet.domain.decisions import Complexity, Decision, Estimate, Offer, Reason, Rejection
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import ApprovalRequired
from trivet.domain.requests import ChatRequest, Needs, Principal
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import Deployment, Tier
from trivet.routing.affinity import arranged
from trivet.routing.complexity import FACTOR_WEIGHTS, ComplexityEstimator, confidence
from trivet.routing.eligibility import (
    CONTEXT_TOO_SMALL,
    Terms,
    judge,
    least_tokens,
    refusal,
    require_tier,
    told,
)
from trivet.routing.embedding_model import embedding_aim
from trivet.routing.features import prompt_ceiling_tokens
from trivet.routing.output import output_cap
from trivet.routing.policies import Policy, PolicyBook, TierRange, tier_range
from trivet.routing.roster import Plan, Roster, kind_of
from trivet.routing.steering import Aim, steered, steers
from trivet.routing.target import find_target

_FACTORS, _WEIGHTS = tuple(FACTOR_WEIGHTS), tuple(FACTOR_WEIGHTS.values())
_in_order = itemgetter(*_FACTORS)


class Router:
    """Decides; does no input or output, and keeps nothing between requests that could change a decision."""

    def __init__(self, settings: RoutingSettings, tiers: Sequence[Tier]) -> None:
        """Take the routing section and the tiers.

        Args:
            settings: policies, task types, the fixed tier.
            tiers: the configuration's, at least one; their `order` is their position.
        """
        self._enabled = settings.enabled
        self._book = PolicyBook(
            policies={name: _policy(name, told) for name, told in settings.policies.items()},
            task_types=settings.task_types,
            default=settings.default_policy,
        )
        self._tiers = tuple(sorted(tiers, key=lambda tier: tier.order))
        self._estimator = ComplexityEstimator(self._tiers, text_limit_chars=settings.text_limit_chars)
        self._orders = {tier.name: position for position, tier in enumerate(self._tiers)}
        # Of four digits, so there are few.
        self._confidence = lru_cache(maxsize=None)(partial(confidence, tiers=self._tiers))
        self._roster = Roster((), len(self._tiers))
        self._fixed = self._orders.get(settings.fixed_tier, len(self._tiers) // 2)

    def decide(
        self,
        request: ChatRequest,
        needs: Needs,
        offers: Sequence[Offer],
        *,
        principal: Principal | None,
        decision_id: str,
        pressure: Pressure | None = None,
    ) -> Decision:
        """Choose the candidates of one request, best first, with every reason and every rejection.

        Args:
            request: as `parse_request` returned it.
            needs: as `describe` returned it.
            offers: every deployment as the fleet sees it now, in the order of the configuration.
            principal: who asks; None where nobody's key limits anything.
            decision_id: the decision's name in records and headers.
            pressure: how full the caller's budgets are; None: that does not count.

        Raises:
            ModelUnknown: `model` names nothing.
            RequestMalformed: a hint names no tier, or the hints exclude each other.
            ContextTooLong: the prompt fits no context window that is allowed.
            PermissionDenied: the key allows none of the deployments, or not the tier asked for by name.
            NoCandidate: they are ruled out for several reasons; `details["rejected"]` lists them.
            ApprovalRequired: a budget allows only lower tiers, and they cannot serve the request.
        """
        complexity = self._estimator.score(
            needs.text, needs.context_tokens, needs.agent_capabilities, needs.history_length
        )
        roster = self._present(offers)
        plan = self._plan(roster, request, needs, complexity, offers, principal, pressure)
        candidates, ready = roster.ranked(offers, plan)
        if plan.pooled:
            candidates = tuple(arranged(candidates, offers, request, principal.scope if principal else ""))
        outlook = plan.outlook(offers, candidates, self._tiers, ready=ready)
        aim, policy, chosen = plan.aim, plan.policy, candidates[0].deployment
        cap, output_reasons = output_cap(request.max_tokens, policy, chosen, needs)
        reasons, sure = (*outlook.reasons, *output_reasons), 1.0
        if aim.strategy == "complexity":
            score, tier = complexity.score, complexity.recommended_tier
            reasons = (_complexity_reason(score, _heaviest(complexity.factors), tier), *reasons)
            sure = self._confidence(score) if aim.order == self._orders[tier] else 1.0
        return Decision(
            decision_id=decision_id,
            complexity=complexity,
            confidence=sure,
            policy=policy.name,
            strategy=aim.strategy,
            reasons=reasons,
            candidates=candidates,
            rejected=outlook.rejected,
            passed_over=outlook.passed_over,
            downgraded_from=plan.downgraded_from,
            temperature=chosen.tier.temperature if policy.temperature is None else policy.temperature,
            max_output_tokens=cap,
            # A ceiling whichever candidate serves in the end, so that the hold survives a fallback.
            estimated=Estimate(prompt_ceiling_tokens(needs, plan.template_tokens), cap),
        )

    def _present(self, offers: Sequence[Offer]) -> Roster:
        """Return the roster of the deployments that are there, a new one if they are others than before."""
        deployments, roster = tuple([offer.deployment for offer in offers]), self._roster
        if deployments != roster.deployments:
            roster = self._roster = Roster(deployments, len(self._tiers))
        return roster

    def _plan(
        self,
        roster: Roster,
        request: ChatRequest,
        needs: Needs,
        complexity: Complexity,
        offers: Sequence[Offer],
        principal: Principal | None,
        pressure: Pressure | None,
    ) -> Plan:
        """Return the plan for requests of this kind, which is kept unless a budget has a say in it."""
        if steers(pressure):
            return self._made(request, needs, complexity, offers, principal, pressure)[0]
        kind = kind_of(request, needs, complexity.recommended_tier, principal)
        plan = roster.plan(kind)
        if plan is None or least_tokens(needs) >= plan.window_tokens:
            plan, keeps = self._made(request, needs, complexity, offers, principal, None)
            if keeps:
                roster.keep(kind, plan)
        return plan

    def _made(
        self,
        request: ChatRequest,
        needs: Needs,
        complexity: Complexity,
        offers: Sequence[Offer],
        principal: Principal | None,
        pressure: Pressure | None,
    ) -> tuple[Plan, bool]:
        """Return a plan for the request, and whether it is right for shorter and somewhat longer prompts."""
        wanted = self._aim(request, needs, complexity, offers, principal)
        aim = steered(wanted, self._tiers, complexity, request.hints, pressure)
        terms = self._terms(request, needs, principal, aim.range, aim.pinned)
        terms = terms if aim.only_model is None else replace(terms, only_model=aim.only_model)
        eligible, rejected = self._judged(offers, terms, aim, wanted)
        serving = [offers[position].deployment for position in eligible]
        plan = Plan(
            policy=self._book.find(needs.task_type),
            aim=aim,
            downgraded_from=self._tiers[wanted.order].name if aim.enforced_from else None,
            eligible=tuple(eligible),
            rejected=tuple(told(rejected, principal)),
            window_tokens=min(each.context_tokens for each in serving),
            template_tokens=max(each.template_tokens for each in serving),
            pooled=any(each.endpoint_of is not None for each in serving),
        )
        return plan, all(rejection.code != CONTEXT_TOO_SMALL for rejection in rejected)

    def _judged(
        self, offers: Sequence[Offer], terms: Terms, aim: Aim, wanted: Aim
    ) -> tuple[list[int], list[Rejection]]:
        """Return the positions of what may serve, at least one, and what may not."""
        eligible, rejected = judge(offers, terms)
        if aim.insists is not None and eligible:
            raise self._withheld(aim.insists, wanted, terms, offers)
        if not eligible and aim is not wanted and judge(offers, replace(terms, range=wanted.range))[0]:
            raise self._withheld("no cheaper tier can serve this request", wanted, terms, offers)
        if not eligible:
            raise refusal(rejected, terms.principal)
        return eligible, rejected

    def cheaper_tiers(
        self,
        request: ChatRequest,
        needs: Needs,
        offers: Sequence[Offer],
        *,
        principal: Principal | None,
        below: int,
    ) -> list[str]:
        """Return the tiers below a position that could serve the request now, the dearest first."""
        return self._serving(self._terms(request, needs, principal, TierRange(0, below - 1)), offers)

    def _terms(
        self,
        request: ChatRequest,
        needs: Needs,
        principal: Principal | None,
        among: TierRange,
        pinned: Deployment | None = None,
    ) -> Terms:
        return Terms(
            needs=needs,
            tiers=self._tiers,
            range=among,
            local_only=request.hints.local_only,
            principal=principal,
            pinned=pinned,
        )

    def _serving(self, terms: Terms, offers: Sequence[Offer]) -> list[str]:
        able = [offers[position] for position in judge(offers, terms)[0]]
        ready = {offer.deployment.tier.order for offer in able if offer.state == EngineState.READY}
        return [tier.name for tier in reversed(self._tiers) if tier.order in ready]

    def _withheld(self, why: str, wanted: Aim, terms: Terms, offers: Sequence[Offer]) -> ApprovalRequired:
        """Return the refusal of what a budget gives only by an approval, with the tiers that would serve."""
        below = replace(terms, range=TierRange(0, wanted.order - 1), pinned=None)
        works = self._serving(below, offers) if wanted.order else []
        return ApprovalRequired(
            f"So much of a budget is used that cheaper tiers serve instead of"
            f" {self._tiers[wanted.order].name}, but {why}.",
            hint=f"Ask for {' or '.join(works)}, or for an override."
            if works
            else "Ask for an override of kind approval.",
            param="model",
            details={"still_works": [f"tier {name}" for name in works]},
        )

    def _aim(
        self,
        request: ChatRequest,
        needs: Needs,
        complexity: Complexity,
        offers: Sequence[Offer],
        principal: Principal | None,
    ) -> Aim:
        """Find the target tier. A policy limits only what is routed by complexity; hints always limit."""
        target = find_target(request.model, self._tiers, offers, principal)
        if isinstance(target, Deployment):
            limits = tier_range(self._tiers, request.hints)
            reason = Reason("deployment_requested", f"The caller asked for {target.name} and nothing else.")
            return Aim(
                strategy="pinned",
                order=target.tier.order,
                range=limits,
                reasons=(reason, *limits.reasons),
                pinned=target,
            )
        if target is not None:
            require_tier(target, offers, principal)
        if request.surface is Surface.EMBEDDINGS:
            aim = embedding_aim(target, self._tiers, offers, request.hints, principal)
            if aim is not None:
                return aim
        if target is not None:
            limits = tier_range(self._tiers, request.hints)
            text = f"The caller asked for tier {target.name}; other tiers are fallbacks."
            return self._clamped("tier", target.order, limits, Reason("tier_requested", text))
        if not self._enabled:
            text = f"Routing is switched off: everything goes to tier {self._tiers[self._fixed].name}."
            limits = tier_range(self._tiers, request.hints)
            return self._clamped("fixed", self._fixed, limits, Reason("routing_disabled", text))
        policy = self._book.find(needs.task_type)
        limits = tier_range(self._tiers, request.hints, policy)
        return self._clamped(
            "complexity",
            self._orders[complexity.recommended_tier],
            limits,
            _policy_reason(needs.task_type, policy, self._book),
        )

    def _clamped(self, strategy: str, order: int, limits: TierRange, *first: Reason) -> Aim:
        aimed = limits.clamp(order)
        moved: tuple[Reason, ...] = ()
        if aimed != order:
            text = f"So the target moves from {self._tiers[order].name} to {self._tiers[aimed].name}."
            moved = (Reason("target_clamped", text),)
        return Aim(strategy=strategy, order=aimed, range=limits, reasons=(*first, *limits.reasons, *moved))


def _policy(name: str, told: PolicySettings) -> Policy:
    return Policy(
        name=name,
        min_tier=told.min_tier,
        max_tier=told.max_tier,
        temperature=told.temperature,
        max_output_tokens=told.max_output_tokens,
    )


def _heaviest(factors: Mapping[str, float]) -> str:
    parts = list(map(mul, _WEIGHTS, _in_order(factors)))
    return _FACTORS[parts.index(max(parts))]


@lru_cache(maxsize=4096)
def _complexity_reason(score: float, heaviest: str, tier: str) -> Reason:
    return Reason(
        "complexity", f"Complexity {score:.2f} (most of it from {heaviest}) recommends tier {tier}."
    )


def _policy_reason(task_type: str | None, policy: Policy, book: PolicyBook) -> Reason:
    if task_type is None:
        return Reason("policy", f"No task type: policy {policy.name}.")
    if task_type in book.task_types:
        return Reason("policy", f"Task type {task_type!a} falls under policy {policy.name}.")
    return Reason("policy", f"Task type {task_type!a} is not listed: policy {policy.name}.")
