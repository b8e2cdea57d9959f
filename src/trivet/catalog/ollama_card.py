"""A card from what Ollama says of a model that it has: for models that no catalog knows. Pure."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from trivet.catalog.architecture import Architecture
from trivet.catalog.gguf_metadata import config_from_gguf
from trivet.catalog.model_card import Capability, ModelCard, Variant
from trivet.domain.errors import ConfigError

UNKNOWN_QUALITY = "unknown"
_CAPABILITIES: dict[str, Capability] = {
    "tools": "tools",
    "vision": "vision",
    "thinking": "thinking",
    "embedding": "embedding",
}
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def card_from_show(tag: str, show: Mapping[str, Any], *, size_bytes: int | None = None) -> ModelCard:
    """Return a card for a model that Ollama has.

    Args:
        tag: its name there, such as `qwen2.5:7b`.
        show: the answer of `POST /api/show`; `{"verbose": true}` adds the vocabulary, else it is derived.
        size_bytes: its `size` in `GET /api/tags`.

    The quality is 0 and its source `unknown`: nobody measured it.

    Raises:
        ConfigError: the answer does not say how many layers the model has.
    """
    config = config_from_show(show)
    architecture = Architecture.from_config(config, name=tag)
    details = show.get("details") or {}
    quant = str(details.get("quantization_level") or "").lower() or None
    total = int(config.get("total_params") or architecture.total_params)
    share = architecture.active_params / architecture.total_params
    said = {str(word) for word in show.get("capabilities") or ()}
    return ModelCard(
        id=tag.lower(),
        family=str(details.get("family") or config.get("gguf_arch") or "unknown"),
        released=_day(show.get("modified_at")),
        licence=str(show.get("license") or "unknown").strip().splitlines()[0][:80],
        context_tokens=int(config.get("max_position_embeddings") or 4096),
        capabilities=frozenset(_CAPABILITIES[word] for word in said & _CAPABILITIES.keys()),
        total_params=total,
        active_params=round(total * share),
        quality=0.0,
        quality_source=UNKNOWN_QUALITY,
        source="Ollama's show",
        config=config,
        variants=(Variant(engine="ollama", ref=tag, quant=quant, weights_bytes=size_bytes),),
    )


def config_from_show(show: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the model that an answer of `POST /api/show` is about.

    Raises:
        ConfigError: the answer does not say how many layers the model has.
    """
    info = show.get("model_info") or {}
    config = config_from_gguf({key: value for key, value in info.items() if value is not None})
    if "num_hidden_layers" not in config:
        raise ConfigError(
            "Ollama's answer says nothing of the model's layers.",
            hint="Some kinds of models show no GGUF metadata; give their config.json instead.",
            param="model",
        )
    if "total_params" not in config:
        stated = _count(str((show.get("details") or {}).get("parameter_size") or ""))
        if stated:
            config["total_params"] = stated
    config["tie_word_embeddings"] = _is_tied(config, show.get("tensors"))
    return config


def _is_tied(config: Mapping[str, Any], tensors: Any) -> bool:
    """Tell whether the output matrix is the embedding: by the tensors, else by which count comes nearer."""
    if tensors:
        return not any(str(tensor.get("name")) == "output.weight" for tensor in tensors)
    total = config.get("total_params")
    if not total:
        return False
    plain = {key: value for key, value in config.items() if key != "total_params"}
    counts = {
        tied: Architecture.from_config({**plain, "tie_word_embeddings": tied}).total_params
        for tied in (False, True)
    }
    return bool(abs(counts[True] - total) < abs(counts[False] - total))


def _count(text: str) -> int | None:
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMBT])\s*", text, re.IGNORECASE)
    return round(float(found[1]) * _UNITS[found[2].upper()]) if found else None


def _day(text: Any) -> date:
    try:
        return date.fromisoformat(str(text)[:10])
    except ValueError:
        return date(1970, 1, 1)
