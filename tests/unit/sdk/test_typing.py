"""What a type checker knows of the public surface. `mypy` proves it; running it proves that it imports."""

import json
from collections.abc import Callable
from typing import Any, assert_type

import trivet
from tests.unit.sdk.conftest import MakeSettings
from trivet import (
    BudgetManager,
    ComplexityEstimator,
    FallbackChain,
    LLMClient,
    ModelMetricsCollector,
    ModelRouter,
    ModelTier,
    get_settings,
)
from trivet.config.settings import Settings
from trivet.domain.budgets import Settlement
from trivet.sdk.model_names import FurtherTier
from trivet.sdk.router_face import ModelConfig


def test_lazy_names_are_typed() -> None:
    """The names that are loaded late are no Any to a type checker."""
    assert_type(trivet.ModelTier, type[ModelTier])
    loader: Callable[[], Settings] = get_settings
    assert_type(loader, Callable[[], Settings])
    assert_type(trivet.__version__, str)


def test_router_types(make_settings: MakeSettings) -> None:
    """A routed model has a tier with `.value`, whichever tier it is."""
    router = ModelRouter(make_settings())
    config = router.route(task_type="chat", complexity_score=0.1, agent_spec=None)
    assert_type(config, ModelConfig)
    assert_type(config.tier, ModelTier | FurtherTier)
    assert_type(config.tier.value, str)
    assert_type(router._models[ModelTier.HEAVY], ModelConfig)
    assert_type(router.models["heavy"], ModelConfig)


def test_budget_types() -> None:
    """A booking returns a settlement; reports are dictionaries."""
    budgets = BudgetManager()
    assert_type(budgets.check_budget("acme", 10), bool)
    assert_type(budgets.record_usage("acme", ModelTier.LIGHT, 1, 1), Settlement)
    assert_type(budgets.get_savings_report("acme"), dict[str, Any])


def test_metrics_types() -> None:
    """A distribution maps names to shares."""
    assert_type(ModelMetricsCollector().get_tier_distribution(), dict[str, float])
    assert json.dumps(ModelMetricsCollector().export_metrics())


async def test_chain_types(make_settings: MakeSettings) -> None:
    """The chain returns what its client returns; LLMClient's answer always has usage."""
    estimate = await ComplexityEstimator().estimate("Hello")
    assert_type(estimate.score, float)
    settings = make_settings()
    chain = FallbackChain(tiers=[ModelRouter(settings).models["light"]])

    async def typed(client: LLMClient) -> int:
        response, config = await chain.execute_with_fallback(client, [{"role": "user", "content": "Hello"}])
        assert_type(config, ModelConfig)
        assert_type(response.usage.total_tokens, int)
        return response.usage.total_tokens

    assert typed.__name__ == "typed"
