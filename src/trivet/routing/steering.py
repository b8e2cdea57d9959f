"""Where a request is aimed, and how a filling budget moves the aim. Pure.

prefer_cheaper: a request that only just reached its tier goes one lower, and where the target cannot serve,
cheaper tiers are tried before dearer ones. enforce_cheaper: what is free to choose, or asks for a tier, goes
one lower and no higher; what insists on more takes an approval.
"""

from collections.abc import Sequence
from dataclasses import replace

from trivet.domain.budgets import LadderAction, Pressure
from trivet.domain.decisions import Complexity, Reason
from trivet.domain.requests import Hints
from trivet.domain.tiers import Deployment, Tier
from trivet.domain.values import value
from trivet.routing.policies import TierRange

BORDERLINE = 0.1
"""A score within so much of its tier's lower end has only just reached it."""


@value(kw_only=True)
class Aim:
    """Where the request should go, before it is known what is there."""

    strategy: str
    order: int
    range: TierRange
    reasons: tuple[Reason, ...]
    pinned: Deployment | None = None
    only_model: str | None = None
    """The one model that makes comparable vectors; no budget moves it."""
    prefers_cheaper: bool = False
    enforced_from: "Aim | None" = None
    """The aim that a budget does not allow."""
    insists: str | None = None
    """Why the request cannot be served lower, in words; then it is refused."""


_STEPS: frozenset[LadderAction] = frozenset({"prefer_cheaper", "enforce_cheaper"})


def steers(pressure: Pressure | None) -> bool:
    """Tell whether a budget may have a say in where a request goes."""
    return pressure is not None and not _STEPS.isdisjoint(pressure.actions)


def steered(
    aim: Aim, tiers: Sequence[Tier], complexity: Complexity, hints: Hints, pressure: Pressure | None
) -> Aim:
    """Return the aim that the budget allows.

    Args:
        aim: as request, policy and hints have it.
        tiers: cheapest first.
        complexity: what was estimated.
        hints: the caller's.
        pressure: how full the caller's budgets are; None: nobody's.
    """
    if pressure is None or not pressure.actions or aim.only_model is not None:
        return aim
    if "enforce_cheaper" in pressure.actions and not pressure.approved:
        return _enforced(aim, tiers, hints, pressure)
    if "prefer_cheaper" in pressure.actions:
        return _preferring(aim, tiers, complexity, pressure)
    return aim


def _enforced(aim: Aim, tiers: Sequence[Tier], hints: Hints, pressure: Pressure) -> Aim:
    if aim.order == 0:
        return aim
    asked = tiers[aim.order].name
    if aim.pinned is not None:
        return replace(aim, insists=f"{aim.pinned.name} of tier {asked} was asked for and nothing else")
    lower = aim.order - 1
    if hints.min_tier is None:
        # A policy is the operator's own word on quality: it stands.
        lower = max(lower, aim.range.low)
    elif aim.range.low > lower:
        return replace(aim, insists=f"the caller asks for {tiers[aim.range.low].name} or above")
    if lower == aim.order:
        return aim
    reason = Reason(
        "budget_enforced",
        f"{pressure.percent_used:.0f} % of a budget is used: {tiers[lower].name} serves instead of {asked}.",
    )
    return replace(
        aim,
        order=lower,
        range=TierRange(min(aim.range.low, lower), lower),
        reasons=(*aim.reasons, reason),
        enforced_from=aim,
    )


def _preferring(aim: Aim, tiers: Sequence[Tier], complexity: Complexity, pressure: Pressure) -> Aim:
    if aim.pinned is not None:
        return aim
    preferring = replace(aim, prefers_cheaper=True)
    tier = tiers[aim.order]
    just_reached = tier.complexity_low <= complexity.score < tier.complexity_low + BORDERLINE
    if aim.strategy != "complexity" or not just_reached or aim.order <= aim.range.low:
        return preferring
    lower = aim.order - 1
    reason = Reason(
        "budget_prefers",
        f"{pressure.percent_used:.0f} % of a budget is used, and the score only just reaches {tier.name}:"
        f" {tiers[lower].name} is tried first.",
    )
    return replace(preferring, order=lower, reasons=(*aim.reasons, reason))
