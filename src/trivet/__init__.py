"""Trivet: a self-hosted local-inference tier orchestrator.

Names are loaded when first asked for, so that `import trivet` costs nothing and imports no library.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trivet.version import __version__

if TYPE_CHECKING:
    from trivet.config.load import get_settings
    from trivet.domain.tiers import ModelTier
    from trivet.routing.complexity import ComplexityEstimator
    from trivet.sdk.budget_face import BudgetManager
    from trivet.sdk.chain_face import FallbackChain
    from trivet.sdk.client import Trivet
    from trivet.sdk.llm_client import LLMClient
    from trivet.sdk.metrics_face import ModelMetricsCollector, RoutingDecision
    from trivet.sdk.router_face import ModelRouter

__all__ = [
    "BudgetManager",
    "ComplexityEstimator",
    "FallbackChain",
    "LLMClient",
    "ModelMetricsCollector",
    "ModelRouter",
    "ModelTier",
    "RoutingDecision",
    "Trivet",
    "__version__",
    "get_settings",
]

_HOMES = {
    "BudgetManager": "trivet.sdk.budget_face",
    "ComplexityEstimator": "trivet.routing.complexity",
    "FallbackChain": "trivet.sdk.chain_face",
    "LLMClient": "trivet.sdk.llm_client",
    "ModelMetricsCollector": "trivet.sdk.metrics_face",
    "ModelRouter": "trivet.sdk.router_face",
    "ModelTier": "trivet.domain.tiers",
    "RoutingDecision": "trivet.sdk.metrics_face",
    "Trivet": "trivet.sdk.client",
    "get_settings": "trivet.config.load",
}


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562) and keep it, so that this is called once for each."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, the ones not loaded yet included."""
    return list(__all__)
