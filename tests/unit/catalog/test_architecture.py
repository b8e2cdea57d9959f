"""Parameters and layers counted from configurations."""

from collections import Counter
from typing import Any

import pytest

from trivet.catalog.architecture import Architecture
from trivet.domain.errors import ConfigError

# Dimensions of public config.json files, and the totals that their makers publish.
LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "vocab_size": 151936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "tie_word_embeddings": False,
}
DEEPSEEK_V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "vocab_size": 129280,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [(LLAMA_8B, 8.03e9, 8.03e9), (QWEN3_MOE, 30.53e9, 3.35e9), (DEEPSEEK_V3, 671.0e9, 37.5e9)],
    ids=["llama", "qwen3-moe", "deepseek-v3"],
)
def test_parameters_agree_with_what_is_published(config: dict[str, Any], total: float, active: float) -> None:
    """A whole config gives the published totals within half a per cent."""
    architecture = Architecture.from_config(config)
    assert architecture.total_params == pytest.approx(total, rel=0.005)
    assert architecture.active_params == pytest.approx(active, rel=0.005)
    assert architecture.assumed == ()


def test_a_nested_config_is_read() -> None:
    """Models that see describe their language part in text_config."""
    nested = {"architectures": ["X"], "text_config": LLAMA_8B}
    assert Architecture.from_config(nested).total_params == Architecture.from_config(LLAMA_8B).total_params


def test_layer_types_may_be_counts() -> None:
    """A mapping of kinds to how many layers are so counts as well as a list of them."""
    counted = Architecture.from_config(
        {**LLAMA_8B, "layer_types": {"sliding_attention": 24, "full_attention": 8}}
    )
    assert Counter(layer.mixer.value for layer in counted.plan) == {"sliding": 24, "full": 8}


def test_a_config_without_layers_is_refused() -> None:
    """Nothing can be said of a model that does not say how many layers it has."""
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        Architecture.from_config({"hidden_size": 4096}, name="x")
