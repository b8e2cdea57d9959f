"""Which deployments may serve a request at all, why the others may not, and what to say if none may."""

from collections.abc import Sequence
from typing import Any

from trivet.domain.decisions import Offer, Rejection
from trivet.domain.errors import ContextTooLong, NoCandidate, PermissionDenied, TrivetError
from trivet.domain.requests import Needs, Principal
from trivet.domain.surfaces import lack_of
from trivet.domain.tiers import Deployment, Tier
from trivet.domain.values import value
from trivet.routing.explain import rejection_as_json
from trivet.routing.policies import TierRange

CONTEXT_TOO_SMALL = "context_too_small"
"""The one code of a rejection that depends on how long a prompt is."""
OPTIMISTIC_BYTES_PER_TOKEN = 8
"""Text of any kind has fewer bytes per token on average: what does not fit at this rate cannot fit."""


@value(kw_only=True)
class Terms:
    """What a deployment is judged by."""

    needs: Needs
    tiers: Sequence[Tier]
    range: TierRange
    local_only: bool
    principal: Principal | None
    pinned: Deployment | None = None
    """The only deployment that the caller wants."""
    only_model: str | None = None
    """The only model whose vectors can be compared with one another."""


def may_use(principal: Principal | None, deployment: Deployment) -> bool:
    """Tell whether a key's limits allow a deployment: its tier, and its name."""
    if principal is None:
        return True
    tier_allowed = not principal.tiers or deployment.tier.name in principal.tiers
    names = {deployment.name, deployment.known_as}
    return tier_allowed and (not principal.models or not names.isdisjoint(principal.models))


def require_tier(tier: Tier, offers: Sequence[Offer], principal: Principal | None) -> None:
    """Refuse a tier that is asked for by name and that the key may never use.

    Serving it from another tier would hide the refusal; `auto` just keeps to what the key allows.

    Raises:
        PermissionDenied: the key allows none of the tier's deployments.
    """
    there = [offer.deployment for offer in offers if offer.deployment.tier.name == tier.name]
    if there and not any(may_use(principal, deployment) for deployment in there):
        raise PermissionDenied(
            f"This API key may not use tier {tier.name}.",
            hint='Use "auto"; GET /v1/models lists what the key may use.',
            param="model",
        )


def least_tokens(needs: Needs) -> int:
    """Return how many tokens the prompt has at least; it fits no window of as many or fewer."""
    return needs.window_bytes // OPTIMISTIC_BYTES_PER_TOKEN


def judge(offers: Sequence[Offer], terms: Terms) -> tuple[list[int], list[Rejection]]:
    """Part the offers into those that may serve, by position, and those that may not, with the first reason.

    A deployment is rejected for its context window only if even an optimistic count of the prompt's
    tokens does not fit. The prompt's ceiling in bytes would reject prompts that fit three times over;
    in between the engine itself says whether the prompt fits, and the chain moves on if it does not.
    """
    eligible: list[int] = []
    rejected: list[Rejection] = []
    for position, offer in enumerate(offers):
        fault = _fault(offer.deployment, terms)
        if fault is None:
            eligible.append(position)
        else:
            rejected.append(Rejection(offer.deployment, *fault))
    return eligible, rejected


def _fault(deployment: Deployment, terms: Terms) -> tuple[str, str] | None:
    """Return code and sentence of the first thing that rules a deployment out."""
    tier, tiers = deployment.tier, terms.tiers
    if terms.pinned is not None and terms.pinned.name not in (deployment.name, deployment.known_as):
        return "other_deployment_pinned", f"The caller asked for {terms.pinned.name} and nothing else."
    if not may_use(terms.principal, deployment):
        return "key_not_allowed", f"The API key may not use {deployment.name} (tier {tier.name})."
    if tier.order > terms.range.high:
        return (
            "above_max_tier",
            f"Tier {tier.name} is above the highest allowed, {tiers[terms.range.high].name}.",
        )
    if tier.order < terms.range.low:
        return (
            "below_min_tier",
            f"Tier {tier.name} is below the lowest allowed, {tiers[terms.range.low].name}.",
        )
    if terms.local_only and not deployment.local:
        return "not_local", f"{deployment.name} runs elsewhere, and the prompt must stay local."
    lack = lack_of(deployment, terms.needs.surface)
    if lack is not None:
        return "surface_missing", f"{deployment.name} {lack}."
    if terms.only_model is not None and deployment.model != terms.only_model:
        return "other_embedding_model", f"{deployment.name} makes other vectors than {terms.only_model}."
    missing = sorted(terms.needs.capabilities - deployment.capabilities)
    if missing:
        return "capability_missing", f"{deployment.name} lacks {', '.join(missing)}."
    least = least_tokens(terms.needs)
    if least >= deployment.context_tokens:
        return CONTEXT_TOO_SMALL, (
            f"The prompt is at least {least} tokens; "
            f"{deployment.name} holds {deployment.context_tokens}, prompt and answer together."
        )
    return None


def told(rejected: Sequence[Rejection], principal: Principal | None) -> list[Rejection]:
    """Return the rejections that the caller may see: a tenant learns of no deployment beyond its key."""
    if principal is None or principal.is_admin:
        return list(rejected)
    return [rejection for rejection in rejected if may_use(principal, rejection.deployment)]


def refusal(rejected: Sequence[Rejection], principal: Principal | None) -> TrivetError:
    """Return the error to raise when no deployment may serve: it tells the caller what to change."""
    shown = told(rejected, principal)
    details: dict[str, Any] = {"rejected": [rejection_as_json(rejection) for rejection in shown]}
    judged = [rejection for rejection in rejected if rejection.code != "other_deployment_pinned"]
    codes = {rejection.code for rejection in judged}
    if codes == {"key_not_allowed"}:
        return PermissionDenied(
            "This API key may use none of the deployments that could serve the request.",
            hint="Ask for another tier or model, or ask an administrator to widen the key.",
            param="model",
            details=details,
        )
    # What the key and the limits leave: if only the context stands in the way, that is the news.
    if CONTEXT_TOO_SMALL in codes and codes <= {
        CONTEXT_TOO_SMALL,
        "key_not_allowed",
        "above_max_tier",
        "below_min_tier",
        "surface_missing",
    }:
        return _context_refusal(judged, codes, details)
    reasons = [rejection.reason for rejection in shown if rejection in judged]
    causes = " ".join(dict.fromkeys(reasons[:5]))
    return NoCandidate(
        f"No deployment can serve this request. {causes}".rstrip(),
        hint="`error.trivet.rejected` lists every deployment with its reason."
        if judged
        else "No engine is configured, or none has been attached yet; `trivet doctor` shows them.",
        details=details,
    )


def _context_refusal(judged: Sequence[Rejection], codes: set[str], details: dict[str, Any]) -> ContextTooLong:
    small = [rejection for rejection in judged if rejection.code == CONTEXT_TOO_SMALL]
    widest = max(small, key=lambda rejection: rejection.deployment.context_tokens).deployment
    hint = "Shorten the prompt or drop old turns"
    if "above_max_tier" in codes:
        hint += ", or allow a higher tier"
    return ContextTooLong(
        f"The prompt fits no context window; the largest is that of {widest.name}: "
        f"{widest.context_tokens} tokens.",
        hint=hint + ".",
        param="messages",
        details={**details, "largest_context_tokens": widest.context_tokens},
    )
