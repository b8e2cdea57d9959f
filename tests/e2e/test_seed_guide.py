"""The code of the original guide runs as it was written, with only its imports and its settings changed.

Between the markers stands the guide's text: its names, its order, its comments and its literals.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trivet import ComplexityEstimator, LLMClient, ModelRouter, ModelTier
from trivet.config.load import load_settings
from trivet.config.settings import Settings
from trivet.domain.errors import EngineUnavailable

TIERS = ("light", "standard", "heavy")


@pytest.fixture(scope="module")
def urls(llama_server: Callable[..., str], tiny_models: Mapping[str, Path]) -> dict[str, str]:
    """A real llama.cpp server for each tier."""
    return {tier: llama_server(tiny_models[tier], context_tokens=512, slots=1) for tier in TIERS}


@pytest.fixture(scope="module", params=["environment", "file"])
def settings(
    request: pytest.FixtureRequest, urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """What `get_settings` finds: the guide's names in the environment, or three servers in a file."""
    directory = tmp_path_factory.mktemp("guide")
    environ = {
        "MODEL_ROUTING_ENABLED": "true",
        "MODEL_LIGHT": "vllm/qwen2.5:7b",
        "MODEL_STANDARD": "vllm/qwen2.5:32b",
        "MODEL_HEAVY": "vllm/qwen2.5:72b",
        "TOKEN_BUDGET_DAILY": "1000000",
        "TOKEN_BUDGET_MONTHLY": "20000000",
        # One server with one model: it is taken for each, whatever it calls the model.
        "VLLM_BASE_URL": urls["light"],
    }
    if request.param == "file":
        tiers = [
            {
                "name": tier,
                "cost_weight": weight,
                "complexity": complexity,
                "deployments": [{"model": f"{engine}/tiny-{tier}", "url": urls[tier]}],
            }
            for tier, weight, complexity, engine in [
                ("light", 1.0, [0.0, 0.3], "llamacpp"),
                ("standard", 3.0, [0.3, 0.7], "openai"),
                ("heavy", 10.0, [0.7, 1.0], "llamacpp"),
            ]
        ]
        (directory / "trivet.yaml").write_text(json.dumps({"tiers": tiers}))
        environ = {}
    return load_settings(environ=environ, directory=directory).settings


async def test_quick_start(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """The quick start: initialise, route a request, check, execute, record, report."""
    # --- 1. Initialize Components ---
    from trivet import (
        BudgetManager,
        ComplexityEstimator,
        FallbackChain,
        LLMClient,
        ModelMetricsCollector,
        ModelRouter,
    )

    llm_client = LLMClient(settings)

    # Initialize router with default models
    router = ModelRouter(settings)

    # Initialize complexity estimator
    estimator = ComplexityEstimator()

    # Initialize budget manager
    budget_manager = BudgetManager(
        default_daily_limit=settings.token_budget_daily,
        default_monthly_limit=settings.token_budget_monthly,
    )

    # Initialize metrics collector
    metrics = ModelMetricsCollector()

    # --- 2. Route a Request ---
    import uuid
    from datetime import datetime, timezone

    # Estimate complexity
    complexity = await estimator.estimate(
        message="Analyze the security implications of this architecture design",
        context_length=1024,
        agent_capabilities=["security_analysis", "architecture"],
        history_length=5,
    )

    # Select model
    model_config = router.route(
        task_type="security_analysis",
        complexity_score=complexity.score,
        agent_spec=None,  # or pass AgentSpec
    )

    print(f"Selected: {model_config.tier.value} - {model_config.model_id}")
    print(f"Complexity: {complexity.score:.2f}")
    print(f"Factors: {complexity.factors}")

    # Check budget
    tenant_id = uuid.uuid4()
    estimated_tokens = 2000

    if not budget_manager.check_budget(tenant_id, estimated_tokens):
        raise RuntimeError("Token budget exceeded")

    # Execute with fallback
    fallback_chain = FallbackChain(
        tiers=[
            router._models[ModelTier.STANDARD],
            router._models[ModelTier.HEAVY],
        ]
    )

    messages = [
        {"role": "user", "content": "Analyze this architecture..."}
    ]  # fmt: skip

    response, actual_tier = await fallback_chain.execute_with_fallback(
        llm_client=llm_client,
        messages=messages,
        preferred_tier=model_config,
    )

    # Record usage
    usage = response.usage
    budget_manager.record_usage(
        tenant_id=tenant_id,
        model_tier=actual_tier.tier,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        complexity_score=complexity.score,
    )

    # Record metrics
    from trivet import RoutingDecision

    decision = RoutingDecision(
        timestamp=datetime.now(timezone.utc),  # noqa: UP017 - the guide's words
        tenant_id=tenant_id,
        task_type="security_analysis",
        selected_tier=actual_tier.tier.value,
        estimated_complexity=complexity.score,
        tokens_used=usage.total_tokens,
        latency_ms=1234.5,  # measure actual latency
    )

    metrics.record_decision(decision)

    # --- 3. Monitor and Report ---
    # Get savings report
    savings = budget_manager.get_savings_report(tenant_id)
    print(f"Tokens saved: {savings['tokens_saved']}")
    print(f"Cost reduction: {savings['cost_reduction_pct']}%")

    # Get tier distribution
    distribution = metrics.get_tier_distribution(tenant_id, period_hours=24)
    print(f"Tier distribution: {distribution}")

    # Get savings estimate
    savings_estimate = metrics.get_savings_estimate(tenant_id, period_hours=24)
    print(f"GPU hours saved: {savings_estimate['gpu_hours_saved']}")

    # Export metrics for dashboard
    export_data = metrics.export_metrics(tenant_id, period_hours=24)
    # --- the guide ends ---

    assert (model_config.tier, actual_tier.tier) == (ModelTier.HEAVY, ModelTier.HEAVY)
    assert response.choices[0].message.role == "assistant"
    assert 0 < usage.total_tokens <= 512
    assert (savings["tokens_used"], savings["tokens_saved"]) == (usage.total_tokens, 0)
    assert (distribution, savings_estimate["engine_hours_saved"]) == ({"heavy": 100.0}, 0.0)
    assert json.loads(json.dumps(export_data))["requests"] == 1
    assert capsys.readouterr().out.splitlines() == [
        f"Selected: heavy - {model_config.model_id}",
        "Complexity: 0.72",
        f"Factors: {complexity.factors}",
        "Tokens saved: 0",
        "Cost reduction: 0.0%",
        "Tier distribution: {'heavy': 100.0}",
        "GPU hours saved: 0.0",
    ]


IntentClassification = str


# --- Integration with Orchestrator: the lines that the guide elides are marked ---
class AgentOrchestrator:
    """The guide's orchestrator."""

    def __init__(self, settings: Settings) -> None:
        # ... existing init
        self._llm = LLMClient(settings)  # elided in the guide
        self._model_router = ModelRouter(settings)
        self._complexity_estimator = ComplexityEstimator()

    async def _classify_intent(self, message: str) -> IntentClassification:
        # Estimate complexity
        complexity = await self._complexity_estimator.estimate(
            message=message,
            context_length=0,
            agent_capabilities=None,
            history_length=0,
        )

        # Route to appropriate model
        model_config = self._model_router.route(
            task_type="intent_classification",
            complexity_score=complexity.score,
        )

        messages = [{"role": "user", "content": message}]  # elided in the guide
        # Use model_config.model_id for LLM call
        response = await self._llm.complete(
            messages=messages,
            model=model_config.model_id,  # Use routed model
            temperature=0.1,
            max_tokens=256,
        )
        # ...
        assert 0 < response.usage.completion_tokens <= 256
        return model_config.tier.value


async def test_orchestrator(settings: Settings) -> None:
    """The orchestrator block: classify an intent on the tier that its message deserves."""
    assert await AgentOrchestrator(settings)._classify_intent("Book a table for two") == "light"


# --- Testing: the guide's own test ---
@pytest.mark.asyncio
async def test_complexity_estimation() -> None:
    """The guide's test of the estimator passes."""
    estimator = ComplexityEstimator()

    # Simple task
    simple = await estimator.estimate("Hello", context_length=0)
    assert simple.score < 0.3
    assert simple.recommended_tier == "light"

    # Complex task
    complex_msg = """
    Analyze the security implications of implementing a
    zero-trust architecture with mutual TLS authentication...
    """
    complex = await estimator.estimate(  # noqa: A001 - the guide's words
        message=complex_msg,
        context_length=2048,
        agent_capabilities=["security_analysis"],
    )
    assert complex.score > 0.7
    assert complex.recommended_tier == "heavy"


# --- beyond the guide: what it promises in words ---
async def test_the_guides_chain_survives_a_dead_tier(settings: Settings) -> None:
    """ "Always use FallbackChain": with HEAVY dead, STANDARD answers, and the saving is counted for it."""
    from trivet import BudgetManager, FallbackChain

    tree: dict[str, Any] = settings.model_dump(exclude_unset=True)
    dead = [{"model": "openai/dead", "url": "http://127.0.0.1:9"}]
    tiers = [tier.model_dump(exclude_unset=True) for tier in settings.tiers]
    half_dead = Settings.model_validate(tree | {"tiers": [*tiers[:2], {**tiers[2], "deployments": dead}]})
    router = ModelRouter(half_dead)
    chain = FallbackChain(tiers=[router._models[ModelTier.STANDARD], router._models[ModelTier.HEAVY]])
    response, actual_tier = await chain.execute_with_fallback(
        llm_client=LLMClient(half_dead),
        messages=[{"role": "user", "content": "Hello"}],
        preferred_tier=router.route("security_analysis", 0.9),
        max_tokens=10,
    )
    assert actual_tier.tier == ModelTier.STANDARD
    budgets = BudgetManager()
    usage = response.usage
    budgets.record_usage("acme", actual_tier.tier, usage.prompt_tokens, usage.completion_tokens)
    assert budgets.get_savings_report("acme")["cost_reduction_pct"] == 70.0
    with pytest.raises(EngineUnavailable):
        await LLMClient(half_dead).complete([{"role": "user", "content": "Hello"}], model="heavy")
