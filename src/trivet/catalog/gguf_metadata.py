"""From the metadata of a GGUF file to the names of a config.json. Pure.

The same keys stand in the file's header, in Ollama's `show` and in llama.cpp's start-up log. They are
llama.cpp's (gguf-py/gguf/constants.py); most begin with the file's `general.architecture`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.sliding_window": "sliding_window",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "leading_dense_block_count": "first_k_dense_replace",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "full_attention_interval": "full_attention_interval",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
}
_DELTA_NET = ("qwen3next", "qwen35", "qwen35moe")
"""Kinds whose `ssm.*` keys describe gated delta networks, not Mamba."""


def config_from_gguf(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config mapping for `Architecture.from_config`.

    Args:
        metadata: GGUF keys to values, as in the file: `general.architecture`, `llama.block_count`, ...
            `tokenizer.ggml.tokens` may be the list itself or its length; what is absent is left out.

    Whether the output matrix is the token embedding is not in the metadata: the tensor `output.weight` tells.
    """
    arch = str(metadata.get("general.architecture", ""))
    own = {
        key.removeprefix(f"{arch}."): value for key, value in metadata.items() if key.startswith(f"{arch}.")
    }
    config: dict[str, Any] = {"gguf_arch": arch} if arch else {}
    config |= {theirs: own[key] for key, theirs in _PLAIN.items() if own.get(key) is not None}
    vocabulary = metadata.get("tokenizer.ggml.tokens")
    if "vocab_size" not in config and vocabulary is not None:
        config["vocab_size"] = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    config |= _heads(own)
    config |= _windows(own)
    config |= _states(arch, own)
    config |= _layer_kinds(arch, config)
    drafting = own.get("nextn_predict_layers")
    if isinstance(drafting, int) and isinstance(config.get("num_hidden_layers"), int):
        # The count includes layers that only draft tokens ahead.
        config["num_hidden_layers"] -= drafting
    total = metadata.get("general.parameter_count")
    if total:
        config["total_params"] = total
    return config


def _heads(own: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of heads; with latent attention (MLA) those before compression."""
    key, value = own.get("attention.key_length"), own.get("attention.value_length")
    if own.get("attention.kv_lora_rank"):
        # Newer files give the compressed sizes as key_length and the original ones as key_length_mla.
        key, value = own.get("attention.key_length_mla", key), own.get("attention.value_length_mla", value)
        rope = own.get("rope.dimension_count", 64)
        found = {"qk_rope_head_dim": rope, "v_head_dim": value}
        if key is not None:
            found["qk_nope_head_dim"] = key - rope
        return {name: size for name, size in found.items() if size is not None}
    sliding = own.get("attention.key_length_swa")
    if sliding is not None and sliding != key:
        return {"head_dim": sliding, "global_head_dim": key}
    if key is None:
        return {}
    return {"head_dim": key} if value in (None, key) else {"head_dim_k": key, "head_dim_v": value}


def _windows(own: Mapping[str, Any]) -> dict[str, Any]:
    """Say which layers see only a window: stated per layer, or every n-th that does not."""
    pattern = own.get("attention.sliding_window_pattern")
    if isinstance(pattern, Sequence) and not isinstance(pattern, str):
        slides = sum(bool(flag) for flag in pattern)
        return {"layer_types": {"sliding_attention": slides, "full_attention": len(pattern) - slides}}
    return {"sliding_window_pattern": int(pattern)} if pattern else {}


def _states(arch: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of recurrent layers."""
    conv, state, groups = (own.get(f"ssm.{name}") for name in ("conv_kernel", "state_size", "group_count"))
    inner, rank = own.get("ssm.inner_size"), own.get("ssm.time_step_rank")
    if not state or not inner or not rank:
        return {}
    if arch in _DELTA_NET:
        return {
            "linear_conv_kernel_dim": conv,
            "linear_key_head_dim": state,
            "linear_num_key_heads": groups,
            "linear_num_value_heads": rank,
            "linear_value_head_dim": inner // rank,
        }
    return {
        "mamba_d_conv": conv,
        "mamba_d_state": state,
        "mamba_n_groups": groups or 1,
        "mamba_n_heads": rank,
        "mamba_d_head": inner // rank,
    }


def _layer_kinds(arch: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Tell attention from Mamba by the heads of each layer: a layer without any keeps a state."""
    heads, widths = config.get("num_key_value_heads"), config.get("intermediate_size")
    if "mamba_d_state" not in config or not isinstance(heads, Sequence) or isinstance(heads, str):
        return {}
    if arch.startswith("nemotron_h") and isinstance(widths, Sequence) and not isinstance(widths, str):
        wide = "E" if config.get("num_experts") else "-"
        letters = ("*" if own else wide if width else "M" for own, width in zip(heads, widths, strict=False))
        return {"hybrid_override_pattern": "".join(letters)}
    return {"layer_types": ["attention" if own else "mamba" for own in heads]}
