"""What of the deployments that may serve is there, and what that means for a decision, in words. Pure."""

from collections.abc import Iterable, Sequence

from trivet.domain.decisions import Candidate, Offer, Reason, Rejection
from trivet.domain.engine_states import EngineState
from trivet.domain.tiers import Deployment, Tier
from trivet.routing.scoring import expected_wait_s
from trivet.routing.steering import Aim

_STATES = {
    EngineState.ABSENT: "not loaded",
    EngineState.PULLING: "fetching its model",
    EngineState.LOADING: "loading",
    EngineState.SLEEPING: "asleep",
    EngineState.DRAINING: "making room for another model",
    EngineState.FAILED: "failed",
    EngineState.DOWN: "not answering",
    "open": "resting after failures (circuit open)",
}


def availability_reasons(
    aim: Aim,
    tiers: Sequence[Tier],
    eligible: Iterable[Offer],
    rejected: Iterable[Rejection],
    candidates: Sequence[Candidate],
) -> list[Reason]:
    """Tell what kept the request from its target tier, and where it goes."""
    reasons: list[Reason] = []
    chosen = candidates[0].deployment
    # What stands in the target tier for other surfaces keeps nothing from a tier that serves this one.
    served = any(candidate.deployment.tier.order == aim.order for candidate in candidates)
    untold = {"other_deployment_pinned", *(("surface_missing", "other_embedding_model") if served else ())}
    for rejection in rejected:
        wanted = rejection.deployment.tier.order == aim.order
        if rejection.code == "key_not_allowed" or (wanted and rejection.code not in untold):
            reasons.append(Reason(rejection.code, rejection.reason))
    reasons += [_state_reason(offer, chosen) for offer in eligible if offer.state != EngineState.READY]
    distance = chosen.tier.order - aim.order
    if distance > 0:
        text = (
            f"Tier {tiers[aim.order].name} cannot serve now; the next above that can is {chosen.tier.name}."
        )
        reasons.append(Reason("escalated", text))
    elif distance < 0:
        text = f"No tier from {tiers[aim.order].name} up can serve now; the next below is {chosen.tier.name}."
        reasons.append(Reason("downgraded", text))
    reasons.append(Reason("chosen", f"{chosen.name} of tier {chosen.tier.name} is tried first."))
    return reasons


def passed_over(candidates: Sequence[Candidate]) -> str | None:
    """Return the deployment that only its wait, be it long or unknown, kept from being the first."""
    first = max(candidates, key=lambda each: each.score - each.terms["wait"] - each.terms["unavailable"])
    return None if first is candidates[0] else first.deployment.name


def _state_reason(offer: Offer, chosen: Deployment) -> Reason:
    """Tell what it means for the order that a deployment is not ready."""
    name, wait_s = offer.deployment.name, expected_wait_s(offer)
    state = _STATES.get(offer.state, offer.state)
    if wait_s is not None:
        words = f"{name} is {state} and expected to serve in {wait_s:.0f} s"
        if name == chosen.name:
            return Reason("worth_waiting", f"{words}: worth the wait.")
        return Reason("wait", f"{words}: tried after {chosen.name}.")
    if name == chosen.name:
        return Reason("last_resort", f"{name} is {state}, but nothing is better.")
    return Reason("unavailable", f"{name} is {state}: tried last.")
