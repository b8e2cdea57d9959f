"""How large a model is in a GGUF type: which tensors get which bits. Pure.

A type's name is that of most tensors; llama.cpp gives some of them more bits, by their role and layer, and
another type where a row does not divide into blocks. The rules are those of `llama_tensor_get_type` and
`tensor_type_fallback` in llama.cpp's src/llama-quant.cpp; block sizes are those of ggml-common.h.
"""

from dataclasses import dataclass

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


def gguf_weights(architecture: Architecture, kind: str, *, experts_only_mxfp4: str = "q8_0") -> list[float]:
    """Return the bytes of [embedding, layer 0, ..., last layer, output] of a model in a GGUF file type.

    The output's part is 0 where it is the embedding (tied). `experts_only_mxfp4` is what all else is in where
    the kind is `mxfp4`: llama.cpp's own converter takes Q8_0, OpenAI's weights (and Ollama's) are BF16.

    Raises:
        ConfigError: the type is not known.
    """
    kind = _SHORT.get(kind, kind)
    if kind in ("mxfp4", "mxfp4_moe"):
        return _mxfp4(architecture, experts_only_mxfp4)
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
    embedding = (architecture.embedding_params + architecture.per_layer_embedding_params) * _bits(
        embedding_type, hidden
    )
    grouped = architecture.attention_heads >= 4 * max(1, architecture.kv_heads)
    count = len(architecture.plan)
    inside = [
        _layer(architecture, layer, index, count, mix, grouped)
        for index, layer in enumerate(architecture.plan)
    ]
    return [embedding / 8, *inside, architecture.output_params * _bits(top, hidden) / 8]


def _layer(
    architecture: Architecture, layer: Layer, index: int, count: int, mix: Mix, grouped: bool
) -> float:
    p, hidden = layer.parameters, architecture.hidden_size
    value_type = _picked(mix.most, (mix.value_gqa if grouped else ()) or mix.value, index, count)
    down_type = _picked(mix.most, mix.down, index, count)
    key_type, output_type = mix.most, mix.output or mix.most
    quantised = mix.most not in ("f32", "f16", "bf16", "q8_0")
    if architecture.experts == 8 and quantised:
        key_type = value_type = "q8_0"
        output_type = "q5_k" if _BITS[mix.most] < _BITS["q5_k"] else mix.most
    value_columns = hidden if layer.mixer is not Mixer.LATENT else layer.key_dim - 64
    # Per-layer widths (DeciLM) are not kept; all that are known divide by 256.
    mlp_columns = architecture.ffn_size or hidden
    expert_columns = architecture.expert_ffn_size or hidden
    rest = p.attention - p.attention_key - p.attention_value - p.attention_output
    bits = (
        (rest + p.mixer) * _bits(mix.most, hidden)
        + p.attention_key * _bits(key_type, hidden)
        + p.attention_value * _bits(value_type, value_columns)
        + p.attention_output * _bits(output_type, hidden)
        + (p.mlp - p.mlp_down) * _bits(mix.most, hidden)
        + p.mlp_down * _bits(down_type, mlp_columns)
        + (p.experts - p.experts_down) * _bits(mix.most, hidden)
        + p.experts_down * _bits(down_type, expert_columns)
        + (p.router + p.small) * 32
    )
    return bits / 8


def _mxfp4(architecture: Architecture, rest: str) -> list[float]:
    """Return the parts of a model whose experts alone are in MXFP4."""
    bits = _BITS[rest]
    inside = [
        (
            layer.parameters.experts * _BITS["mxfp4"]
            + (layer.parameters.total - layer.parameters.experts) * bits
        )
        / 8
        for layer in architecture.plan
    ]
    return [architecture.embedding_params * bits / 8, *inside, architecture.output_params * bits / 8]


def _picked(most: str, pairs: tuple[tuple[str, str], ...], index: int, count: int) -> str:
    """Return the type of the last pair whose rule picks this layer, else that of most tensors."""
    found = most
    for kind, rule in pairs:
        picks = {
            "all": True,
            "more": index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2,
            "eighth": index < count // 8,
            "sixteenth": index < count // 16,
            "four": index < 4,
            "two": index < 2,
        }
        if picks[rule]:
            found = kind
    return found


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
