"""A filling budget moves the aim: cheaper first, then cheaper only; nobody gets around it."""

from typing import Any

import pytest

from tests.unit.routing.parts import (
    HEAVY,
    LIGHT,
    STANDARD,
    chat,
    codes,
    decide,
    deployment,
    order,
    three_offers,
)
from trivet.config.settings import RoutingSettings
from trivet.domain.budgets import LadderAction, Pressure
from trivet.domain.decisions import Offer
from trivet.domain.errors import ApprovalRequired

TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "f"}}]}


def pressed(*actions: LadderAction, approved: bool = False) -> Pressure:
    """Return budgets that are 85 % full."""
    return Pressure(85.0, frozenset(actions), approved)


ENFORCING, PREFERRING = pressed("prefer_cheaper", "enforce_cheaper"), pressed("prefer_cheaper")


@pytest.mark.parametrize(
    ("model", "served"), [("heavy", "standard"), ("standard", "light"), ("light", "light")]
)
def test_a_tier_is_served_one_lower_and_no_higher(model: str, served: str) -> None:
    """What was asked for is told; the cheapest stays, and then its fallbacks stay, too."""
    decision = decide(chat(model=model), pressure=ENFORCING)
    assert decision.deployment.tier.name == served
    assert decision.downgraded_from == (None if model == "light" else model)
    assert ("budget_enforced" in codes(decision)) == (model != "light")
    if model != "light":
        assert model not in [candidate.deployment.tier.name for candidate in decision.candidates]


def test_an_approval_lifts_enforcement() -> None:
    """With one in force the tier is what was asked for."""
    assert (
        decide(chat(model="heavy"), pressure=pressed("enforce_cheaper", approved=True)).downgraded_from
        is None
    )


def test_an_exact_deployment_is_refused_with_what_works() -> None:
    """The refusal names the tiers that would serve, the ready ones only; the cheapest is not refused."""
    offers = three_offers(light="down")
    with pytest.raises(ApprovalRequired) as refused:
        decide(chat(model="heavy-1"), offers, pressure=ENFORCING)
    assert refused.value.details["still_works"] == ["tier standard"]
    assert decide(chat(model="light-1"), offers, pressure=ENFORCING).deployment.name == "light-1"


@pytest.mark.parametrize("hint", ["heavy", "standard"])
def test_a_hint_is_no_way_around(hint: str) -> None:
    """A caller that insists on a tier above is refused; one whose floor the lower tier meets is served."""
    body = chat(model="heavy", metadata={"min_tier": hint})
    if hint == "standard":
        assert decide(body, pressure=ENFORCING).deployment.tier.name == "standard"
        return
    with pytest.raises(ApprovalRequired, match="heavy or above"):
        decide(body, pressure=ENFORCING)


def test_a_policys_floor_stands() -> None:
    """The operator's own word on quality is not lowered."""
    routing = RoutingSettings.model_validate(
        {"policies": {"firm": {"min_tier": "heavy"}}, "task_types": {"law": "firm"}}
    )
    body = chat(metadata={"task_type": "law"})
    decision = decide(body, routing=routing, pressure=ENFORCING)
    assert (decision.deployment.tier.name, decision.downgraded_from) == ("heavy", None)


def test_what_only_the_dearer_tier_can_do_takes_an_approval() -> None:
    """Nothing cheaper has the capability: refused for the budget's sake, not as if nobody could."""
    able = [Offer(deployment(t.name, t, capabilities=frozenset())) for t in (LIGHT, STANDARD)]
    able.append(Offer(deployment("big", HEAVY)))
    with pytest.raises(ApprovalRequired) as refused:
        decide(chat(model="heavy", **TOOLS), able, pressure=ENFORCING)
    assert refused.value.details["still_works"] == []


@pytest.mark.parametrize(("pressure", "expected"), [(None, "above"), (PREFERRING, "below")])
def test_cheaper_tiers_are_preferred_as_fallbacks(pressure: Any, expected: str) -> None:
    """Where the target cannot serve, below comes before above; what does not serve stays last."""
    names = order(decide(chat(model="standard"), three_offers(standard="down"), pressure=pressure))
    between = ["heavy-1", "light-1"] if expected == "above" else ["light-1", "heavy-1"]
    assert names == [*between, "standard-1"]
    last = order(decide(chat(model="standard"), three_offers(light="down"), pressure=pressure))
    assert last == ["standard-1", "heavy-1", "light-1"]


def test_a_borderline_score_goes_one_lower_while_cheaper_is_preferred() -> None:
    """A score that only just reaches its tier moves down, one well inside it stays."""
    for text in (
        "Explain this",
        "Design a distributed system and analyze its security architecture in depth",
    ):
        for words in range(1, 200, 9):
            body = chat(" ".join([text] * words))
            plain, preferring = decide(body), decide(body, pressure=PREFERRING)
            tier = plain.deployment.tier
            borderline = tier.order > 0 and plain.complexity.score < tier.complexity_low + 0.1
            assert preferring.deployment.tier.order == tier.order - (1 if borderline else 0)
            assert ("budget_prefers" in codes(preferring)) == borderline
