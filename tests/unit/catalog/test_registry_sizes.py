"""The footprint's weights against the sizes in Ollama's registry: the same models, counted independently."""

from statistics import median

from trivet.catalog.cards import load_catalog
from trivet.catalog.footprint import FootprintRequest, footprint
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.model_card import ModelCard, Variant

B200 = load_gpu_table().find("B200")
# Its files were quantised from another recipe: 6.1 bits a weight where Q4_K_M leaves 4.8.
ODD = "phi4-reasoning:14b"


def error(card: ModelCard, variant: Variant) -> float:
    """Return by how much of the file the formula misses its size."""
    request = FootprintRequest(
        architecture=card.architecture, engine="ollama", quant=variant.quant, gpu=B200, context_tokens=512
    )
    return abs(footprint(request).weights_bytes / (variant.weights_bytes or 1) - 1)


def errors(*, approximate: bool) -> dict[str, float]:
    """Return the error of every form whose size is exact, or of those whose size was rounded."""
    return {
        variant.ref: error(card, variant)
        for card in load_catalog().cards
        for variant in card.variants
        if variant.weights_bytes and variant.approximate == approximate
    }


def test_exact_sizes() -> None:
    """Of the layers' sizes in bytes the formula misses half by less than 0.5 %, and none by more than 4 %."""
    found = errors(approximate=False)
    assert len(found) >= 50
    assert median(found.values()) <= 0.005
    assert {ref: miss for ref, miss in found.items() if miss > 0.04 and ref != ODD} == {}


def test_rounded_sizes() -> None:
    """Sizes that the library shows with two digits agree as far as two digits can."""
    found = errors(approximate=True)
    assert len(found) >= 100
    assert median(found.values()) <= 0.015
