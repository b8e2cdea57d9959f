"""Counting the parameters of one layer, and what it remembers of each token or sequence.

Counts follow the modules of Hugging Face transformers (`modeling_<kind>.py`) and, for multi-head latent
attention, DeepSeek-AI, "DeepSeek-V2" (arXiv 2405.04434), section 2.1. Biases and norms of a width are small
and counted together.
"""

from dataclasses import dataclass

from trivet.catalog.config_fields import ConfigFields
from trivet.catalog.dimensions import Dimensions
from trivet.catalog.kind_defaults import default_window, matrices_of
from trivet.catalog.layers import Layer, LayerParameters, Mixer
from trivet.catalog.state_layers import state_sizes


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

    @classmethod
    def read(cls, fields: ConfigFields, sizes: Dimensions, assumed: list[str]) -> "LayerShape":
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
        window = fields.number("window", "attention_chunk_size") or default_window(fields)
        state = state_sizes(fields, sizes, assumed)
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
            matrices=matrices_of(fields),
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
            mixer=state.matrices,
            conv_state=state.conv_state,
            recurrent_state=state.recurrent_state,
            mixer_small=state.small,
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


def _shared_ffn(fields: ConfigFields, sizes: Dimensions, assumed: list[str]) -> int:
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


def _expert_hidden(fields: ConfigFields, sizes: Dimensions, assumed: list[str]) -> int:
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
