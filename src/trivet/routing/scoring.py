"""One scoring function with named terms; the terms add up to the score. Pure.

The order that comes out: what is ready before what is becoming so before what does not serve; within that
the target tier, then higher tiers from the nearest, then lower tiers from the nearest (a better answer than
asked for beats a worse one); within a tier the least busy. Neighbouring ranks of one kind lie a whole term's
range apart, so no sum of lesser terms can overturn a greater one.
"""

import math
from collections.abc import Iterable

from trivet.domain.decisions import Candidate, Offer
from trivet.domain.engine_states import EngineState

LOAD_RANGE = 0.9
"""The most that load can cost: less than the distance 1 between neighbouring tiers."""

_UNAVAILABLE_RANKS: dict[str, int] = {
    EngineState.READY: 0,
    EngineState.LOADING: 1,
    EngineState.PULLING: 1,
    EngineState.SLEEPING: 1,
    EngineState.DRAINING: 1,
}
_LAST_RANK = 2


def rank(offers: Iterable[Offer], *, target_order: int, tier_count: int) -> list[Candidate]:
    """Return the offers as candidates, best first; equal scores keep the order given.

    Args:
        offers: eligible ones, in the order of the configuration.
        target_order: position of the tier that should serve, by `Tier.order`.
        tier_count: tiers in the configuration.
    """
    candidates = [_scored(offer, target_order, tier_count) for offer in offers]
    return sorted(candidates, key=lambda candidate: -candidate.score)


def score_terms(offer: Offer, *, target_order: int, tier_count: int) -> dict[str, float]:
    """Return the terms of one offer.

    tier_fit: 1 in the target tier.
    escalation: minus the tiers above the target, where it is above.
    downgrade: minus the tiers below it, and minus all that could lie above, where it is below.
    unavailable: minus one whole range of the terms before while it is coming (loading, pulling, sleeping,
        draining), minus two while it does not serve (absent, failed, down, open).
    load: minus up to LOAD_RANGE as requests in flight exceed the slots: 0 idle, half when just full.
    """
    distance = offer.deployment.tier.order - target_order
    occupancy = offer.in_flight / max(1, offer.deployment.slots)
    unavailable = _UNAVAILABLE_RANKS.get(offer.state, _LAST_RANK)
    return {
        "tier_fit": 1.0 if distance == 0 else 0.0,
        "escalation": float(-max(0, distance)),
        "downgrade": float(distance - tier_count) if distance < 0 else 0.0,
        "unavailable": float(-unavailable * (2 * tier_count + 2)),
        "load": 0.0 - round(LOAD_RANGE * occupancy / (1.0 + occupancy), 6),
    }


def _scored(offer: Offer, target_order: int, tier_count: int) -> Candidate:
    terms = score_terms(offer, target_order=target_order, tier_count=tier_count)
    return Candidate(offer.deployment, round(math.fsum(terms.values()), 6), terms)
