"""What an endpoint is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trivet.config.settings import LaunchSettings, OllamaSettings
from trivet.domain.tiers import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """What an endpoint is made from."""

    deployment: Deployment
    api_key: str | None = None
    launch: LaunchSettings | None = None
    context_pinned: bool = False
    """The operator set `context_tokens`; else the engine's own figure is taken."""
    capabilities_pinned: bool = True
    """The operator set `capabilities`; else what Ollama says of a model that Trivet drives is taken."""
    ollama: OllamaSettings | None = None
    """How to drive a model of an Ollama server; None: only requests are sent to it."""
    gpu: str = "cpu"
    """The driver's name of the GPU that it uses; of several, the first's."""
    predicted: Mapping[str, Any] | None = None
    """What the footprint of the model says it will take, in GiB; None where nobody can say."""
