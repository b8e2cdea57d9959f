"""One scoring function with named terms; the terms add up to the score. Pure.

The order that comes out: what is ready before what is becoming so before what does not serve; within that
the target tier, then higher tiers from the nearest, then lower tiers from the nearest (a better answer than
asked for beats a worse one); within a tier the least busy. Neighbouring ranks of one kind lie a whole term's
range apart, so no sum of lesser terms can overturn a greater one.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter

from trivet.domain.decisions import Candidate, Offer
from trivet.domain.engine_states import EngineState

LOAD_RANGE = 0.9
"""The most that load can cost: less than the distance 1 between neighbouring tiers."""

WAIT_PER_TIER_S = 5.0
"""A wait of so many seconds costs as much as one tier upwards."""
WAIT_MAX_S = 150.0
"""Whoever has to be waited for longer is tried after all that serve sooner: half of a request's default time,
which is all that a candidate with others behind it may take."""

_UNAVAILABLE_RANKS: dict[str, int] = {
    EngineState.READY: 0,
    EngineState.LOADING: 1,
    EngineState.PULLING: 1,
    EngineState.SLEEPING: 1,
    EngineState.DRAINING: 1,
}
_LAST_RANK = 2


def rank(
    offers: Iterable[Offer], *, target_order: int, tier_count: int, prefers_cheaper: bool = False
) -> list[Candidate]:
    """Return the offers as candidates, best first; equal scores keep the order given.

    Args:
        offers: eligible ones, in the order of the configuration.
        target_order: position of the tier that should serve, by `Tier.order`.
        tier_count: tiers in the configuration.
        prefers_cheaper: a budget fills up: below the target before above it.
    """
    candidates = [
        scored(offer, target_order=target_order, tier_count=tier_count, prefers_cheaper=prefers_cheaper)
        for offer in offers
    ]
    return sorted(candidates, key=attrgetter("score"), reverse=True)


def score_terms(
    offer: Offer, *, target_order: int, tier_count: int, prefers_cheaper: bool = False
) -> dict[str, float]:
    """Return the terms of one offer.

    tier_fit: 1 in the target tier.
    escalation: minus the tiers above the target, where it is above.
    downgrade: minus the tiers below it, and minus all that could lie above, where it is below.
    budget: minus twice the tiers, above the target while cheaper tiers are preferred: then a lower tier comes
        before a higher one.
    wait: minus 1 for each WAIT_PER_TIER_S until it can serve, at most one more than there are tiers: it can
        cost more than the way to the highest tier, and never as much as the way to a lower one.
    unavailable: minus one whole range of the terms before while it is coming (loading, pulling, sleeping,
        draining) and the wait is long or cannot be told, minus two while it does not serve (absent, failed,
        down, open).
    load: minus up to LOAD_RANGE as requests in flight exceed the slots: 0 idle, half when just full.
    """
    terms, _ = _weighed(offer, target_order, tier_count, prefers_cheaper)
    return terms


def _weighed(
    offer: Offer, target_order: int, tier_count: int, prefers_cheaper: bool
) -> tuple[dict[str, float], float]:
    """Return the terms of one offer, and their sum."""
    wait_s = expected_wait_s(offer)
    unavailable = 0 if wait_s is not None else _UNAVAILABLE_RANKS.get(offer.state, _LAST_RANK)
    distance = offer.deployment.tier.order - target_order
    terms, score = _summed(
        *(distance, tier_count, prefers_cheaper, wait_s, unavailable),
        *(offer.in_flight, offer.deployment.slots),
    )
    return dict(terms), score


@lru_cache(maxsize=1024)
def _summed(
    distance: int,
    tier_count: int,
    prefers_cheaper: bool,
    wait_s: float | None,
    unavailable: int,
    in_flight: int,
    slots: int,
) -> tuple[dict[str, float], float]:
    """Return the terms and their sum. What is ready differs in few ways from request to request."""
    occupancy = in_flight / max(1, slots)
    terms = {
        "tier_fit": 1.0 if distance == 0 else 0.0,
        "escalation": float(-max(0, distance)),
        "downgrade": float(distance - tier_count) if distance < 0 else 0.0,
        "budget": -2.0 * tier_count if prefers_cheaper and distance > 0 else 0.0,
        "wait": 0.0 - round(min(tier_count + 1.0, (wait_s or 0.0) / WAIT_PER_TIER_S), 6),
        "unavailable": float(-unavailable * ((5 if prefers_cheaper else 3) * tier_count + 3)),
        "load": 0.0 - round(LOAD_RANGE * occupancy / (1.0 + occupancy), 6),
    }
    return terms, round(math.fsum(terms.values()), 6)


def expected_wait_s(offer: Offer) -> float | None:
    """Return how long a request would wait for this deployment; None where that is too long or unknown."""
    if offer.state == EngineState.READY:
        return 0.0
    comes = _UNAVAILABLE_RANKS.get(offer.state, _LAST_RANK) < _LAST_RANK or offer.state == EngineState.ABSENT
    return offer.wait_s if comes and offer.wait_s is not None and offer.wait_s <= WAIT_MAX_S else None


def scored(offer: Offer, *, target_order: int, tier_count: int, prefers_cheaper: bool = False) -> Candidate:
    """Return one offer as a candidate; see `rank`."""
    terms, score = _weighed(offer, target_order, tier_count, prefers_cheaper)
    return Candidate(offer.deployment, score, terms)
