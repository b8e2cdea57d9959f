"""How large a model is in a GGUF type: which tensors get which bits. Pure.

A type's name is that of most tensors; llama.cpp gives some of them more bits, by their role and layer, and
another type where a row does not divide into blocks. The rules are those of `llama_tensor_get_type` and
`tensor_type_fallback` in llama.cpp's src/llama-quant.cpp; block sizes are those of ggml-common.h.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from trivet.catalog.architecture import Architecture
from trivet.catalog.layers import Layer, Mixer
from trivet.domain.errors import ConfigError

_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0,
    "q2_k": 2.625, "q3_k": 3.4375, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625, "iq4_nl": 4.5, "iq4_xs": 4.25,
    "iq3_s": 3.4375, "iq3_xxs": 3.0625, "iq2_s": 2.5625, "iq2_xs": 2.3125, "iq2_xxs": 2.0625, "iq1_s": 1.5625,
    "iq1_m": 1.75, "tq1_0": 1.6875, "tq2_0": 2.0625, "mxfp4": 4.25, "i2_s": 2.0,
    # Types of the ik_llama.cpp fork.
    "iq2_k": 2.375, "iq3_k": 3.4375, "iq4_k": 4.5, "iq5_k": 5.5, "iq6_k": 6.625, "iq4_ks": 4.25,
    "iq3_ks": 3.1875, "iq5_ks": 5.25, "iq2_ks": 2.1875, "iq4_kss": 4.0, "iq2_kl": 2.6875,
}  # fmt: skip
_FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""What takes the place of a type with blocks of 256 where rows do not divide; IQ types become IQ4_NL."""
_SMALL_BLOCKS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4")


@dataclass(frozen=True, slots=True)
class Mix:
    """A file type: the type of most tensors, and of those that differ.

    A pair (type, rule) holds for the layers that the rule picks: `all`, `more` (the first and last eighth and
    every third between), `eighth`, `sixteenth`, `four`, `two` (so many layers from the front).
    """

    most: str
    value: tuple[tuple[str, str], ...] = ()
    value_gqa: tuple[tuple[str, str], ...] = ()
    """Instead of `value` where four query heads or more share a key head."""
    down: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    """Of attention's output projection."""


_K_M = (("q6_k", "more"),)
_MIXES: dict[str, Mix] = {
    "q2_k": Mix("q2_k", (("q3_k", "all"),), (("q4_k", "all"),), (("q3_k", "all"),), "q3_k"),
    "q3_k_s": Mix("q3_k"),
    "q3_k_m": Mix(
        "q3_k", (("q4_k", "all"), ("q5_k", "two")), (), (("q4_k", "all"), ("q5_k", "sixteenth")), "q4_k"
    ),
    "q3_k_l": Mix("q3_k", (("q5_k", "all"),), (), (("q5_k", "all"),), "q5_k"),
    "q4_k_s": Mix("q4_k", (("q5_k", "four"),), (), (("q5_k", "eighth"),)),
    "q4_k_m": Mix("q4_k", _K_M, (), _K_M),
    "q5_k_s": Mix("q5_k"),
    "q5_k_m": Mix("q5_k", _K_M, (), _K_M),
    # With an importance matrix, as these types are made nowadays.
    "q4_0": Mix("q4_0", (), (), (("q4_1", "eighth"),)),
    "q5_0": Mix("q5_0", (), (), (("q5_1", "eighth"),)),
    "iq4_xs": Mix("iq4_xs", (), (("q5_k", "all"),)),
    "iq4_nl": Mix("iq4_nl", (), (("q5_k", "all"),)),
    "iq3_m": Mix("iq3_s", (("q4_k", "all"),), (), (("q4_k", "eighth"),), "q4_k"),
    "iq3_xxs": Mix("iq3_xxs", (("iq3_s", "all"),), (("q4_k", "all"),), (), "iq3_s"),
    "iq3_xs": Mix("iq3_s", (), (("q4_k", "all"),)),
    "iq3_s": Mix("iq3_s", (), (("q4_k", "all"),)),
    "iq2_m": Mix("iq2_s", (("iq3_s", "all"),), (("q4_k", "all"),), (("iq3_s", "eighth"),), "iq3_s"),
}
_SHORT = {
    "q2": "q2_k", "q3": "q3_k_m", "q4": "q4_k_m", "q5": "q5_k_m", "q6": "q6_k", "q8": "q8_0",
    "q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "q2_k_s": "q2_k", "q2_k_l": "q2_k",
    "fp16": "f16", "fp32": "f32", "float16": "f16", "float32": "f32", "bfloat16": "bf16",
}  # fmt: skip
_LOW_IQ = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs")


def known_types() -> tuple[str, ...]:
    """Return the file types whose sizes are known, for messages."""
    return tuple(sorted({*_MIXES, *_BITS} - {"q3_k", "q4_k", "q5_k"}))


def gguf_weights(architecture: Architecture, kind: str, *, mxfp4_rest: str = "q8_0") -> float:
    """Return the bytes of all tensors of a model in a GGUF file type.

    `mxfp4_rest` is what all but the experts is in where the kind is `mxfp4`: llama.cpp's own converter
    takes Q8_0, OpenAI's weights (and Ollama's) are BF16.

    Raises:
        ConfigError: the type is not known.
    """
    kind = _SHORT.get(kind, kind)
    if kind in ("mxfp4", "mxfp4_moe"):
        routed = sum(layer.parameters.experts * count for layer, count in architecture.groups)
        rest = architecture.total_params - architecture.vision_params - routed
        return (routed * _BITS["mxfp4"] + rest * _BITS[mxfp4_rest]) / 8
    mix = _MIXES.get(kind) or (Mix(kind) if kind in _BITS else None)
    if mix is None:
        raise ConfigError(
            f"No GGUF type called {kind!r} is known.",
            hint=f"Known are {', '.join(known_types())}; or give --bits-per-weight.",
            param="quant",
        )
    hidden = architecture.hidden_size
    top = _output_type(kind, mix.most, hidden)
    embedding_type = top if architecture.tied else _embedding_type(kind, mix.most)
    embedding = architecture.embedding_params + architecture.per_layer_embedding_params
    outside = embedding * _bits(embedding_type, hidden) + architecture.output_params * _bits(top, hidden)
    grouped = architecture.attention_heads >= 4 * max(1, architecture.kv_heads)
    count = architecture.layers
    values = _types(mix.most, (mix.value_gqa if grouped else ()) or mix.value, count)
    downs = _types(mix.most, mix.down, count)
    alike = Counter(zip(architecture.group_of, values, downs, strict=True))
    inside = sum(
        times * _layer_bits(architecture, architecture.groups[place][0], mix, value, down)
        for (place, value, down), times in alike.items()
    )
    return (outside + inside) / 8


def _layer_bits(architecture: Architecture, layer: Layer, mix: Mix, value: str, down: str) -> float:
    """Return the bits of one layer whose values and down projections are of these types."""
    p, hidden, most = layer.parameters, architecture.hidden_size, mix.most
    key, output = most, mix.output or most
    if architecture.experts == 8 and most not in ("f32", "f16", "bf16", "q8_0"):
        key = value = "q8_0"
        output = "q5_k" if _BITS[most] < _BITS["q5_k"] else most
    value_columns = hidden if layer.mixer is not Mixer.LATENT else layer.key_dim - layer.rope_dim
    # Per-layer widths (DeciLM) are not kept; all that are known divide by 256.
    mlp_columns = architecture.ffn_size or hidden
    expert_columns = architecture.expert_ffn_size or hidden
    most_of_attention = p.attention - p.attention_key - p.attention_value - p.attention_output
    inner = most_of_attention + p.mixer + p.mlp - p.mlp_down + p.experts - p.experts_down
    return (
        inner * _bits(most, hidden)
        + p.attention_key * _bits(key, hidden)
        + p.attention_value * _bits(value, value_columns)
        + p.attention_output * _bits(output, hidden)
        + p.mlp_down * _bits(down, mlp_columns)
        + p.experts_down * _bits(down, expert_columns)
        + (p.router + p.small) * 32
    )


@lru_cache(maxsize=1024)
def _types(most: str, pairs: tuple[tuple[str, str], ...], count: int) -> tuple[str, ...]:
    """Return each layer's type: that of the last pair whose rule picks it, else that of most tensors."""
    return tuple(
        next((kind for kind, rule in reversed(pairs) if _picks(rule, index, count)), most)
        for index in range(count)
    )


def _picks(rule: str, index: int, count: int) -> bool:
    eighth = count // 8
    if rule == "more":
        return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2
    first = {"all": count, "eighth": eighth, "sixteenth": count // 16, "four": 4, "two": 2}
    return index < first[rule]


def _bits(kind: str, columns: int) -> float:
    """Return a type's bits per weight, after the fallback for rows that do not divide into its blocks."""
    if kind in _SMALL_BLOCKS:
        return _BITS[kind] if columns % 32 == 0 or kind in ("f32", "f16", "bf16") else 16.0
    if columns % 256 == 0:
        return _BITS[kind]
    return _BITS[_FALLBACK.get(kind, "iq4_nl")] if columns % 32 == 0 else 16.0


def _output_type(kind: str, most: str, hidden: int) -> str:
    """Return the type of the output matrix: at least Q6_K in quantised files."""
    if most in ("f32", "f16", "bf16", "q8_0") or (
        most in _BITS and hidden % 256 and most not in _SMALL_BLOCKS
    ):
        return most if most in ("f32", "f16", "bf16", "q8_0") else "q8_0"
    return "q5_k" if kind in _LOW_IQ else "q6_k"


def _embedding_type(kind: str, most: str) -> str:
    """Return the type of an embedding that is not the output too."""
    if kind in ("iq2_s", "iq2_m", "iq3_xxs"):
        return "iq3_s"
    if kind in ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"):
        return "q2_k"
    return "q4_k" if kind in ("tq1_0", "tq2_0") else most
