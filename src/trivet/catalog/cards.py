"""The model cards: read once from `data/models.yaml` and from the operator's own file."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trivet.catalog.entries import read_entries
from trivet.catalog.model_card import Capability, Catalog, ModelCard, Variant
from trivet.domain.errors import ConfigError

__all__ = ["Catalog", "ModelCard", "Variant", "load_catalog"]

SHIPPED = Path(__file__).parent / "data" / "models.yaml"

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Entry(BaseModel):
    """What every part of an entry is: frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VariantEntry(Entry):
    """One line under `variants`."""

    engine: Literal["ollama", "vllm", "llamacpp"]
    ref: Text
    dtype: Text = "bf16"
    quant: Text | None = None
    bits_per_weight: Positive | None = None
    weights_bytes: Count | None = None
    approximate: bool = False
    ffn_size: Count | None = None

    def variant(self) -> Variant:
        """Return the entry as a value."""
        return Variant(
            engine=self.engine,
            ref=self.ref,
            dtype=self.dtype,
            quant=self.quant.lower() if self.quant else None,
            bits_per_weight=self.bits_per_weight,
            weights_bytes=self.weights_bytes,
            approximate=self.approximate,
            ffn_size=self.ffn_size,
        )


class CardEntry(Entry):
    """One entry of models.yaml; the head of that file says what each key means."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    family: Text
    released: date
    licence: Text = "unknown"
    context_tokens: Count
    capabilities: frozenset[Capability] = frozenset()
    params_b: Positive
    active_params_b: Positive | None = None
    quality: Annotated[float, Field(ge=0, le=100)]
    quality_source: Text
    source: Text
    architecture: Annotated[dict[str, Any], Field(min_length=1)]
    variants: Annotated[tuple[VariantEntry, ...], Field(min_length=1)]
    also: tuple[Text, ...] = ()

    def card(self) -> ModelCard:
        """Return the entry as a value."""
        return ModelCard(
            id=self.id,
            family=self.family,
            released=self.released,
            licence=self.licence,
            context_tokens=self.context_tokens,
            capabilities=self.capabilities,
            total_params=round(self.params_b * 1e9),
            active_params=round((self.active_params_b or self.params_b) * 1e9),
            quality=self.quality,
            quality_source=self.quality_source,
            source=self.source,
            config=self.architecture,
            variants=tuple(entry.variant() for entry in self.variants),
            also=self.also,
        )


def load_catalog(path: Path | None = None) -> Catalog:
    """Return the cards that Trivet ships, with an operator's own file laid over them.

    Args:
        path: a file like `config/models.yaml`; its cards join the shipped ones, or replace them by id.

    Raises:
        ConfigError: the file cannot be read, or a card is wrong; says which and why.
    """
    cards = [entry.card() for entry in read_entries(SHIPPED, CardEntry, "id")]
    if path is not None:
        own = [
            entry.card()
            for entry in read_entries(path.expanduser(), CardEntry, "id", setting="catalog.models")
        ]
        for card in own:
            _check(card, path)
        cards += own
    return Catalog(cards)


def _check(card: ModelCard, path: Path) -> None:
    """Read a card's architecture now; what ships is checked by the tests and read on first use."""
    try:
        computed = card.architecture.total_params
    except (ConfigError, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(
            f"{path}: the architecture of {card.id} cannot be read: {error}", param="catalog.models"
        ) from None
    if not 0.8 < computed / card.total_params < 1.25:
        raise ConfigError(
            f"{path}: the architecture of {card.id} has {computed / 1e9:.2f} B parameters, its params_b says "
            f"{card.total_params / 1e9:.2f}.",
            hint="One of the dimensions or params_b is wrong; docs/reference/models.md says where to look.",
            param="catalog.models",
        )
