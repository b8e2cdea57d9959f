"""`ModelRouter`: from a task type and a complexity score to a tier and its model, without an engine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from trivet.config.deployments import build_tiers
from trivet.config.settings import RoutingSettings, Settings, TierSettings
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import Hints
from trivet.domain.tiers import ModelTier
from trivet.routing.complexity import recommended_tier
from trivet.routing.policies import Policy, PolicyBook, tier_range
from trivet.sdk.model_names import FurtherTier, model_id_of, tier_named


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What to call for one tier."""

    tier: ModelTier | FurtherTier
    model_id: str
    """LiteLLM form, such as `ollama/qwen2.5:7b`; the deployment's name where several share that string."""
    cost_weight: float
    """What a token costs here, relative to the cheapest tier."""
    temperature: float | None = None
    """Sampling temperature to use; None leaves it to the engine."""
    max_tokens: int | None = None
    """Most tokens to generate; None leaves it to the tier."""


class ModelRouter:
    """Chooses a tier by complexity, within what the task type's policy and the agent allow.

    It knows the configuration only, not which engines run: `Trivet.open(...).route` knows both.
    Stateless after construction; safe to share between threads.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the tiers and the routing section of the settings."""
        self._enabled = settings.routing.enabled
        self._policies = _policy_book(settings.routing)
        self._tiers = build_tiers(settings)
        self._orders = {tier.name: tier.order for tier in self._tiers}
        self._fixed = self._orders.get(settings.routing.fixed_tier, len(self._tiers) // 2)
        self._models: dict[ModelTier | str, ModelConfig] = {
            tier_named(tier.name): _model_config(settings, tier) for tier in settings.tiers
        }

    @property
    def models(self) -> Mapping[ModelTier | str, ModelConfig]:
        """Return the model of each tier, cheapest first; plain names are as good keys as ModelTier."""
        return MappingProxyType(self._models)

    def route(self, task_type: str | None, complexity_score: float, agent_spec: Any = None) -> ModelConfig:
        """Return the tier and model for a task.

        The score's range recommends a tier; the policy of the task type and the agent's limits clamp it.
        A tier that the agent prefers replaces the recommendation and the policy's limits. With routing
        disabled it is the fixed tier, unless the agent says otherwise.

        Args:
            task_type: such as `security_analysis`; one that is not configured falls under the default policy.
            complexity_score: 0 to 1.
            agent_spec: any object or mapping that may have `min_tier`, `max_tier` and `preferred_tier` (or
                `tier`), each a ModelTier or a tier's name; whatever else it has is not looked at.

        Raises:
            RequestMalformed: the score is not a number from 0 to 1, the agent names an unknown tier, or its
                `min_tier` is above its `max_tier`.
        """
        score = _checked_score(complexity_score)
        policy = self._policies.find(task_type)
        hints = Hints(
            min_tier=_tier_said(agent_spec, "min_tier"), max_tier=_tier_said(agent_spec, "max_tier")
        )
        preferred = _tier_said(agent_spec, "preferred_tier") or _tier_said(agent_spec, "tier")
        limits: Policy | None = None
        if preferred is not None:
            order = self._order(preferred)
        elif self._enabled:
            order, limits = recommended_tier(score, self._tiers).order, policy
        else:
            order = self._fixed
        chosen = self._tiers[tier_range(self._tiers, hints, limits).clamp(order)]
        return _under(policy, self._models[chosen.name])

    def _order(self, name: str) -> int:
        if name not in self._orders:
            raise RequestMalformed(
                f"preferred_tier: no tier is called {name!a}.",
                hint=f"The tiers are {', '.join(self._orders)}.",
                param="preferred_tier",
            )
        return self._orders[name]


def _policy_book(routing: RoutingSettings) -> PolicyBook:
    return PolicyBook(
        policies={name: Policy(name=name, **told.model_dump()) for name, told in routing.policies.items()},
        task_types=routing.task_types,
        default=routing.default_policy,
    )


def _model_config(settings: Settings, tier: TierSettings) -> ModelConfig:
    return ModelConfig(
        tier=tier_named(tier.name),
        model_id=model_id_of(settings, tier.deployments[0]),
        cost_weight=tier.cost_weight,
        temperature=tier.temperature,
        max_tokens=tier.max_output_tokens,
    )


def _under(policy: Policy, config: ModelConfig) -> ModelConfig:
    """Return the model with what the policy says of temperature and length."""
    return replace(
        config,
        temperature=config.temperature if policy.temperature is None else policy.temperature,
        max_tokens=policy.max_output_tokens or config.max_tokens,
    )


def _checked_score(score: object) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise RequestMalformed(f"complexity_score must be a number, not {score!r}.", param="complexity_score")
    if not 0 <= score <= 1:
        raise RequestMalformed(
            f"complexity_score must be from 0 to 1, not {score}.", param="complexity_score"
        )
    return float(score)


def _tier_said(agent_spec: Any, field: str) -> str | None:
    """Return the tier that an agent's specification names under `field`, whatever kind of thing it is."""
    said = agent_spec.get(field) if isinstance(agent_spec, Mapping) else getattr(agent_spec, field, None)
    # Somebody else's enumeration of tiers is as good as ours.
    name = getattr(said, "value", said)
    if name is None:
        return None
    if not isinstance(name, str):
        raise RequestMalformed(
            f"agent_spec.{field} must be a ModelTier or a tier's name, not {name!r:.60}.", param=field
        )
    return name.lower()
