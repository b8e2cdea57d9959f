"""What is kept from request to request never shows in a decision."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.routing.parts import (
    HEAVY,
    LIGHT,
    STANDARD,
    TOOL,
    UNTIMED,
    ZERO_TRUST,
    chat,
    deployment,
    order,
    three_offers,
)
from trivet.config.settings import RoutingSettings
from trivet.domain.budgets import Pressure
from trivet.domain.decisions import Decision, Offer
from trivet.domain.errors import ContextTooLong, TrivetError
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import Deployment
from trivet.routing import Router, describe, parse_request, roster
from trivet.routing.complexity import DEFAULT_TIERS

BODIES = (
    chat("Hello"),
    chat("Hello", metadata={"session": "one"}),
    chat(ZERO_TRUST, metadata={"capabilities": ["security_analysis"], "context_tokens": 4000}),
    chat("x" * 3000),
    chat("x" * 9000),
    chat("Hello", tools=[TOOL]),
    chat("Hello", model="heavy"),
    chat("Hello", model="pool"),
    chat("Hello", model="nobody"),
    chat("Hello", metadata={"task_type": "fix_bug"}),
    chat("Hello", metadata={"task_type": "unheard of"}),
    chat("Hello", metadata={"min_tier": "standard"}),
    chat("Hello", metadata={"max_tier": "light", "local_only": True}),
    chat("Hello", max_tokens=7),
)
KEYS = (
    None,
    Principal(key_id="k", scope=Scope("acme")),
    Principal(key_id="k", scope=Scope("acme"), role="admin", tiers=frozenset({"light"})),
    Principal(key_id="k", scope=Scope("acme"), tiers=frozenset({"light"})),
    Principal(key_id="k", scope=Scope("acme"), models=frozenset({"pool"})),
)
PRESSURES = (
    None,
    Pressure(10.0, frozenset()),
    Pressure(60.0, frozenset({"notify"})),
    Pressure(72.0, frozenset({"prefer_cheaper"})),
    Pressure(90.0, frozenset({"prefer_cheaper", "enforce_cheaper"})),
    Pressure(90.0, frozenset({"enforce_cheaper"}), approved=True),
)
FIRST = (
    deployment("light-1", LIGHT, context_tokens=1000),
    replace(deployment("pool@1", STANDARD), endpoint_of="pool"),
    replace(deployment("pool@2", STANDARD), endpoint_of="pool"),
    deployment("heavy-1", HEAVY, local=False),
)
LATER = (FIRST[0], FIRST[1], replace(FIRST[2], context_tokens=500), replace(FIRST[3], local=True))

offered = st.tuples(
    st.sampled_from((FIRST, FIRST, FIRST, LATER, FIRST[:3])),
    st.lists(
        st.tuples(st.sampled_from(("ready", "ready", "ready", "loading", "down")), st.integers(0, 3)),
        min_size=4,
        max_size=4,
    ),
)


def decided(
    router: Router,
    body: dict[str, object],
    key: Principal | None,
    pressure: Pressure | None,
    offers: list[Offer],
) -> Decision | tuple[type, str, dict[str, object]]:
    """Return what a router makes of a request, be it a refusal."""
    request = parse_request(Surface.CHAT, body, body_bytes=0, headers={})
    needs = describe(request, text_limit_chars=3000)
    try:
        return router.decide(request, needs, offers, principal=key, decision_id="d", pressure=pressure)
    except TrivetError as refused:
        return type(refused), str(refused), refused.details


@UNTIMED
@given(
    st.lists(
        st.tuples(st.sampled_from(BODIES), st.sampled_from(KEYS), st.sampled_from(PRESSURES), offered),
        min_size=2,
        max_size=30,
    )
)
def test_a_router_that_knows_much_decides_as_a_new_one(
    asked: list[
        tuple[
            dict[str, object],
            Principal | None,
            Pressure | None,
            tuple[tuple[Deployment, ...], list[tuple[str, int]]],
        ]
    ],
) -> None:
    """Whatever was decided before, for whom, over which deployments, in which states."""
    router = Router(RoutingSettings(), DEFAULT_TIERS)
    for body, key, pressure, (deployments, standings) in asked:
        offers = [
            Offer(each, state, in_flight, 2.0 if state == "loading" else None)
            for each, (state, in_flight) in zip(deployments, standings, strict=False)
        ]
        anew = Router(RoutingSettings(), DEFAULT_TIERS)
        assert decided(router, body, key, pressure, offers) == decided(anew, body, key, pressure, offers)


def test_what_is_kept_is_bounded() -> None:
    """Callers can make up kinds of requests without end; what they differ in is not kept without end."""
    router = Router(RoutingSettings(), DEFAULT_TIERS)
    offers = three_offers()
    for number in range(roster.SCORED_MAX // 3 + 10):
        body = chat("Hello", metadata={"task_type": f"kind {number % (roster.KINDS_MAX + 10)}"})
        decision = decided(router, body, None, None, [replace(each, in_flight=number) for each in offers])
        assert isinstance(decision, Decision)
        assert order(decision) == ["light-1", "standard-1", "heavy-1"]
    kept = router._roster
    assert len(kept._plans) <= roster.KINDS_MAX
    assert len(kept._scored) <= roster.SCORED_MAX
    assert all(len(plan.rankings) <= roster.RANKINGS_MAX for plan in kept._plans.values())


def test_the_rankings_of_a_kind_are_bounded() -> None:
    """However differently busy its deployments are from request to request."""
    router = Router(RoutingSettings(), DEFAULT_TIERS)
    for busy in range(3 * roster.RANKINGS_MAX):
        offers = [replace(each, in_flight=busy) for each in three_offers()]
        assert isinstance(decided(router, chat("Hello"), None, None, offers), Decision)
    (plan,) = router._roster._plans.values()
    assert 0 < len(plan.rankings) <= roster.RANKINGS_MAX


def test_a_longer_prompt_of_the_same_kind_is_judged_anew() -> None:
    """What fits is the prompt's own matter: a kept plan serves no longer one than all its windows hold."""
    router = Router(RoutingSettings(), DEFAULT_TIERS)
    offers = [Offer(deployment("small", LIGHT, context_tokens=100)), Offer(deployment("large", HEAVY))]
    names = []
    for size in (10, 1200, 10):
        decision = decided(router, chat("x" * size, model="light"), None, None, offers)
        assert isinstance(decision, Decision)
        names.append(order(decision))
    assert names == [["small", "large"], ["large"], ["small", "large"]]
    refused = decided(router, chat("x" * 90_000, model="light"), None, None, offers)
    assert isinstance(refused, tuple)
    assert refused[0] is ContextTooLong
