"""ModelRouter: from a task type and a score to a tier and its model."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

from tests.unit.sdk.conftest import MakeSettings
from trivet import ModelRouter, ModelTier
from trivet.config.settings import Settings
from trivet.domain.errors import RequestMalformed
from trivet.sdk.model_names import FurtherTier

FIVE = [
    {
        "name": name,
        "cost_weight": weight,
        "complexity": complexity,
        "deployments": [{"model": f"ollama/{name}"}],
    }
    for name, weight, complexity in [
        ("tiny", 0.5, (0.0, 0.1)),
        ("light", 1.0, (0.1, 0.3)),
        ("standard", 3.0, (0.3, 0.7)),
        ("heavy", 10.0, (0.7, 0.9)),
        ("cloud", 40.0, (0.9, 1.0)),
    ]
]


@pytest.fixture(scope="module")
def router() -> ModelRouter:
    """A router over the default configuration."""
    return ModelRouter(Settings())


@pytest.mark.parametrize(
    ("score", "tier"),
    [
        (0.0, ModelTier.LIGHT),
        (0.2999, ModelTier.LIGHT),
        (0.3, ModelTier.STANDARD),
        (0.6999, ModelTier.STANDARD),
        (0.7, ModelTier.HEAVY),
        (1.0, ModelTier.HEAVY),
        (1, ModelTier.HEAVY),
    ],
)
def test_score_ranges(router: ModelRouter, score: float, tier: ModelTier) -> None:
    """Ranges are half open: a boundary belongs to the tier above it."""
    assert router.route("anything", score).tier == tier


@pytest.mark.parametrize(
    ("task_type", "score", "tier", "max_tokens", "temperature"),
    [
        ("fix_bug", 0.0, "standard", 2048, 0.2),
        ("fix_bug", 0.9, "heavy", 2048, 0.2),
        ("simple_query", 0.9, "light", 512, 0.0),
        ("analyze_logs", 0.5, "standard", 1024, None),
        ("unheard_of", 0.9, "heavy", 2048, None),
        (None, 0.1, "light", 1024, None),
    ],
)
def test_policies_clamp(
    router: ModelRouter,
    task_type: str | None,
    score: float,
    tier: str,
    max_tokens: int,
    temperature: float | None,
) -> None:
    """The policy of the task type limits the tier and sets length and temperature."""
    config = router.route(task_type, score)
    assert (config.tier, config.max_tokens, config.temperature) == (tier, max_tokens, temperature)


class TheirTier(Enum):
    """Another product's tiers."""

    HEAVY = "heavy"


@dataclass
class AgentSpec:
    """Somebody's agent specification, with fields that mean nothing here."""

    name: str = "auditor"
    min_tier: Any = None
    max_tier: Any = None
    preferred_tier: Any = None


@pytest.mark.parametrize(
    ("spec", "tier"),
    [
        (None, "light"),
        (object(), "light"),
        ({}, "light"),
        ({"skills": ["x"], "tier": None}, "light"),
        ({"min_tier": "standard"}, "standard"),
        (AgentSpec(min_tier=ModelTier.HEAVY), "heavy"),
        (AgentSpec(min_tier=TheirTier.HEAVY), "heavy"),
        ({"preferred_tier": "HEAVY"}, "heavy"),
        ({"tier": "standard"}, "standard"),
        (AgentSpec(preferred_tier="heavy", max_tier="standard"), "standard"),
    ],
)
def test_agent_specs(router: ModelRouter, spec: Any, tier: str) -> None:
    """An agent may limit or prefer a tier, as an object or a mapping; other fields are ignored."""
    assert router.route("anything", 0.1, agent_spec=spec).tier == tier


def test_an_agents_limit_wins_over_the_policy(router: ModelRouter) -> None:
    """Where agent and policy exclude each other, the agent knows its task better."""
    assert router.route("simple_query", 0.1, agent_spec={"min_tier": "heavy"}).tier == ModelTier.HEAVY
    assert router.route("simple_query", 0.1, agent_spec={"tier": "heavy"}).tier == ModelTier.HEAVY


def test_routing_disabled(make_settings: MakeSettings) -> None:
    """With routing off all goes to the fixed tier, whatever score and policy say; agents still limit."""
    router = ModelRouter(make_settings(routing={"enabled": False}))
    assert [router.route(task, 0.95).tier for task in ("fix_bug", "simple_query")] == [ModelTier.STANDARD] * 2
    assert router.route("fix_bug", 0.1, agent_spec={"max_tier": "light"}).tier == ModelTier.LIGHT


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf"), "0.5", None, True])
def test_a_senseless_score_is_refused(router: ModelRouter, score: Any) -> None:
    """A score is a number from 0 to 1."""
    with pytest.raises(RequestMalformed, match="complexity_score"):
        router.route("anything", score)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"tier": "gold"}, "gold"),
        ({"min_tier": "gold"}, "gold"),
        ({"min_tier": "heavy", "max_tier": "light"}, "above"),
        ({"max_tier": 3}, "max_tier"),
    ],
)
def test_a_senseless_agent_is_refused(router: ModelRouter, spec: Any, message: str) -> None:
    """A tier that does not exist is never silently something else."""
    with pytest.raises(RequestMalformed, match=message):
        router.route("anything", 0.5, agent_spec=spec)


def test_models_of_the_default_configuration(router: ModelRouter) -> None:
    """The guide's three tiers have the guide's models and weights, by ModelTier and by name."""
    assert [(c.tier.value, c.model_id, c.cost_weight) for c in router.models.values()] == [
        ("light", "ollama/qwen2.5:7b", 1.0),
        ("standard", "ollama/qwen2.5:32b", 3.0),
        ("heavy", "vllm/qwen2.5:72b", 10.0),
    ]
    assert router._models[ModelTier.HEAVY] is router._models["heavy"]


def test_further_tiers_are_strings_with_a_value() -> None:
    """Tiers beyond the three standard ones are found by name, and `.value` works on them too."""
    router = ModelRouter(Settings.model_validate({"tiers": FIVE}))
    chosen = router.route("anything", 0.95)
    assert (chosen.tier, chosen.tier.value, chosen.model_id) == ("cloud", "cloud", "ollama/cloud")
    assert isinstance(chosen.tier, FurtherTier)
    assert [type(tier) for tier in router.models] == [
        FurtherTier,
        ModelTier,
        ModelTier,
        ModelTier,
        FurtherTier,
    ]
    assert router._models["tiny"].cost_weight == 0.5
    assert router.route("anything", 0.05, agent_spec={"preferred_tier": "cloud"}).tier == "cloud"


def test_a_shared_model_string_gives_way_to_the_name(make_settings: MakeSettings) -> None:
    """Where two deployments have one LiteLLM string, `model_id` is what reaches exactly one."""
    url = "http://127.0.0.1:9"
    settings = make_settings(
        light=[{"model": "openai/same", "name": "small-box", "url": url}],
        standard=[{"model": "openai/same", "name": "big-box", "url": url}],
        heavy=[{"model": "openai/other", "name": "third", "url": url}],
    )
    assert [c.model_id for c in ModelRouter(settings).models.values()] == [
        "small-box",
        "big-box",
        "openai/other",
    ]
