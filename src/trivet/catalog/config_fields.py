"""Reading a model's config.json, whole or partial, under the names that its makers use.

Hugging Face configurations, records with GGUF metadata, and nested ones (`text_config` of models that see or
hear) become one flat view with one name for each thing. Nothing is judged here: that a field is absent is for
`architecture` to find out.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "text_model_config", "thinker_config")
_PART_SECTIONS = ("attn_config", "ffn_config")
"""Where DBRX and MPT say what others say at the top."""
_NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "model_dim", "embedding_length"),
    "layers": (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "num_transformer_layers",
        "block_count",
    ),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_query_heads"),
    "kv_heads": (
        "num_key_value_heads",
        "n_head_kv",
        "num_kv_heads",
        "n_kv_heads",
        "kv_n_heads",
        "multi_query_group_num",
    ),
    "head_dim": ("head_dim", "head_size", "kv_channels", "attention_head_dim", "d_kv"),
    "head_dim_k": ("head_dim_k", "key_length"),
    "head_dim_v": ("head_dim_v", "value_length"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "feed_forward_length"),
    "vocab": ("vocab_size", "padded_vocab_size", "n_vocab"),
    "context": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "max_sequence_length",
        "seq_length",
        "model_max_length",
        "context_length",
        "n_ctx",
    ),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "expert_count"),
    "experts_used": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_top_k",
        "moe_k",
        "num_selected_experts",
        "experts_per_token",
        "expert_used_count",
    ),
    "expert_ffn": ("moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size"),
    "shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "shared_ffn": (
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ),
    "dense_first": ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"),
    "window": ("sliding_window", "sliding_window_size", "attention_window_size"),
    "mamba_heads": ("mamba_num_heads", "mamba_n_heads"),
    "mamba_head_dim": ("mamba_head_dim", "mamba_d_head"),
    "mamba_state": ("ssm_state_size", "mamba_d_state", "state_size"),
    "mamba_groups": ("n_groups", "mamba_n_groups", "mamba_ngroups"),
    "mamba_conv": ("conv_kernel", "mamba_d_conv", "conv_L_cache"),
}
_SIZE_MAX = 1e9
"""Nothing that a config counts is larger: vocabularies and contexts have at most some millions."""
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_COUNT = re.compile(r"^\s*([\d.,]+)\s*([KMBT]?)\s*$", re.IGNORECASE)
_NAME_TOTAL = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s?([BM])(?![A-Za-z0-9])", re.IGNORECASE)
_NAME_ACTIVE = re.compile(r"(?<![A-Za-z0-9])A(\d+(?:\.\d+)?)B(?![A-Za-z0-9])", re.IGNORECASE)


class ConfigFields:
    """One flat view of a config mapping. Zero, null and empty count as absent, as GGUF records write them."""

    def __init__(self, config: Mapping[str, Any], *, name: str = "") -> None:
        """Take the whole mapping; `name` stands in where the mapping does not say whose it is."""
        self._flat = _flatten(config)
        self.name = name or str(config.get("model") or config.get("_name_or_path") or "")
        makers = config.get("architectures") or self._flat.get("architectures") or ()
        maker = (
            makers[0] if isinstance(makers, Sequence) and not isinstance(makers, str) and makers else makers
        )
        own = [config.get("model_type"), self._flat.get("model_type"), maker, config.get("gguf_arch")]
        own_text = " ".join(dict.fromkeys(str(part) for part in own if part))
        self.family_text = _squeezed(own_text) if own_text else _squeezed(self.name)
        """What the model calls its own kind; its name where it does not say. Letters and digits only."""
        vision = config.get("vision_config") or config.get("vision_tower_config") or {}
        self.vision: Mapping[str, Any] = vision if isinstance(vision, Mapping) else {}
        quantization = config.get("quantization_config") or self._flat.get("quantization_config") or {}
        self.quantization: Mapping[str, Any] = quantization if isinstance(quantization, Mapping) else {}

    def raw(self, *names: str) -> Any:
        """Return the first of these keys that says something, else None."""
        for name in names:
            value = self._flat.get(name)
            if value is not None and value != 0 and value != "" and value != []:
                return value
        return None

    def flag(self, name: str) -> bool | None:
        """Return what a yes-or-no key says; None where it is absent."""
        value = self._flat.get(name)
        return None if value is None else bool(value)

    def number(self, *names: str) -> int | None:
        """Return a whole number under one of our names or the makers' keys; None where absent.

        A list of per-layer numbers counts as its largest.
        """
        found = self.numbers(*names)
        return max(found) if found else None

    def numbers(self, *names: str) -> tuple[int, ...]:
        """Return the per-layer numbers under a name; one number is a tuple of one; empty where absent."""
        value = self.raw(*(key for name in names for key in _NAMES.get(name, (name,))))
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                return ()
        if isinstance(value, Sequence) and not isinstance(value, str):
            counts = [_count(item) for item in value]
            return tuple(count or 0 for count in counts) if any(counts) else ()
        count = _count(value)
        return (count,) if count else ()

    def family(self, *words: str) -> bool:
        """Tell whether the model's kind holds one of these words (lower case, letters and digits only)."""
        return any(word in self.family_text for word in words)

    def stated_total(self) -> tuple[float | None, bool]:
        """Return (parameters, exact): as the record states them, or as the name does (30B), else None."""
        for key in ("total_params", "total_params_text", "num_parameters", "parameter_count"):
            value = self._flat.get(key)
            count = float(value) if isinstance(value, int | float) else parse_count(str(value or ""))
            if count and math.isfinite(count) and count > 0:
                return count, True
        # The last figure of a name is not always the size: Mixtral-8x7B and E4B say something else.
        sizes = [float(n) * _UNITS[u.upper()] for n, u in _NAME_TOTAL.findall(self.name.rsplit("/", 1)[-1])]
        return (max(sizes), False) if sizes else (None, False)

    def stated_active(self) -> float | None:
        """Return the active parameters that the name states (A3B), else None."""
        found = _NAME_ACTIVE.search(self.name)
        return float(found[1]) * 1e9 if found else None


def parse_count(text: str) -> float | None:
    """Read `672.050 B`, `235,741 B` (a decimal comma) or `1.027 T`; None for anything else."""
    found = _COUNT.match(text)
    if not found:
        return None
    digits = found[1]
    if found[2] and digits.count(",") == 1 and "." not in digits:
        digits = digits.replace(",", ".")
    try:
        return float(digits.replace(",", "")) * _UNITS[found[2].upper()]
    except ValueError:
        return None


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Put the text model's section over the top level: a nested model describes its language part there."""
    flat = dict(config)
    for section in _PART_SECTIONS:
        nested = config.get(section)
        if isinstance(nested, Mapping):
            flat = {key: value for key, value in nested.items() if value is not None} | flat
    for section in _TEXT_SECTIONS:
        nested = config.get(section)
        if isinstance(nested, Mapping):
            flat |= {key: value for key, value in _flatten(nested).items() if value is not None}
    return flat


def _count(value: Any) -> int | None:
    """Return a whole number of at least 1 that can be a size of something; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if math.isfinite(number) and 1 <= number <= _SIZE_MAX else None


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
