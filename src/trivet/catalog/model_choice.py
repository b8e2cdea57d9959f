"""Which model a person means, and in which form: a config, files on disk, or a card of the catalog."""

from dataclasses import dataclass
from pathlib import Path

from trivet.catalog.architecture import Architecture
from trivet.catalog.cards import load_catalog
from trivet.catalog.footprint import EngineKind
from trivet.catalog.model_files import read_architecture, read_model
from trivet.domain.errors import ConfigError

DEFAULT_DTYPE = "bf16"
DEFAULT_GGUF = "q4_k_m"
"""What Ollama's library and most people take where nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAsked:
    """What was asked for, as written."""

    name: str | None = None
    """A card's name, an Ollama tag, a Hugging Face id, a directory or a `.gguf` file."""
    arch: Path | None = None
    """A config.json, whole or partial; wins over `name`, which then only names it."""
    engine: EngineKind
    dtype: str | None = None
    quant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """A model in one form."""

    architecture: Architecture
    dtype: str = DEFAULT_DTYPE
    quant: str | None = None
    weights_bytes: int | None = None
    """Exact, where headers or the registry tell it for this very form."""


def choose_model(asked: ModelAsked, *, cards: Path | None = None) -> ModelForm:
    """Find the model and the form that is meant.

    A form that is asked for (`dtype`, `quant`) replaces the one that was found; exact sizes hold only for
    what was found. `cards` is the operator's own file of cards.

    Raises:
        ConfigError: nothing was named, nothing has that name, or a file cannot be read.
    """
    if asked.arch is not None:
        return _asked_form(read_architecture(asked.arch, name=asked.name), asked)
    if asked.name is None:
        raise ConfigError("Which model?", hint="Give --model or --arch.", param="model")
    path = Path(asked.name).expanduser()
    if path.suffix.lower() == ".gguf" or path.is_dir():
        files = read_model(path)
        if asked.quant or asked.dtype:
            return _asked_form(files.architecture, asked)
        return ModelForm(
            architecture=files.architecture,
            dtype=files.dtype or DEFAULT_DTYPE,
            quant=files.quant,
            weights_bytes=files.weights_bytes,
        )
    return _card_form(asked, asked.name, cards)


def _asked_form(architecture: Architecture, asked: ModelAsked) -> ModelForm:
    quant = asked.quant
    if asked.engine != "vllm" and quant is None and asked.dtype is None:
        quant = DEFAULT_GGUF
    return ModelForm(architecture=architecture, dtype=asked.dtype or DEFAULT_DTYPE, quant=quant)


def _card_form(asked: ModelAsked, name: str, cards: Path | None) -> ModelForm:
    """Take the card's form for this engine: the one named, else of this type, else the first."""
    catalog = load_catalog(cards)
    card = catalog.find(name)
    own = [variant for variant in card.variants if variant.engine == asked.engine]
    named = catalog.with_variant(name)
    if named is not None and named[1].engine == asked.engine:
        own = [named[1], *own]
    if asked.quant or asked.dtype:
        wanted = {(asked.quant or asked.dtype or "").lower()}
        own = [variant for variant in own if wanted & {variant.quant, variant.quant or variant.dtype}]
    if not own:
        return _asked_form(card.architecture, asked)
    variant = own[0]
    return ModelForm(
        architecture=card.architecture,
        dtype=variant.dtype,
        quant=variant.quant,
        weights_bytes=None if variant.approximate else variant.weights_bytes,
    )
