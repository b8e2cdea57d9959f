"""Token savings by cost weights: what the tiers' weights say, without any measurement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from trivet.domain.errors import ConfigError
from trivet.routing.complexity import DEFAULT_TIERS

DEFAULT_COST_WEIGHTS: dict[str, float] = {tier.name: tier.cost_weight for tier in DEFAULT_TIERS}
"""1, 3 and 10 for light, standard and heavy."""


@dataclass(frozen=True, slots=True)
class CostWeights:
    """What a token costs in each tier, relative to the cheapest. The heaviest is the baseline.

    A tier whose weight is not known counts as the heaviest: it is never said to save anything.
    """

    by_tier: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_COST_WEIGHTS))

    def __post_init__(self) -> None:
        if not self.by_tier or not all(math.isfinite(w) and w > 0 for w in self.by_tier.values()):
            raise ConfigError(
                "cost_weights must give at least one tier a weight above 0.", param="cost_weights"
            )

    @property
    def heaviest(self) -> float:
        """Return the weight of the most expensive tier."""
        return max(self.by_tier.values())

    def of(self, tier: str) -> float:
        """Return a tier's weight; the heaviest for one that is not known."""
        return self.by_tier.get(tier, self.heaviest)

    def saved_tokens(self, tier: str, tokens: int) -> float:
        """Return the heaviest tier's tokens that were not spent: tokens * (heaviest - weight) / heaviest."""
        return tokens * (self.heaviest - self.of(tier)) / self.heaviest

    def saved_seconds(self, tier: str, latency_s: float) -> float:
        """Return the modelled extra time on the heaviest tier: latency * (heaviest / weight - 1)."""
        return latency_s * (self.heaviest / self.of(tier) - 1)


def cost_reduction_pct(saved: float, tokens: int) -> float:
    """Return 100 * saved / tokens, to two places; 0.0 where nothing was used."""
    return round(100.0 * saved / tokens, 2) if tokens else 0.0
