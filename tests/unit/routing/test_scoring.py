"""The scoring function: its order and its terms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.routing.parts import UNTIMED, deployment
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState
from trivet.domain.tiers import Tier
from trivet.routing.scoring import LOAD_RANGE, expected_wait_s, rank, score_terms

FIVE = tuple(
    Tier(name=f"t{i}", order=i, cost_weight=1.0 + i, complexity_low=i / 5, complexity_high=(i + 1) / 5)
    for i in range(5)
)


def offer(
    tier: int,
    state: str = "ready",
    in_flight: int = 0,
    slots: int = 4,
    name: str = "",
    wait_s: float | None = None,
) -> Offer:
    """Return an offer of tier `t<tier>`."""
    label = name or f"t{tier}-{state}-{in_flight}"
    return Offer(deployment(label, FIVE[tier], slots=slots), state=state, in_flight=in_flight, wait_s=wait_s)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0, [0, 1, 2, 3, 4]), (2, [2, 3, 4, 1, 0]), (3, [3, 4, 2, 1, 0]), (4, [4, 3, 2, 1, 0])],
)
def test_target_first_then_up_then_down(target: int, expected: list[int]) -> None:
    """The target tier leads, higher tiers follow from the nearest, then lower ones from the nearest."""
    candidates = rank([offer(tier) for tier in range(5)], target_order=target, tier_count=5)
    assert expected == [candidate.deployment.tier.order for candidate in candidates]


def test_ready_before_loading_before_down() -> None:
    """The farthest ready tier comes before a target that is loading, and that before one that is down."""
    offers = [
        offer(4, "down"),
        offer(4, "open"),
        offer(4, "loading"),
        offer(0, in_flight=1000),
        offer(3, "loading"),
    ]
    names = [c.deployment.name for c in rank(offers, target_order=4, tier_count=5)]
    assert names == ["t0-ready-1000", "t4-loading-0", "t3-loading-0", "t4-down-0", "t4-open-0"]


def test_the_least_busy_leads_within_a_tier() -> None:
    """Requests in flight per slot decide within a tier, and only there."""
    offers = [
        offer(1, in_flight=900, name="full"),
        offer(1, in_flight=2, slots=4, name="half"),
        offer(1, in_flight=2, slots=64, name="wide"),
        offer(2, name="idle-above"),
    ]
    names = [c.deployment.name for c in rank(offers, target_order=1, tier_count=5)]
    assert names == ["wide", "half", "full", "idle-above"]


@pytest.mark.parametrize(
    ("wait_s", "expected"),
    [(4.0, ["it", "above", "below"]), (30.0, ["above", "it", "below"]), (None, ["above", "below", "it"])],
)
def test_a_wait_may_send_a_request_up_but_never_down(wait_s: float | None, expected: list[str]) -> None:
    """A short wait is worth it; a longer one is not, if a higher tier serves now; an unknown one never."""
    offers = [
        offer(0, name="below"),
        offer(1, "sleeping", name="it", wait_s=wait_s),
        offer(2, in_flight=900, name="above"),
    ]
    candidates = rank(offers, target_order=1, tier_count=3)
    assert expected == [candidate.deployment.name for candidate in candidates]


def test_what_takes_too_long_or_does_not_serve_has_no_wait() -> None:
    """Minutes are too long; an absent model that is said to come is waited for, a failed one is not."""
    assert expected_wait_s(offer(0, "loading", wait_s=151.0)) is None
    assert expected_wait_s(offer(0, "absent", wait_s=9.0)) == 9.0
    assert expected_wait_s(offer(0, "absent")) is None
    assert expected_wait_s(offer(0, "failed", wait_s=9.0)) is None


def test_ties_keep_the_order_of_the_configuration() -> None:
    """Equal offers stay in the order in which they are configured."""
    names = ["b", "a", "c"]
    candidates = rank([offer(1, name=name) for name in names], target_order=1, tier_count=5)
    assert names == [candidate.deployment.name for candidate in candidates]


def test_terms_by_name() -> None:
    """The terms say what each offer gains and loses."""
    busy = score_terms(offer(0, "loading", in_flight=4), target_order=2, tier_count=3)
    assert busy == {
        "tier_fit": 0.0,
        "escalation": 0.0,
        "downgrade": -5.0,
        "budget": 0.0,
        "wait": 0.0,
        "unavailable": -12.0,
        "load": -0.45,
    }
    above = score_terms(offer(4), target_order=2, tier_count=5)
    assert above == {
        "tier_fit": 0.0,
        "escalation": -2.0,
        "downgrade": 0.0,
        "budget": 0.0,
        "wait": 0.0,
        "unavailable": 0.0,
        "load": 0.0,
    }


@UNTIMED
@given(
    st.integers(0, 4),
    st.sampled_from([*EngineState, "open", "new"]),
    st.integers(0, 10**6),
    st.integers(1, 512),
    st.integers(0, 4),
    st.none() | st.floats(0.0, 1e6),
)
def test_terms_add_up_to_the_score(
    tier: int, state: str, in_flight: int, slots: int, target: int, wait_s: float | None
) -> None:
    """Whatever the offer, its terms sum to its score, and load costs less than one tier."""
    (candidate,) = rank(
        [offer(tier, state, in_flight, slots, wait_s=wait_s)], target_order=target, tier_count=5
    )
    assert candidate.score == pytest.approx(math.fsum(candidate.terms.values()))
    assert -LOAD_RANGE <= candidate.terms["load"] <= 0.0
