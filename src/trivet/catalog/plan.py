"""A plan: which model serves which tier, where, and what is left. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trivet.catalog.arrangement import Arrangement
from trivet.catalog.demand import Demand
from trivet.catalog.footprint import Footprint
from trivet.catalog.machine import Device
from trivet.catalog.model_card import ModelCard, Variant
from trivet.catalog.objective import label_of
from trivet.catalog.offers import Rejection
from trivet.catalog.sizing import overrun_bytes
from trivet.domain.gpus import GIB, Inventory

Mode = Literal["resident", "swap", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPlan:
    """One tier's deployment."""

    tier: str
    card: ModelCard
    variant: Variant
    devices: tuple[Device, ...]
    context_tokens: int
    sequences: int
    """Requests at once, each with its whole context; what the engine is told."""
    footprint: Footprint
    """Per device."""
    gpu_memory_utilization: float | None
    """vLLM's share of a GPU; None for other engines."""
    batched_tokens: int | None
    dtype: str
    worth: float
    tokens_per_s: float
    swapped: bool
    """Whether it takes turns with other tiers."""
    asleep_bytes: int = 0
    """What others that sleep on its device leave there during its turn."""
    observed_at: str | None = None
    """When the start was seen that corrects the footprint; None where formulas alone speak."""

    @property
    def used_bytes(self) -> int:
        """What it takes of each of its devices."""
        return self.footprint.total_bytes

    @property
    def band_bytes(self) -> int:
        """What may be taken beyond that: the band, of vLLM its overrun; and what others leave asleep."""
        on_vllm = self.variant.engine == "vllm"
        size = self.footprint
        band = overrun_bytes(size.total_bytes, len(self.devices)) if on_vllm else size.band_bytes
        return band + self.asleep_bytes

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors; docs/guides/plan.md explains every field."""
        return {
            "model": self.card.id,
            "engine": self.variant.engine,
            "ref": self.variant.ref,
            "quant": label_of(self.variant),
            "gpus": [device.name for device in self.devices],
            "devices": [device.uuid for device in self.devices],
            "tp": len(self.devices),
            "context_tokens": self.context_tokens,
            "sequences": self.sequences,
            "swapped": self.swapped,
            "observed_at": self.observed_at,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "max_batched_tokens": self.batched_tokens,
            "params_b": round(self.card.total_params / 1e9, 2),
            "active_params_b": round(self.card.active_params / 1e9, 2),
            "worth": round(self.worth, 2),
            "tokens_per_s": round(self.tokens_per_s, 1),
            "footprint": self.footprint.as_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """How full one device gets, at the worst moment."""

    device: Device
    used_bytes: int
    weights_bytes: int
    kv_bytes: int
    """Parts of what is used; the rest is working memory, graphs and the engines' own."""
    margin_bytes: int
    """The reserve, and the bands of the estimates of what is there then."""

    @property
    def usable_bytes(self) -> int:
        """What engines can have at all."""
        return self.device.usable_bytes

    @property
    def free_bytes(self) -> int:
        """What is left of the usable memory then, the margin included."""
        return self.usable_bytes - self.used_bytes

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors."""
        return {
            "name": self.device.name,
            "uuid": self.device.uuid,
            "kind": self.device.spec.name,
            "usable_gib": _gib(self.usable_bytes),
            "margin_gib": _gib(self.margin_bytes),
            "used_gib_peak": _gib(self.used_bytes),
            "free_gib_peak": _gib(self.free_bytes),
            "others_gib": _gib(self.device.others_bytes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The best set of tier models for a machine, as far as its objective knows."""

    inventory: Inventory
    demand: Demand
    mode: Mode
    objective: float
    arrangement: Arrangement
    tiers: Mapping[str, TierPlan]
    """By tier, cheapest first; a tier that nothing fits is missing, and `rejected` says why."""
    devices: tuple[DevicePlan, ...]
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()
    """What an operator should know, in sentences."""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Sets of tiers that are in memory together; one set when nothing swaps."""
        moments = (
            tuple(tier for tier in moment if tier in self.tiers) for moment in self.arrangement.moments
        )
        return tuple(dict.fromkeys(moment for moment in moments if moment))

    @property
    def unserved(self) -> tuple[str, ...]:
        """Tiers that were asked for and that nothing fits."""
        return tuple(tier for tier in self.demand.tiers if tier not in self.tiers)

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors; docs/guides/plan.md explains every field."""
        return {
            "inventory": self.inventory.as_json(),
            "demand": {tier: demand.as_json() for tier, demand in self.demand.tiers.items()},
            "mode": self.mode,
            "objective": round(self.objective, 6),
            "groups": [list(group) for group in self.groups],
            "tiers": {name: tier.as_json() for name, tier in self.tiers.items()},
            "gpus": [device.as_json() for device in self.devices],
            "unserved": list(self.unserved),
            "notes": list(self.notes),
            "rejected": [rejection.as_json() for rejection in self.rejected],
        }


def _gib(size_bytes: int) -> float:
    return round(size_bytes / GIB, 4)
