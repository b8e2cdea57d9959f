"""A model's forms as the planner compares them: precision, size, and which engines have it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from trivet.catalog.model_card import ModelCard, Variant
from trivet.catalog.objective import NO_GROWTH, figure, label_of, precision_factor, worth
from trivet.domain.tiers import ModelTier

_BITS = {
    "float32": 32.0, "fp32": 32.0, "q8_0": 8.5, "q6_k": 6.56, "q5_k_m": 5.7, "q5_0": 5.5, "q4_k_m": 4.85,
    "q4_0": 4.5, "q3_k_m": 3.9, "q2_k": 3.0, "awq": 4.25, "gptq": 4.25, "int4": 4.25, "bnb": 4.5,
    "nvfp4": 4.5, "mxfp4": 4.25, "fp8": 8.0, "w8a8": 8.0, "int8": 8.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of a model; `precision` is the share of its worth that the form keeps."""

    variant: Variant
    bits: float
    precision: float
    weights_bytes: int
    figure: float
    worth: Mapping[str, float]
    """By tier, without a preference for its family."""


def forms_of(card: ModelCard) -> tuple[Form, ...]:
    """Return a card's forms, the fewest bits first."""
    growing = {
        precision_factor(bits_of(variant), label_of(variant))
        for variant in card.variants
        if variant.engine == "vllm"
    }
    return tuple(_form(card, variant, growing) for variant in sorted(card.variants, key=bits_of))


def bits_of(variant: Variant) -> float:
    """Return a form's bits per weight, by its figure or by its name."""
    if variant.bits_per_weight is not None:
        return variant.bits_per_weight
    return _BITS.get(label_of(variant), 16.0)


def _form(card: ModelCard, variant: Variant, growing: set[float]) -> Form:
    bits = bits_of(variant)
    precision = precision_factor(bits, label_of(variant))
    growth = 1.0 if precision in growing else NO_GROWTH
    return Form(
        variant=variant,
        bits=bits,
        precision=precision,
        weights_bytes=variant.weights_bytes or int(card.total_params * bits / 8),
        figure=figure(card, variant, bits),
        worth={tier.value: growth * worth(card, variant, bits, tier.value) for tier in ModelTier},
    )
