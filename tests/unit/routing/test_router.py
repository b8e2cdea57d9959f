"""Decisions: which tier, which candidates, which reasons, which refusals."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.routing.parts import (
    HEAVY,
    LIGHT,
    STANDARD,
    TOOL,
    ZERO_TRUST,
    chat,
    codes,
    decide,
    deployment,
    order,
    three_offers,
)
from trivet.config.settings import PolicySettings, RoutingSettings
from trivet.domain.decisions import Offer
from trivet.domain.errors import ContextTooLong, ModelUnknown, NoCandidate, PermissionDenied, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Tier
from trivet.routing import decision_as_json

DEMANDING = {"capabilities": ["security_analysis"], "context_tokens": 2048}


def key(tiers: set[str] | None = None, models: set[str] | None = None) -> Principal:
    """Return a principal whose key is limited."""
    return Principal(
        key_id="k", scope=Scope("acme"), tiers=frozenset(tiers or ()), models=frozenset(models or ())
    )


def with_hints(**hints: Any) -> dict[str, Any]:
    """Return a greeting with hints in its metadata."""
    return chat(metadata=hints)


def test_a_greeting_goes_to_light() -> None:
    """A simple request is served by the cheapest tier; the dearer ones are fallbacks, nearest first."""
    decision = decide(chat())
    assert order(decision) == ["light-1", "standard-1", "heavy-1"]
    assert (decision.strategy, decision.policy) == ("complexity", "normal")
    assert codes(decision) == ["complexity", "policy", "chosen"]
    assert 0.0 < decision.confidence < 1.0
    assert decision.rejected == ()


def test_demanding_work_goes_to_heavy() -> None:
    """Security work on a large context is served by the top tier, and falls back downwards."""
    decision = decide(chat(ZERO_TRUST, metadata=DEMANDING))
    assert order(decision) == ["heavy-1", "standard-1", "light-1"]
    assert decision.complexity.recommended_tier == "heavy"


@pytest.mark.parametrize(
    ("task_type", "policy", "expected"),
    [
        ("fix_bug", "code", ["standard-1", "heavy-1"]),
        ("simple_query", "ops", ["light-1"]),
        ("analyze_logs", "normal", ["light-1", "standard-1", "heavy-1"]),
        ("juggling", "normal", ["light-1", "standard-1", "heavy-1"]),
    ],
)
def test_policies_limit_the_tiers(task_type: str, policy: str, expected: list[str]) -> None:
    """A task type's policy bounds the candidates."""
    decision = decide(with_hints(task_type=task_type))
    assert decision.policy == policy
    assert expected == order(decision)


def test_a_policy_that_moves_the_target_says_so() -> None:
    """A clamped decision is certain and tells each step."""
    decision = decide(with_hints(task_type="fix_bug"))
    assert codes(decision) == ["complexity", "policy", "policy_min_tier", "target_clamped", "chosen"]
    assert decision.confidence == 1.0
    assert [(r.deployment.name, r.code) for r in decision.rejected] == [("light-1", "below_min_tier")]


def test_a_hint_wins_over_a_policy() -> None:
    """A caller that asks for more than its policy allows gets it, with a reason."""
    decision = decide(with_hints(task_type="simple_query", min_tier="heavy"))
    assert order(decision) == ["heavy-1"]
    assert "hint_over_policy" in codes(decision)


def test_a_hint_limits_from_above() -> None:
    """max_tier bounds demanding work; the rejected tier's extra cost is named."""
    decision = decide(chat(ZERO_TRUST, metadata={**DEMANDING, "max_tier": "standard"}))
    assert order(decision) == ["standard-1", "light-1"]
    (rejection,) = decision.rejected
    assert (rejection.code, rejection.cost_difference) == ("above_max_tier", 7.0)


def test_an_unknown_tier_in_a_hint_is_refused() -> None:
    """A misspelt tier is an error, not ignored."""
    with pytest.raises(RequestMalformed, match="light, standard, heavy"):
        decide(chat(), headers={"x-trivet-min-tier": "hevy"})


def test_a_tier_can_be_asked_for() -> None:
    """A tier's name as model makes it the target; policies do not move it, other tiers are fallbacks."""
    decision = decide(with_hints(task_type="simple_query") | {"model": "heavy"})
    assert order(decision) == ["heavy-1", "standard-1", "light-1"]
    assert (decision.strategy, decision.confidence) == ("tier", 1.0)
    assert codes(decision)[0] == "tier_requested"


@pytest.mark.parametrize("model", ["standard-1", "standard-1-model"])
def test_a_deployment_can_be_pinned(model: str) -> None:
    """A deployment's name, or its engine's model name, leaves no other candidate."""
    decision = decide(chat(model=model))
    assert order(decision) == ["standard-1"]
    assert (decision.strategy, decision.confidence) == ("pinned", 1.0)
    assert {r.code for r in decision.rejected} == {"other_deployment_pinned"}
    assert codes(decision) == ["deployment_requested", "chosen"]


def test_a_pinned_deployment_still_obeys_hints() -> None:
    """Pinning above the caller's own max_tier contradicts itself and is refused."""
    with pytest.raises(NoCandidate, match="above the highest allowed"):
        decide(with_hints(max_tier="light") | {"model": "heavy-1"})


def test_an_unknown_model_is_refused_with_the_nearest_name_first() -> None:
    """The error names what there is, the likeliest first."""
    with pytest.raises(ModelUnknown) as caught:
        decide(chat(model="heavi"))
    assert str(caught.value).startswith("There is no model called 'heavi'. Did you mean heavy?")
    assert caught.value.details["names"][0] == "heavy"
    assert sorted(caught.value.details["names"]) == sorted(
        ["auto", "light", "standard", "heavy", "light-1", "standard-1", "heavy-1"]
    )


def test_an_unknown_model_lists_only_what_the_key_may_use() -> None:
    """A limited key does not learn of other deployments."""
    with pytest.raises(ModelUnknown) as caught:
        decide(chat(model="zzz"), principal=key(tiers={"light"}))
    assert caught.value.details["names"] == ["auto", "light", "light-1"]


def test_a_model_name_that_several_have_is_ambiguous() -> None:
    """A bare model name must be unique."""
    offers = [Offer(deployment(name, LIGHT, model="same")) for name in ("one", "two")]
    with pytest.raises(ModelUnknown, match="one, two"):
        decide(chat(model="same"), offers)


@pytest.mark.parametrize(
    ("fixed_tier", "expected"), [("standard", "standard-1"), ("light", "light-1"), ("absent", "standard-1")]
)
def test_with_routing_off_auto_is_fixed(fixed_tier: str, expected: str) -> None:
    """Switched off, everything goes to the fixed tier, or to the middle one if that is absent."""
    routing = RoutingSettings(enabled=False, fixed_tier=fixed_tier)
    decision = decide(chat(metadata={"task_type": "simple_query"}), routing=routing)
    assert order(decision)[0] == expected
    assert (decision.strategy, decision.confidence) == ("fixed", 1.0)
    assert codes(decision)[0] == "routing_disabled"


def test_other_tiers_than_the_default_ones() -> None:
    """Policies that speak of absent tiers are read without them."""
    tiers = (
        Tier(name="small", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=0.5),
        Tier(name="large", order=1, cost_weight=4.0, complexity_low=0.5, complexity_high=1.0),
    )
    offers = [Offer(deployment(f"{tier.name}-1", tier)) for tier in tiers]
    decision = decide(with_hints(task_type="simple_query"), offers, tiers=tiers)
    assert order(decision) == ["small-1", "large-1"]
    assert decision.policy == "ops"


def test_an_unready_target_is_escalated() -> None:
    """With the target down, the next higher tier serves; the target stays the last resort."""
    decision = decide(chat(), three_offers(light="down"))
    assert order(decision) == ["standard-1", "heavy-1", "light-1"]
    assert codes(decision) == ["complexity", "policy", "unavailable", "escalated", "chosen"]


def test_an_unready_top_is_downgraded() -> None:
    """With the top tier resting, the next lower one serves."""
    decision = decide(chat(model="heavy"), three_offers(heavy="open"))
    assert order(decision) == ["standard-1", "light-1", "heavy-1"]
    assert "downgraded" in codes(decision)


def test_who_was_passed_over_for_its_wait_is_named() -> None:
    """A target that sleeps for long is passed over for the tier above; one worth waiting for is not."""
    light, standard, heavy = three_offers(light="sleeping")
    decisions = [decide(chat(), [replace(light, wait_s=wait_s), standard, heavy]) for wait_s in (2.0, 40.0)]
    assert [order(decision)[0] for decision in decisions] == ["light-1", "standard-1"]
    assert [decision.passed_over for decision in decisions] == [None, "light-1"]
    assert decide(chat()).passed_over is None


def test_when_nothing_is_ready_the_loading_one_is_tried() -> None:
    """A loading engine is better than one that does not answer, even in a wrong tier."""
    decision = decide(chat(), three_offers(light="down", standard="loading", heavy="open"))
    assert order(decision) == ["standard-1", "light-1", "heavy-1"]
    assert "last_resort" in codes(decision)


@pytest.mark.parametrize(
    ("body", "change", "code"),
    [
        (with_hints(local_only=True), {"local": False}, "not_local"),
        (chat(tools=[TOOL]), {"capabilities": frozenset({"vision"})}, "capability_missing"),
        (chat(logprobs=True), {"capabilities": frozenset()}, "capability_missing"),
        (chat("x" * 9000), {"context_tokens": 1000}, "context_too_small"),
    ],
)
def test_a_deployment_that_cannot_serve_is_rejected(
    body: dict[str, Any], change: dict[str, Any], code: str
) -> None:
    """What the request needs rules out a deployment, and the next one serves."""
    offers = [
        Offer(deployment("small", LIGHT, **change)),
        Offer(deployment("able", STANDARD, context_tokens=32768)),
    ]
    decision = decide(body, offers)
    assert order(decision) == ["able"]
    (rejection,) = decision.rejected
    assert (rejection.code, rejection.cost_difference, rejection.quality_difference) == (code, -2.0, None)
    assert code in codes(decision)


def test_missing_capabilities_are_named() -> None:
    """The rejection says which capabilities a deployment lacks."""
    offers = [Offer(deployment("plain", LIGHT, capabilities=frozenset({"tools"})))]
    with pytest.raises(NoCandidate, match="plain lacks json_schema, logprobs"):
        decide(chat(tools=[TOOL], logprobs=True, response_format={"type": "json_object"}), offers)


def test_a_context_window_that_might_do_is_kept() -> None:
    """A prompt whose bytes exceed the window, but perhaps not its tokens, is the engine's to judge."""
    offers = [Offer(deployment("small", LIGHT, context_tokens=1000))]
    assert order(decide(chat("x" * 7900), offers)) == ["small"]


def test_a_prompt_that_fits_nowhere_names_the_largest_window() -> None:
    """All too small is a context error, not a missing candidate."""
    offers = [
        Offer(deployment("small", LIGHT, context_tokens=500)),
        Offer(deployment("large", HEAVY, context_tokens=1000)),
    ]
    with pytest.raises(ContextTooLong, match="large: 1000 tokens") as caught:
        decide(chat("x" * 9000), offers)
    assert caught.value.details["largest_context_tokens"] == 1000
    assert [entry["code"] for entry in caught.value.details["rejected"]] == ["context_too_small"] * 2


def test_a_context_error_within_the_callers_limit_names_the_limit() -> None:
    """If a higher tier might do but is excluded, the hint says so."""
    offers = [Offer(deployment("small", LIGHT, context_tokens=500)), Offer(deployment("large", HEAVY))]
    with pytest.raises(ContextTooLong, match="or allow a higher tier"):
        decide(chat("x" * 9000, metadata={"max_tier": "light"}), offers)


@pytest.mark.parametrize("principal", [key(tiers={"light"}), key(models={"light-1"})])
def test_a_limited_key_stays_within_its_limits(principal: Principal) -> None:
    """Demanding work of a limited key is served by what the key allows, with the reason."""
    decision = decide(chat(ZERO_TRUST, metadata=DEMANDING), principal=principal)
    assert order(decision) == ["light-1"]
    assert "downgraded" in codes(decision)


@pytest.mark.parametrize("body", [chat(ZERO_TRUST, metadata=DEMANDING), chat(model="light-1")])
def test_a_tenant_is_told_of_no_deployment_beyond_its_key(body: dict[str, Any]) -> None:
    """Neither the rejections nor the reasons name what a limited key may not use."""
    decision = decide(body, principal=key(tiers={"light"}))
    assert decision.rejected == ()
    assert [r for r in decision.reasons if "standard-1" in r.text or "heavy-1" in r.text] == []
    assert "key_not_allowed" not in codes(decision)


def test_an_admin_is_told_what_its_key_rules_out() -> None:
    """An administrator sees every deployment with its reason."""
    admin = replace(key(tiers={"light"}), role="admin")
    decision = decide(chat(ZERO_TRUST, metadata=DEMANDING), principal=admin)
    assert [r.code for r in decision.rejected] == ["key_not_allowed", "key_not_allowed"]
    assert "key_not_allowed" in codes(decision)


def test_a_refusal_names_nothing_beyond_the_key() -> None:
    """A tenant that is refused for several reasons gets those of its own deployments only."""
    offers = [
        Offer(deployment("plain", LIGHT, capabilities=frozenset())),
        Offer(deployment("secret", HEAVY, capabilities=frozenset())),
    ]
    with pytest.raises(NoCandidate, match="plain lacks tools") as caught:
        decide(chat(tools=[TOOL]), offers, principal=key(tiers={"light"}))
    assert [entry["model"] for entry in caught.value.details["rejected"]] == ["plain-model"]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("model", ["auto", "heavy-1", "heavy"])
def test_a_key_that_allows_nothing_of_what_is_asked_is_refused(model: str) -> None:
    """All ruled out by the key, or the very tier that was asked for, is a matter of permission."""
    principal = key(models={"gone"}) if model == "auto" else key(tiers={"light"})
    with pytest.raises(PermissionDenied):
        decide(chat(model=model), principal=principal)


def test_several_causes_are_listed() -> None:
    """Where no single cause explains it, every deployment's reason is in the error."""
    offers = [
        Offer(deployment("remote", LIGHT, local=False)),
        Offer(deployment("plain", HEAVY, capabilities=frozenset())),
    ]
    with pytest.raises(NoCandidate) as caught:
        decide(chat(tools=[TOOL], metadata={"local_only": "1"}), offers)
    assert [(r["tier"], r["code"], r["cost_difference"]) for r in caught.value.details["rejected"]] == [
        ("light", "not_local", None),
        ("heavy", "capability_missing", None),
    ]


def test_without_any_deployment_there_is_no_candidate() -> None:
    """An installation without engines says so."""
    with pytest.raises(NoCandidate, match="No engine is configured"):
        decide(chat(), [])


@pytest.mark.parametrize(
    ("fields", "task_type", "expected", "code"),
    [
        ({}, None, 1024, None),
        ({"max_tokens": 100}, None, 100, None),
        ({"max_tokens": 5000}, None, 1024, "output_capped"),
        ({}, "simple_query", 512, None),
        ({"max_tokens": 900}, "simple_query", 900, None),
        ({}, "fix_bug", 2048, None),
        ({"max_tokens": 5000}, "fix_bug", 2048, "output_capped"),
    ],
)
def test_the_output_cap(
    fields: dict[str, Any], task_type: str | None, expected: int, code: str | None
) -> None:
    """The caller's limit, else the policy's, else the tier's; more than the cap is lowered with a reason."""
    decision = decide(chat(**fields, metadata={"task_type": task_type}))
    assert expected == decision.max_output_tokens == decision.estimated.max_output_tokens
    assert (code is None) == ("output_capped" not in codes(decision))


@pytest.mark.parametrize(
    ("text", "window", "asked", "expected"),
    [("Hello", 256, None, 173), ("x" * 600, 256, None, 32), ("Hello", 256, 5000, 255), ("", 1, None, 1)],
)
def test_the_output_fits_the_window(text: str, window: int, asked: int | None, expected: int) -> None:
    """A default is lowered to the room beside the prompt, but an eighth; a wish to the window less one."""
    offers = [Offer(deployment("small", LIGHT, context_tokens=window))]
    decision = decide(chat(text, max_tokens=asked), offers)
    assert expected == decision.max_output_tokens
    assert ("output_capped" if asked else "output_fitted") in codes(decision)


def test_the_estimate_is_a_ceiling_for_every_candidate() -> None:
    """The widest template among the candidates is counted, so that a fallback stays within the hold."""
    offers = [
        Offer(deployment("a", LIGHT, template_tokens=10)),
        Offer(deployment("b", HEAVY, template_tokens=300)),
    ]
    assert decide(chat("Hello"), offers).estimated.prompt_tokens == len("userHello") + 16 + 300


@pytest.mark.parametrize(("task_type", "expected"), [("fix_bug", 0.2), ("analyze_logs", 0.6)])
def test_the_default_temperature(task_type: str, expected: float) -> None:
    """A policy's temperature comes before the tier's."""
    warm = Tier(
        name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0, temperature=0.6
    )
    decision = decide(with_hints(task_type=task_type), [Offer(deployment("a", warm))], tiers=[warm])
    assert expected == decision.temperature


def test_configured_policies_apply() -> None:
    """An operator's own policy and task type work as the built-in ones do."""
    routing = RoutingSettings(
        policies={
            "normal": PolicySettings(),
            "night": PolicySettings(max_tier="light", max_output_tokens=64),
        },
        task_types={"batch": "night"},
    )
    decision = decide(with_hints(task_type="batch"), routing=routing)
    assert (order(decision), decision.policy, decision.max_output_tokens) == (["light-1"], "night", 64)


def test_a_decision_as_json_has_exactly_the_fields_of_the_contract() -> None:
    """The JSON is the answer of POST /api/v1/route without `budget`."""
    answer = decision_as_json(decide(with_hints(max_tier="standard")))
    assert set(answer) == {
        "decision_id", "tier", "model", "deployment", "complexity", "confidence", "policy", "strategy",
        "reasons", "candidates", "rejected", "estimated",
    }  # fmt: skip
    assert (answer["decision_id"], answer["tier"], answer["model"], answer["deployment"]) == (
        "d-1",
        "light",
        "light-1-model",
        "light-1",
    )
    assert set(answer["complexity"]) == {"score", "factors", "recommended_tier"}
    assert set(answer["reasons"][0]) == {"code", "text"}
    assert set(answer["candidates"][0]) == {"tier", "model", "deployment", "score", "terms"}
    assert answer["rejected"] == [
        {
            "tier": "heavy",
            "model": "heavy-1-model",
            "code": "above_max_tier",
            "reason": "Tier heavy is above the highest allowed, standard.",
            "cost_difference": 9.0,
            "quality_difference": None,
        }
    ]
    assert set(answer["estimated"]) == {
        "prompt_tokens", "max_output_tokens", "usd_micros", "device_s", "latency_ms",
    }  # fmt: skip
