"""The one number that decides between plans. Pure; docs/guides/plan.md explains it.

    objective = 20 x tiers served
              + 0.4 x place x sum over tiers of  share(tier) x worth(its model) x thrift(its model) x
              access(tier)

    worth(model)     = quality^(1 - s) x size^s x published x precision(form) x growth(form) x family
    size             = 100 x log(1 + parameters in the layers / 1 B) / log(1 + 1000), at most 100
    effective        = sqrt(total x active parameters)
    growth(form)     = 1 where vLLM too has the model in that precision, else 0.97
    thrift(heavy)    = 1 - active parameters / 0.8 T
    thrift(standard) = 1 - effective / HEAVY's effective
    thrift(light)    = the same, squared
    access(tier)     = 1 where its model is always in memory, less where it takes turns with others
    place            = 1 on GPUs, less on the CPU
    share            = light, standard, heavy: what a good model is worth in that tier

Memory, the number of GPUs and their speed do not occur in it: they say which plans there are. Every plan of a
machine is a plan of the same machine with more memory, and scores the same there; so more memory never lowers
the objective. Speed decides between plans that score the same.
"""

import math
from collections.abc import Mapping
from enum import StrEnum

from trivet.catalog.model_card import ModelCard, Variant
from trivet.domain.tiers import ModelTier

SERVED = 20.0
"""For each tier that has a model at all: no model is so good that a tier should go empty for it."""
GOODNESS = 0.4
"""The part of the objective that says how good the models are."""
SHARE: Mapping[str, float] = {ModelTier.LIGHT: 0.20, ModelTier.STANDARD: 0.25, ModelTier.HEAVY: 0.55}
SIZE_SHARE: Mapping[str, float] = {ModelTier.LIGHT: 0.10, ModelTier.STANDARD: 0.25, ModelTier.HEAVY: 0.85}
"""How much the size prior counts beside the published figure."""
CPU_PLACE = 0.35
CROWDED_PLACE = 0.8
"""Of a GPU where Ollama serves more sequences than it is meant for, because vLLM finds less room there."""
FAMILY_FACTOR = 1.10
LIGHT_SHARE_MAX = 1 / 3
"""LIGHT has at most this share of HEAVY's active parameters: a tier that costs as much saves nothing."""

HEAVY_ACTIVE_ENDLESS = 0.8e12
"""So many active parameters in HEAVY would be worth nothing: 70 B dense lose 9 %, 405 B dense half."""
NO_GROWTH = 0.97
"""For a precision in which vLLM cannot run a model: more than a few sequences would need another model."""
UNPUBLISHED = 0.97
"""For a model whose figure nobody published: it was set between its siblings'."""
THRIFT_UNKNOWN = 0.5
THRIFT_MIN = 0.02
"""So that a pinned model that saves nothing still counts for something."""

FIGURE_TOLERANCE = 8.0
"""A tier's figure may exceed that of a dearer tier by so much: makers measure under conditions of their own,
and figures that differ by less say little. What is better by more makes the dearer tier pointless."""
STEP_MIN = 1.5
"""STANDARD has at least so many times LIGHT's active parameters; nearer than that they are one tier under two
names."""

_PRECISION = ((8.0, 1.0), (6.0, 0.995), (5.0, 0.985), (4.0, 0.97), (3.0, 0.92), (0.0, 0.75))
"""What is left of a model's worth by bits per weight: the usual loss on knowledge tests for rounding after
training."""
NATIVE = frozenset({"mxfp4"})
"""Formats that a model was trained in or released for: nothing is lost against another form of it."""


class Access(StrEnum):
    """How a tier's model is reached."""

    RESIDENT = "resident"
    SWAPPED = "swapped"
    """It takes turns with another tier, beside a LIGHT that stays."""
    ALONE = "alone"
    """Only one tier's model is in memory at a time."""


_ACCESS: Mapping[tuple[Access, str], float] = {
    (Access.SWAPPED, ModelTier.STANDARD): 0.80,
    (Access.SWAPPED, ModelTier.HEAVY): 0.85,
    (Access.ALONE, ModelTier.LIGHT): 0.50,
    (Access.ALONE, ModelTier.STANDARD): 0.75,
    (Access.ALONE, ModelTier.HEAVY): 0.82,
}


def access_factor(access: Access, tier: str) -> float:
    """Return what a tier's model is worth when it has to be loaded first, against always being there."""
    return _ACCESS.get((access, tier), 1.0)


def label_of(variant: Variant) -> str:
    """Return the name of a form's precision: its quantisation, else its type."""
    return (variant.quant or variant.dtype).lower()


def precision_factor(bits_per_weight: float, quant: str) -> float:
    """Return the share of a model's worth that its quantisation leaves."""
    if quant in NATIVE:
        return 1.0
    return next(factor for bits, factor in _PRECISION if bits_per_weight >= bits)


def thrift(tier: str, effective: float, heavy_effective: float | None) -> float:
    """Return what is left of a model's worth in a tier that exists to save HEAVY's time.

    The effective size stands for the cost: one sequence reads a mixture's active experts, a full batch nearly
    all. LIGHT, where most requests go, feels it twice. Without a HEAVY half is taken to be saved.
    """
    if tier == ModelTier.HEAVY:
        return 1.0
    saved = THRIFT_UNKNOWN if heavy_effective is None else max(THRIFT_MIN, 1.0 - effective / heavy_effective)
    return saved * saved if tier == ModelTier.LIGHT else saved


def effective_params(total_params: int, active_params: int) -> float:
    """Return the size of a dense model of about the same knowledge.

    Of a mixture of experts the geometric mean of all and of its active parameters, a rule of thumb of
    Mistral's for Mixtral; of a dense model its size.
    """
    return math.sqrt(total_params * active_params)


def size_worth(layer_params: int) -> float:
    """Return the size prior, 0 to 100: 7 B in the layers are 30, 31 B 50, 69 B 61, 1 T 100."""
    return min(100.0, 100.0 * math.log1p(layer_params / 1e9) / math.log1p(1000.0))


def layer_params(card: ModelCard) -> int:
    """Return the parameters in a model's layers, all experts counted.

    Embeddings, output matrix and vision are left out, as in the scaling laws (Kaplan et al. 2020): 2 B more
    of them for a larger vocabulary know nothing more.
    """
    made_of = card.architecture
    outside = made_of.embedding_params + made_of.output_params + made_of.per_layer_embedding_params
    return max(0, card.total_params - outside - made_of.vision_params)


def figure(card: ModelCard, variant: Variant, bits_per_weight: float) -> float:
    """Return a form's published figure, less what its quantisation takes."""
    return card.quality * precision_factor(bits_per_weight, label_of(variant))


def worth(card: ModelCard, variant: Variant, bits_per_weight: float, tier: str) -> float:
    """Return what a form is worth in a tier, 0 to 100, but for growth and a preference for its family."""
    share = SIZE_SHARE[tier]
    value = math.pow(card.quality, 1 - share) * math.pow(size_worth(layer_params(card)), share)
    if tier == ModelTier.HEAVY:
        value *= 1 - min(1.0, card.active_params / HEAVY_ACTIVE_ENDLESS)
    if not card.quality_is_published:
        value *= UNPUBLISHED
    precision = precision_factor(bits_per_weight, label_of(variant))
    return value * precision
