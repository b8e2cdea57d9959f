"""What the caller's `model` means: route, a tier, or exactly one deployment."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

from trivet.domain.decisions import Offer
from trivet.domain.errors import ModelUnknown
from trivet.domain.requests import Principal
from trivet.domain.tiers import Deployment, Tier
from trivet.routing.eligibility import may_use
from trivet.routing.fields import AUTO

NAMES_SHOWN = 20


def find_target(
    model: str, tiers: Sequence[Tier], offers: Sequence[Offer], principal: Principal | None
) -> Tier | Deployment | None:
    """Return the tier or the deployment that `model` names; None for `auto`.

    A deployment is named by its name, or by its engine's model name where only one deployment has it.

    Raises:
        ModelUnknown: listing the names that the key may use, the likeliest first.
    """
    if model == AUTO:
        return None
    for tier in tiers:
        if tier.name == model:
            return tier
    deployments = [offer.deployment for offer in offers]
    for deployment in deployments:
        if deployment.name == model:
            return deployment
        if deployment.endpoint_of == model:
            # Any of its endpoints will do: the whole deployment is meant.
            return replace(deployment, name=model, endpoint_of=None)
    same_model = [deployment for deployment in deployments if deployment.model == model]
    if len({deployment.known_as for deployment in same_model}) == 1:
        return replace(same_model[0], name=same_model[0].known_as, endpoint_of=None)
    raise _unknown(model, tiers, same_model or deployments, principal, ambiguous=bool(same_model))


def _unknown(
    model: str,
    tiers: Sequence[Tier],
    deployments: Sequence[Deployment],
    principal: Principal | None,
    *,
    ambiguous: bool,
) -> ModelUnknown:
    usable_ones = [deployment for deployment in deployments if may_use(principal, deployment)]
    allowed = list(dict.fromkeys(deployment.known_as for deployment in usable_ones))
    if ambiguous:
        return ModelUnknown(
            f"Several deployments serve the model {model!a}.",
            hint=f"Name one of them: {', '.join(allowed)}.",
            param="model",
            details={"names": allowed},
        )
    usable = {deployment.tier.name for deployment in deployments if may_use(principal, deployment)}
    reachable = [tier.name for tier in tiers if tier.name in usable]
    names = [AUTO, *reachable, *allowed]
    near = difflib.get_close_matches(model, names, n=3, cutoff=0.5)
    ordered = [*near, *(name for name in names if name not in near)]
    shown = ", ".join(ordered[:NAMES_SHOWN])
    return ModelUnknown(
        f"There is no model called {model!a}.",
        hint=f"Did you mean {near[0]}? Known: {shown}." if near else f"Known: {shown}.",
        param="model",
        details={"names": ordered},
    )
