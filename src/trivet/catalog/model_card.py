"""What is known of a model before it is anywhere: structure, forms, abilities, quality. Pure."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Literal

from trivet.catalog.architecture import Architecture
from trivet.domain.errors import ConfigError

Capability = Literal["tools", "vision", "thinking", "embedding"]
VariantEngine = Literal["ollama", "vllm", "llamacpp"]
NEAR_NAMES_MAX = 5
INTERPOLATED = "interpolated within family"
"""The `quality_source` of a model whose figure nobody publishes."""

_DECORATION = re.compile(
    r"(?i)(?:[-_:\s(+]+(?:qat|ud|mix|q\d\w*|iq\d\w*|fp?16|bf16|fp8|awq|gptq|autoround|bnb|nvfp4|mxfp4|gguf|int[48]"
    r"|w\d+a\d+|\d+-?bit|\d+k|\d+-of-\d+|latest)(?![a-z0-9]).*|\s*[(+].*|\.gguf)$"
)
"""What follows a model's name where a file or a repository names a quantisation or a part.
Quantised otherwise, a model is the same model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One form of a model that an engine can run."""

    engine: VariantEngine
    ref: str
    """Ollama's tag (`qwen2.5:7b`), a Hugging Face id, or a path."""
    dtype: str = "bf16"
    """As vLLM computes or as its checkpoint is stored: bf16, fp8, mxfp4, nvfp4."""
    quant: str | None = None
    """q4_k_m, q8_0, f16, awq, gptq, int4; None where the weights are as `dtype` says."""
    bits_per_weight: float | None = None
    """All of the file over all parameters; None where it was not stated."""
    weights_bytes: int | None = None
    """All of the file's weights; None where only formulas answer."""
    approximate: bool = False
    """`weights_bytes` was rounded to two or three digits by its source."""
    ffn_size: int | None = None
    """The feed-forward size of a checkpoint whose maker padded it so that it splits among GPUs."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model. Not slotted, because `architecture` is read from its config on first use and kept."""

    id: str
    """`qwen2.5-7b-instruct`: the maker's name of it in lower case."""
    family: str
    released: date
    licence: str
    context_tokens: int
    """Prompt and output together that the model was made for."""
    capabilities: frozenset[Capability]
    total_params: int
    """As its maker states it."""
    active_params: int
    """Those that one token passes through; all of them where the model has no experts."""
    quality: float
    """0 to 100, for comparing chat models with one another (MMLU-Pro), or embeddings (MTEB)."""
    quality_source: str
    source: str
    """Where the dimensions come from."""
    config: Mapping[str, Any] = field(repr=False, hash=False)
    """Its config.json, as far as memory depends on it."""
    variants: tuple[Variant, ...]
    """First choice first."""
    also: tuple[str, ...] = ()

    @cached_property
    def architecture(self) -> Architecture:
        """The model's structure."""
        return Architecture.from_config(self.config, name=self.id)

    @property
    def is_embedding(self) -> bool:
        """Tell whether it answers with vectors, so that it can never be a tier."""
        return "embedding" in self.capabilities

    @property
    def quality_is_published(self) -> bool:
        """Tell whether somebody measured and published `quality`."""
        return self.quality_source != INTERPOLATED

    def names(self) -> tuple[str, ...]:
        """Return every name that finds the card: its id, further names, its variants' refs."""
        return (self.id, *self.also, *(variant.ref for variant in self.variants))


class Catalog:
    """The models that are known, found by any of their names."""

    def __init__(self, cards: Iterable[ModelCard]) -> None:
        """Index the cards; of two with one id the later counts, of two with one further name the earlier."""
        by_id = {card.id: card for card in cards}
        self.cards: tuple[ModelCard, ...] = tuple(by_id.values())
        self._by_written: dict[str, ModelCard] = {}
        self._by_name: dict[str, ModelCard] = {}
        for card in self.cards:
            self._by_name.setdefault(plain(card.id), card)
        for card in self.cards:
            for name in card.names():
                self._by_written.setdefault(name.lower(), card)
                if ":" in name or "/" in name:
                    # An Ollama library's bare name (deepseek-r1) means its default size, and only by itself.
                    self._by_name.setdefault(plain(name), card)
                    self._by_name.setdefault(plain(name.rpartition("/")[2]), card)

    def find(self, id_or_ref: str) -> ModelCard:
        """Return the card of a model, by its id, an Ollama tag, or a Hugging Face id.

        Case, spaces and joints do not count. The maker's part of a Hugging Face id and Trivet's `ollama/` or
        `vllm/` before a name may stand or be missing; of an Ollama tag the quantisation may differ.

        Raises:
            ConfigError: no card has the name; says which are near.
        """
        tag = _without_engine(id_or_ref).lower()
        # Literally first: qwen3:4b is another model than qwen3-4b.
        found = self._by_written.get(tag) or next(
            (self._by_name[name] for name in _readings(tag) if name in self._by_name), None
        )
        if found is not None:
            return found
        found = self._by_written.get(_DECORATION.sub("", tag))
        if found is not None:
            return found
        for card in self.cards:
            # A size alone names the library's default quantisation, which need not be one of the variants.
            if ":" in tag and any(name.lower().startswith(f"{tag}-") for name in card.names()):
                return card
        near = self.near(id_or_ref)
        known = f"Near names: {', '.join(near)}. " if near else ""
        raise ConfigError(
            f"No model called {id_or_ref!r} is in the catalog.",
            hint=f"{known}A model's directory, a .gguf file or your own card (catalog.models) works too.",
            param="model",
            details={"near": near},
        )

    def near(self, name: str) -> list[str]:
        """Return ids of cards whose names look like this one, likeliest first."""
        keys = difflib.get_close_matches(plain(name.rpartition("/")[2]), self._by_name, n=20, cutoff=0.5)
        return list(dict.fromkeys(self._by_name[key].id for key in keys))[:NEAR_NAMES_MAX]

    def with_variant(self, ref: str) -> tuple[ModelCard, Variant] | None:
        """Return the card and the form that exactly this Ollama tag or Hugging Face id names, if any."""
        wanted = ref.lower().removesuffix(":latest")
        for card in self.cards:
            for variant in card.variants:
                if variant.ref.lower() == wanted:
                    return card, variant
        return None


def plain(name: str) -> str:
    """Return a name as it is compared: lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _without_engine(written: str) -> str:
    text = written.strip()
    for prefix in ("ollama/", "ollama_chat/", "vllm/", "hosted_vllm/", "llamacpp/"):
        text = text.removeprefix(prefix)
    return text.removesuffix(":latest")


def _readings(text: str) -> Iterable[str]:
    """Yield what a written name may stand for, the most literal first."""
    yield plain(text)
    # Some files carry the maker before an underscore: google_gemma-3-27b-it-Q4_0.gguf.
    base = re.sub(r"^[a-z]+_(?=[a-z])", "", text.rpartition("/")[2])
    yield plain(base)
    bare = _DECORATION.sub("", base).removeprefix("meta-")
    yield plain(bare)
    yield plain(f"{bare}-instruct")
    yield plain(f"{bare}-it")
    yield plain(re.sub(r"-(instruct|it|chat|text|base)$", "", bare))
