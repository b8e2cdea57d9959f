"""Policies by task type, and the range of tiers that policy and hints leave. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trivet.domain.decisions import Reason
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import Hints
from trivet.domain.tiers import Tier
from trivet.domain.values import value


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one kind of task is routed, as configured. None where a policy says nothing."""

    name: str
    min_tier: str | None = None
    max_tier: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBook:
    """All policies, and which task type falls under which."""

    policies: Mapping[str, Policy]
    task_types: Mapping[str, str]
    default: str

    def find(self, task_type: str | None) -> Policy:
        """Return the policy of a task type; the default one for none and for one that is not listed."""
        if task_type is not None and task_type in self.task_types:
            return self.policies[self.task_types[task_type]]
        return self.policies[self.default]


@value()
class TierRange:
    """The tiers that may serve, by position, both ends included, and how that came about."""

    low: int
    high: int
    reasons: tuple[Reason, ...] = ()

    def clamp(self, order: int) -> int:
        """Return the position nearest to `order` within the range."""
        return min(self.high, max(self.low, order))


def tier_range(tiers: Sequence[Tier], hints: Hints, policy: Policy | None = None) -> TierRange:
    """Combine the limits of a policy and of the caller's hints.

    Both apply; where they exclude each other the hint wins, because the caller knows this one request.
    A policy's tier that is not among `tiers` is ignored: the default policies speak of the default tiers.

    Args:
        tiers: cheapest first.
        hints: `min_tier` and `max_tier`.
        policy: None where no policy limits, as for a tier that was asked for by name.

    Raises:
        RequestMalformed: a hint names no tier, or `min_tier` is above `max_tier`.
    """
    orders = {tier.name: position for position, tier in enumerate(tiers)}
    top = len(tiers) - 1
    hint_low = _hinted("min_tier", hints.min_tier, orders, 0)
    hint_high = _hinted("max_tier", hints.max_tier, orders, top)
    if hint_low > hint_high:
        raise RequestMalformed(
            f"min_tier {hints.min_tier} is above max_tier {hints.max_tier}.",
            hint=f"From the cheapest up: {', '.join(orders)}.",
            param="min_tier",
        )
    low = orders.get(policy.min_tier or "", 0) if policy else 0
    high = max(low, orders.get(policy.max_tier or "", top)) if policy else top
    reasons: list[Reason] = []
    if policy and low > 0:
        reasons.append(
            Reason("policy_min_tier", f"Policy {policy.name} asks for {tiers[low].name} or above.")
        )
    if policy and high < top:
        reasons.append(Reason("policy_max_tier", f"Policy {policy.name} allows {tiers[high].name} at most."))
    if hints.min_tier is not None:
        reasons.append(Reason("hint_min_tier", f"The caller asks for {hints.min_tier} or above."))
    if hints.max_tier is not None:
        reasons.append(Reason("hint_max_tier", f"The caller allows {hints.max_tier} at most."))
    if policy and (hint_low > high or hint_high < low):
        reasons.append(Reason("hint_over_policy", f"The caller's limit wins over policy {policy.name}."))
        low = high = hint_low if hint_low > high else hint_high
    return TierRange(max(low, hint_low), min(high, hint_high), tuple(reasons))


def _hinted(param: str, name: str | None, orders: dict[str, int], default: int) -> int:
    if name is None:
        return default
    if name not in orders:
        raise RequestMalformed(
            f"{param}: no tier is called {name!a}.", hint=f"The tiers are {', '.join(orders)}.", param=param
        )
    return orders[name]
