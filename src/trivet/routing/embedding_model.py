"""Which model makes the vectors. Pure.

Vectors of different models cannot be compared, and whoever asks stores them. So neither the text nor the
engines' states choose the model: it is the first that is configured, and only deployments of the same model
stand in for one another.
"""

from collections.abc import Sequence

from trivet.domain.decisions import Offer, Reason
from trivet.domain.requests import Hints, Principal
from trivet.domain.surfaces import Surface, lack_of
from trivet.domain.tiers import Tier
from trivet.routing.eligibility import may_use
from trivet.routing.policies import tier_range
from trivet.routing.steering import Aim


def embedding_aim(
    asked: Tier | None,
    tiers: Sequence[Tier],
    offers: Sequence[Offer],
    hints: Hints,
    principal: Principal | None,
) -> Aim | None:
    """Return the aim at the one model; None where no deployment that may serve makes vectors.

    Args:
        asked: the tier that the caller named, if any: its model, if it has one.
        tiers: cheapest first.
        offers: in the order of the configuration.
        hints: their limits hold.
        principal: whose key limits it.
    """
    limits = tier_range(tiers, hints)
    able = [
        offer.deployment
        for offer in offers
        if lack_of(offer.deployment, Surface.EMBEDDINGS) is None
        and may_use(principal, offer.deployment)
        and limits.low <= offer.deployment.tier.order <= limits.high
    ]
    if not able:
        return None
    wanted = asked.name if asked is not None else None
    first = min(able, key=lambda each: (each.tier.name != wanted, each.tier.order))
    text = f"Only vectors of one model can be compared: {first.model} of tier {first.tier.name} makes them."
    return Aim(
        strategy="embedding",
        order=first.tier.order,
        range=limits,
        reasons=(Reason("embedding_model", text), *limits.reasons),
        only_model=first.model,
    )
