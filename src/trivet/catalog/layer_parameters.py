"""Counting the parameters of one layer, and what it remembers of each token or sequence.

Counts follow the modules of Hugging Face transformers (`modeling_<kind>.py`) and, for multi-head latent
attention, DeepSeek-AI, "DeepSeek-V2" (arXiv 2405.04434), section 2.1. Biases and norms of a width are small
and counted together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from trivet.catalog.config_fields import ConfigFields
from trivet.catalog.layers import Layer, LayerParameters, Mixer

_TWO_MATRIX = ("opt", "gpt2", "gptneo", "gptj", "gptbigcode", "bloom", "falcon", "mpt", "starcoder2",
               "phimsft", "phiforcausallm", "phi2", "nemotron", "bert", "roberta", "pythia")  # fmt: skip
_GATED_ANYWAY = (
    "deci",
    "nomic",
    "modernbert",
    "phi3",
    "phi4",
    "mamba",
    "falconh1",
    "falcon3",
    "llamanemotron",
)


class Sizes(Protocol):
    """The dimensions that this module reads."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    experts: int
    experts_used: int
    expert_ffn: int
    guessed: bool
    ffn: int
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What all layers of a model share."""

    hidden: int
    head_dim: int
    value_dim: int
    window: int
    matrices: int
    """Of a feed-forward part: 3 where it is gated, else 2."""
    output_gate: bool = False
    """The query projection also makes a gate (Qwen3-Next and later)."""
    global_head_dim: int = 0
    global_kv_heads: int = 0
    key_is_value: bool = False
    sliding_kv_heads: int = 0
    sliding_head_dim: int = 0
    sliding_value_dim: int = 0
    latent: int = 0
    rope: int = 0
    query_rank: int = 0
    index_dim: int = 0
    index_heads: int = 0
    experts: int = 0
    expert_ffn: int = 0
    expert_hidden: int = 0
    """What experts read: the hidden size, or a smaller latent (Nemotron 3 Super)."""
    shared_ffn: int = 0
    dense_ffn: int = 0
    """Width of dense layers where it is not the common one (Llama 4)."""
    mixer: int = 0
    conv_state: int = 0
    recurrent_state: int = 0
    mixer_small: int = 0
    per_layer_input: int = 0
    extra_small: int = 0

    @classmethod
    def read(cls, fields: ConfigFields, sizes: Sizes, assumed: list[str]) -> "LayerShape":
        """Read what all layers share, deriving what is missing."""
        rope = fields.number("qk_rope_head_dim") or 0
        latent_rank = fields.number("kv_lora_rank") or 0
        head_dim, value_dim = sizes.head_dim, fields.number("v_head_dim", "head_dim_v") or sizes.head_dim
        if latent_rank:
            if not rope:
                rope = 64
                assumed.append("qk_rope_head_dim 64")
            nope = fields.number("qk_nope_head_dim")
            head_dim = (nope + rope) if nope else (fields.number("head_dim_k") or 128 + rope)
        window = fields.number("window", "attention_chunk_size") or _default_window(fields)
        mixer, conv, recurrent, mixer_small = _state_mixer(fields, sizes, assumed)
        dense_ffn = fields.number("intermediate_size_mlp") or 0
        if fields.family("llama4") and not dense_ffn and sizes.ffn:
            dense_ffn = 2 * sizes.ffn
        sparse = fields.family("v32", "dsa") or fields.number("index_head_dim") is not None
        ple = fields.number("hidden_size_per_layer_input") or 0
        return cls(
            hidden=sizes.hidden,
            head_dim=head_dim,
            value_dim=value_dim,
            window=window,
            matrices=_matrices(fields),
            output_gate=fields.flag("attn_output_gate") or fields.family("qwen3next", "qwen35"),
            global_head_dim=fields.number("global_head_dim") or 0,
            global_kv_heads=fields.number("num_global_key_value_heads") or 0,
            key_is_value=bool(fields.flag("attention_k_eq_v")),
            sliding_kv_heads=fields.number("swa_num_key_value_heads") or 0,
            sliding_head_dim=fields.number("swa_head_dim") or 0,
            sliding_value_dim=fields.number("swa_v_head_dim") or 0,
            latent=latent_rank,
            rope=rope,
            query_rank=fields.number("q_lora_rank") or 0,
            index_dim=(fields.number("index_head_dim") or 128) if sparse else 0,
            index_heads=(fields.number("index_n_heads") or 64) if sparse else 0,
            experts=sizes.experts,
            expert_ffn=sizes.expert_ffn,
            expert_hidden=_expert_hidden(fields, sizes, assumed),
            shared_ffn=_shared_ffn(fields, sizes, assumed),
            dense_ffn=dense_ffn,
            mixer=mixer,
            conv_state=conv,
            recurrent_state=recurrent,
            mixer_small=mixer_small,
            per_layer_input=ple,
        )


def count_layer(
    shape: LayerShape, *, mixer: Mixer, heads: int, kv_heads: int, part: str, ffn: int, shares_kv: bool
) -> Layer:
    """Count one layer. `part` is its feed-forward part: none, dense, moe or both."""
    h = shape.hidden
    key_dim, value_dim = shape.head_dim, shape.value_dim
    if mixer is Mixer.FULL and shape.global_head_dim:
        key_dim = value_dim = shape.global_head_dim
        kv_heads = shape.global_kv_heads or kv_heads
    if mixer is Mixer.SLIDING:
        kv_heads = shape.sliding_kv_heads or kv_heads
        key_dim = shape.sliding_head_dim or key_dim
        value_dim = shape.sliding_value_dim or value_dim
    attention = key = value = output = 0
    attends = mixer in (Mixer.FULL, Mixer.SLIDING, Mixer.CHUNKED) or (
        mixer is Mixer.NONE and heads and kv_heads
    )
    if (
        part != "pruned"
        and attends
        and not (mixer is Mixer.NONE and part in ("moe", "dense") and shape.mixer)
    ):
        query = h * heads * key_dim * (2 if shape.output_gate else 1)
        value = 0 if (shape.key_is_value and mixer is Mixer.FULL) else h * kv_heads * value_dim
        key, output = h * kv_heads * key_dim, heads * value_dim * h
        if shares_kv:
            key = value = 0
        attention = query + key + value + output
    elif mixer is Mixer.LATENT:
        attention, value = _latent_attention(shape, heads)
        output = heads * shape.value_dim * h
    mlp, mlp_down, experts, experts_down, router = _feed_forward(shape, part, ffn)
    small = 2 * h + (shape.mixer_small if mixer is Mixer.STATE else 0)
    mlp += 2 * h * shape.per_layer_input
    latent = mixer is Mixer.LATENT
    return Layer(
        mixer=mixer,
        kv_heads=1 if latent else kv_heads,
        key_dim=shape.latent + shape.rope if latent else key_dim,
        value_dim=0 if latent else value_dim,
        rope_dim=shape.rope if latent else 0,
        window=shape.window if mixer in (Mixer.SLIDING, Mixer.CHUNKED) else 0,
        conv_state=shape.conv_state if mixer is Mixer.STATE else 0,
        recurrent_state=shape.recurrent_state if mixer is Mixer.STATE else 0,
        index_dim=shape.index_dim if latent else 0,
        shares_kv=shares_kv,
        parameters=LayerParameters(
            attention=attention,
            mixer=shape.mixer if mixer is Mixer.STATE else 0,
            mlp=mlp,
            experts=experts,
            router=router,
            small=small,
            attention_key=key,
            attention_value=value,
            attention_output=output,
            mlp_down=mlp_down,
            experts_down=experts_down,
        ),
    )


def _latent_attention(shape: LayerShape, heads: int) -> tuple[int, int]:
    """Count MLA's matrices: query (through its own rank, or not), compressed key-value, expansion, output."""
    h, nope = shape.hidden, shape.head_dim - shape.rope
    width = heads * shape.head_dim
    query = (h * shape.query_rank + shape.query_rank * width) if shape.query_rank else h * width
    expansion = shape.latent * heads * (nope + shape.value_dim)
    indexer = 0
    if shape.index_dim:
        indexer = (shape.query_rank or h) * shape.index_heads * shape.index_dim
        indexer += h * (shape.index_dim + shape.index_heads)
    total = query + h * (shape.latent + shape.rope) + expansion + heads * shape.value_dim * h + indexer
    return total, expansion


def _feed_forward(shape: LayerShape, part: str, ffn: int) -> tuple[int, int, int, int, int]:
    """Return (mlp, its down part, experts, their down part, router)."""
    h, matrices = shape.hidden, shape.matrices
    mlp = mlp_down = experts = experts_down = router = 0
    if part in ("dense", "both"):
        width = (shape.dense_ffn or ffn) if part == "dense" else ffn
        mlp, mlp_down = matrices * h * width, h * width
    if part in ("moe", "both"):
        one = shape.expert_hidden * shape.expert_ffn
        experts, experts_down = shape.experts * matrices * one, shape.experts * one
        router = h * shape.experts
        mlp += matrices * h * shape.shared_ffn
        mlp_down += h * shape.shared_ffn
        if shape.expert_hidden != h:
            mlp += 2 * h * shape.expert_hidden
    return mlp, mlp_down, experts, experts_down, router


def _matrices(fields: ConfigFields) -> int:
    """Tell a gated feed-forward part (3 matrices) from a plain one (2)."""
    if str(fields.raw("mlp") or "").startswith("2"):
        return 2
    if fields.raw("hybrid_override_pattern"):
        return 2
    activation = str(fields.raw("activation_function") or "")
    if "glu" in activation.lower():
        return 3
    if fields.family(*_GATED_ANYWAY):
        return 3
    return 2 if fields.family(*_TWO_MATRIX) or fields.family_text == "phi" else 3


def default_width(fields: ConfigFields, hidden: int) -> int | None:
    """Return the width of a feed-forward part that a kind takes where its config leaves it out; else None."""
    block = fields.number("block_ff_dim")
    if block:
        # LFM2 counts the gate in, and rounds up.
        if fields.flag("block_auto_adjust_ff_dim") is False:
            return block
        step = fields.number("block_multiple_of") or 256
        return -(-(block * 2 // 3) // step) * step
    if fields.family_text.startswith("mamba"):
        return hidden
    return round(hidden * float(fields.raw("expansion_ratio") or 4)) if _matrices(fields) == 2 else None


def _default_window(fields: ConfigFields) -> int:
    """Return the window of kinds that slide by default and need not say how far."""
    defaults = (("gemma2", 4096), ("gemma3n", 512), ("gemma3", 1024), ("gemma4", 1024), ("gptoss", 128),
                ("cohere2", 4096), ("mimov2", 128), ("llama4", 8192))  # fmt: skip
    return next((window for kind, window in defaults if fields.family(kind)), 4096)


def _shared_ffn(fields: ConfigFields, sizes: Sizes, assumed: list[str]) -> int:
    """Return the width of the expert that every token visits; 0 for none."""
    if not sizes.experts:
        return 0
    stated = fields.number("shared_ffn")
    if stated:
        return stated
    shared = fields.number("shared_experts") or 0
    if fields.raw("hybrid_override_pattern") and shared:
        assumed.append("shared experts twice as wide as routed ones")
        return 2 * shared * sizes.expert_ffn
    if shared:
        return shared * sizes.expert_ffn
    if fields.family("llama4"):
        return sizes.ffn
    if fields.family("deepseek2", "deepseekv2"):
        # V2 and V2-Lite have two, V3 and what descends from it have one.
        shared = 1 if sizes.experts >= 256 else 2
        assumed.append(f"n_shared_experts {shared}")
        return shared * sizes.expert_ffn
    if fields.family("qwen3next", "qwen35moe"):
        assumed.append("one shared expert")
        return sizes.expert_ffn
    return 0


def _expert_hidden(fields: ConfigFields, sizes: Sizes, assumed: list[str]) -> int:
    """Return what the experts read; a latent smaller than the hidden size in Nemotron 3 Super and Ultra."""
    stated = fields.number("moe_latent_size")
    if stated:
        return stated
    total = fields.stated_total()[0]
    pattern = fields.raw("hybrid_override_pattern")
    if isinstance(pattern, str) and total and sizes.experts:
        naive = pattern.count("E") * sizes.experts * 2 * sizes.hidden * sizes.expert_ffn
        if naive > 1.5 * total:
            share = 0.9 * total / naive
            latent = max(128, round(sizes.hidden * share / 128) * 128)
            assumed.append(
                f"moe_latent_size {latent}, since {total / 1e9:.4g} B parameters leave no room for more"
            )
            return latent
    return sizes.hidden


def _state_mixer(fields: ConfigFields, sizes: Sizes, assumed: list[str]) -> tuple[int, int, int, int]:
    """Return (matrix parameters, convolution state, recurrent state, small parameters)."""
    h = sizes.hidden
    heads = fields.number("mamba_heads")
    if fields.family_text.startswith("mamba2"):
        heads = fields.number("num_heads")
    expand = fields.number("mamba_expand", "expand")
    if heads or expand:
        state = fields.number("mamba_state") or 128
        groups = fields.number("mamba_groups") or 1
        kernel = fields.number("mamba_conv") or 4
        head_dim = fields.number("mamba_head_dim") or 64
        inner = heads * head_dim if heads else (expand or 2) * h
        heads = heads or inner // head_dim
        mixed = inner + 2 * groups * state
        return (
            h * (inner + mixed + heads) + inner * h,
            mixed * (kernel - 1),
            inner * state,
            mixed * kernel + 3 * heads,
        )
    linear = fields.raw("linear_attn_config")
    if isinstance(linear, Mapping):
        inner = int(linear.get("num_heads", 32)) * int(linear.get("head_dim", 128))
        kernel = int(linear.get("short_conv_kernel_size", 4))
        return (
            4 * h * inner + 2 * h * 128 + 2 * 128 * inner,
            3 * inner * (kernel - 1),
            inner * 128,
            3 * inner * kernel,
        )
    if fields.raw("attn_type_list"):
        # Lightning attention (MiniMax): query, key, value, gate and output of the whole width.
        inner = sizes.heads * sizes.head_dim
        return 5 * h * inner, 0, inner * sizes.head_dim, 0
    if fields.family("lfm2"):
        kernel = fields.number("mamba_conv") or 3
        return 4 * h * h, h * (kernel - 1), 0, h * kernel
    if fields.number("linear_num_value_heads") or fields.family("qwen3next", "qwen35"):
        stated = fields.number("linear_num_value_heads")
        if stated is None:
            assumed.append("linear attention of 16 key and 32 value heads of 128")
        value_heads, key_heads = stated or 32, fields.number("linear_num_key_heads") or 16
        key_dim = fields.number("linear_key_head_dim") or 128
        value_dim = fields.number("linear_value_head_dim") or 128
        kernel = fields.number("linear_conv_kernel_dim") or 4
        keys, values = key_heads * key_dim, value_heads * value_dim
        mixed = 2 * keys + values
        matrices = h * (mixed + values + 2 * value_heads) + values * h
        return (
            matrices,
            mixed * (kernel - 1),
            value_heads * value_dim * key_dim,
            mixed * kernel + 2 * value_heads,
        )
    return 0, 0, 0, 0
