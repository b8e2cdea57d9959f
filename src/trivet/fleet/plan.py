"""What an endpoint is made from."""

from dataclasses import dataclass

from trivet.config.settings import LaunchSettings
from trivet.domain.tiers import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """What an endpoint is made from."""

    deployment: Deployment
    api_key: str | None = None
    launch: LaunchSettings | None = None
    context_pinned: bool = False
    """The operator set `context_tokens`; else the engine's own figure is taken."""
