"""Why each model that a plan does not use is not used. Pure."""

from collections.abc import Mapping

from trivet.catalog.objective import FIGURE_TOLERANCE, LIGHT_SHARE_MAX, STEP_MIN, thrift
from trivet.catalog.offers import Offer, Rejection, TierOffers
from trivet.domain.tiers import ModelTier


def rejections(found: TierOffers, chosen: Mapping[str, Offer]) -> tuple[Rejection, ...]:
    """Return a reason for every model that could serve a tier and does not, the most valuable model first.

    Args:
        found: the tier's offers, and what was rejected before they were compared.
        chosen: the plan's offers, by tier.
    """
    winner = chosen.get(found.tier)
    best: dict[str, Offer] = {}
    for offer in found.offers:
        best.setdefault(offer.card.id, offer)
    compared = [
        Rejection(model=model, tier=found.tier, reason=_why_not(offer, found.tier, chosen), value=offer.worth)
        for model, offer in best.items()
        if winner is None or model != winner.card.id
    ]
    return tuple(sorted([*compared, *found.rejected], key=lambda one: (-one.value, one.model)))


def _why_not(offer: Offer, tier: str, chosen: Mapping[str, Offer]) -> str:
    winner = chosen.get(tier)
    if offer.card.id in {other.card.id for other in chosen.values()}:
        return "serves another tier"
    if winner is None:
        return "fits alone, but the other tiers together are worth more without it"
    rule = _against_the_rules(offer, tier, chosen)
    if rule is not None:
        return rule
    heavy = chosen.get(ModelTier.HEAVY)
    effective = heavy.effective_params if heavy is not None and tier != ModelTier.HEAVY else None
    counts, winner_counts = (
        one.worth * thrift(tier, one.effective_params, effective) for one in (offer, winner)
    )
    if offer.worth <= winner.worth and counts <= winner_counts:
        return f"is worth less: {offer.worth:.1f}, {winner.card.id} {winner.worth:.1f}"
    if counts <= winner_counts:
        return (
            f"is worth more ({offer.worth:.1f}), but saves less of HEAVY's time: "
            f"counts {counts:.1f}, {winner.card.id} {winner_counts:.1f}"
        )
    if tier == ModelTier.HEAVY:
        return f"is worth more ({offer.worth:.1f}), but would take that and more from the other tiers"
    return (
        f"would count {counts:.1f}, {winner.card.id} {winner_counts:.1f}, but finds no room beside the others"
    )


def _against_the_rules(offer: Offer, tier: str, chosen: Mapping[str, Offer]) -> str | None:
    """Return which rule between the tiers a model would break beside the chosen ones."""
    heavy, standard, light = (
        chosen.get(name) for name in (ModelTier.HEAVY, ModelTier.STANDARD, ModelTier.LIGHT)
    )
    if tier == ModelTier.LIGHT and heavy and offer.active_params > LIGHT_SHARE_MAX * heavy.active_params:
        return f"has more than a third of the active parameters of {heavy.card.id}"
    if tier == ModelTier.STANDARD and heavy and offer.active_params > heavy.active_params:
        return f"costs more for each token than {heavy.card.id}, which serves heavy"
    lower, upper = (offer, standard) if tier == ModelTier.LIGHT else (light, offer)
    near = lower and upper and STEP_MIN * lower.active_params > upper.active_params
    if tier != ModelTier.HEAVY and near:
        other = standard if tier == ModelTier.LIGHT else light
        return f"is too near in size to {other.card.id if other else ''}, which serves the next tier"
    if tier != ModelTier.HEAVY and heavy and offer.figure > heavy.figure + FIGURE_TOLERANCE:
        return f"is better by its published figure than {heavy.card.id}, which serves heavy"
    return None
