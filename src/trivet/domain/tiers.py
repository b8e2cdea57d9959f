"""Tiers and the deployments that serve them."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

EngineKind = Literal["ollama", "vllm", "llamacpp", "openai", "litellm"]
TransportKind = Literal["relay", "litellm"]


class ModelTier(StrEnum):
    """The three tiers of the default configuration; further tiers are plain strings."""

    LIGHT = "light"
    STANDARD = "standard"
    HEAVY = "heavy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One rung of the ordered list of tiers, cheapest first."""

    name: str
    order: int
    """Position in the list: 0 is the cheapest."""
    cost_weight: float
    """What a token costs here, relative to the cheapest tier."""
    complexity_low: float
    complexity_high: float
    """The half-open range [low, high) of complexity scores that recommend this tier."""
    temperature: float | None = None
    max_output_tokens: int = 1024
    """Cap on generated tokens when the caller names none, and the most it may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One model behind one engine endpoint, as configured."""

    name: str
    """Unique; what a caller writes in `model` to bypass routing."""
    tier: Tier
    engine: EngineKind
    model: str
    """The model's name as the engine knows it."""
    transport: TransportKind
    url: str | None
    context_tokens: int
    """Prompt and output together never exceed this."""
    slots: int
    """Requests that the engine runs at once; more wait in its queue."""
    devices: tuple[str, ...]
    """Device names that its work occupies: GPU UUIDs, `host` for the CPU, empty for remote services."""
    capabilities: frozenset[str] = field(default_factory=frozenset)
    """Of: tools, vision, json_schema, logprobs, thinking, embeddings, chat; see `surfaces.lack_of`."""
    local: bool = True
    """False when the prompt leaves the operator's own machines."""
    template_tokens: int = 64
    """Upper bound on what the chat template adds to a prompt besides the per-message allowance."""
    swap_group: str | None = None
    """Of the deployments with the same name here one is in memory at a time."""
    keep_alive: float | str | None = None
    """Ollama: how long its model stays in memory after a request; None: the transport's own choice."""
    slots_guessed: bool = False
    """Nobody said how many slots it has: `slots` is what such engines have by default."""
    endpoint_of: str | None = None
    """The configured deployment of whose several endpoints this is one; None where it has one only."""

    @property
    def known_as(self) -> str:
        """Return the configured name: what callers write, keys allow and price tables list."""
        return self.endpoint_of or self.name


HOST_DEVICE = "host"


def is_gpu(device: str) -> bool:
    """Tell whether a device name stands for a GPU: a UUID, AMD's place on the bus, or a Jetson's index."""
    return device.startswith(("GPU-", "MIG-", "AMD-")) or device.isdigit()
