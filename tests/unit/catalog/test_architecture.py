"""Parameters and layers counted from configurations."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import scaled
from tests.unit.catalog.configs import (
    ALL,
    DEEPSEEK_V3,
    GEMMA3_27B,
    GPT_OSS_20B,
    LLAMA_8B,
    NEMOTRON3_NANO,
    QWEN3_30B_A3B,
    QWEN35_35B_A3B,
)
from trivet.catalog.architecture import Architecture
from trivet.catalog.config_fields import parse_count
from trivet.domain.errors import ConfigError


def kinds(config: dict[str, Any]) -> dict[str, int]:
    """Return how many layers of each kind a config has."""
    return dict(Counter(layer.mixer.value for layer in Architecture.from_config(config).plan))


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (LLAMA_8B, 8.03e9, 8.03e9),
        (QWEN3_30B_A3B, 30.53e9, 3.35e9),
        (DEEPSEEK_V3, 671.0e9, 37.5e9),
        (GPT_OSS_20B, 20.9e9, 4.19e9),
        (NEMOTRON3_NANO, 31.6e9, 3.58e9),
        (QWEN35_35B_A3B, 34.7e9, 3.45e9),
    ],
    ids=["llama", "qwen3-moe", "deepseek-v3", "gpt-oss", "nemotron", "qwen35"],
)
def test_parameters_agree_with_what_is_published(config: dict[str, Any], total: float, active: float) -> None:
    """A whole config gives the published totals within half a per cent."""
    architecture = Architecture.from_config(config)
    assert architecture.total_params == pytest.approx(total, rel=0.005)
    assert architecture.active_params == pytest.approx(active, rel=0.005)


ODD: dict[str, tuple[float, dict[str, Any]]] = {
    # Kinds that write their config in ways of their own; billions as published.
    "dbrx": (
        131.6,
        {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "vocab_size": 100352,
         "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 10752},
         "attn_config": {"kv_n_heads": 8}, "tie_word_embeddings": False},
    ),
    "jamba": (
        51.6,
        {"model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2,
         "expert_layer_offset": 1, "num_experts": 16, "num_experts_per_tok": 2, "intermediate_size": 14336,
         "mamba_d_state": 16, "mamba_expand": 2, "vocab_size": 65536, "tie_word_embeddings": False},
    ),
    "falcon": (
        7.22,
        {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
         "multi_query": True, "new_decoder_architecture": False, "num_kv_heads": 71, "vocab_size": 65024},
    ),
    "gpt2": (
        0.124,
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
         "vocab_size": 50257, "n_inner": None},
    ),
    "phi-2": (
        2.78,
        {"model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
         "intermediate_size": 10240, "vocab_size": 51200, "tie_word_embeddings": False},
    ),
    "granite-4-hybrid": (
        32.2,
        {"model_type": "granitemoehybrid", "hidden_size": 4096, "num_hidden_layers": 40,
         "layer_types": (["mamba"] * 9 + ["attention"]) * 4, "mamba_n_heads": 128, "mamba_d_head": 64,
         "mamba_d_state": 128, "mamba_n_groups": 1, "num_local_experts": 72, "num_experts_per_tok": 10,
         "intermediate_size": 768, "shared_intermediate_size": 1536, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 100352, "tie_word_embeddings": True},
    ),
    "lfm2": (
        1.17,
        {"model_type": "lfm2", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "layer_types": ["conv"] * 10 + ["full_attention"] * 6,
         "block_ff_dim": 12288, "vocab_size": 65536, "conv_L_cache": 3},
    ),
    "ernie-4.5": (
        21.9,
        {"model_type": "ernie4_5_moe", "hidden_size": 2560, "num_hidden_layers": 28,
         "num_attention_heads": 20, "num_key_value_heads": 4, "intermediate_size": 12288,
         "moe_num_experts": 64, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2,
         "moe_layer_start_index": 1, "moe_k": 6, "vocab_size": 103424, "tie_word_embeddings": True},
    ),
    "kimi-linear": (
        49.1,
        {"model_type": "kimi_linear", "hidden_size": 2304, "num_hidden_layers": 27, "num_attention_heads": 32,
         "num_key_value_heads": 32, "head_dim": 72, "intermediate_size": 9216, "kv_lora_rank": 512,
         "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "num_experts": 256,
         "num_experts_per_token": 8, "moe_intermediate_size": 1024, "num_shared_experts": 1,
         "first_k_dense_replace": 1, "vocab_size": 163840, "tie_word_embeddings": False,
         "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "num_heads": 32,
                                "head_dim": 128, "short_conv_kernel_size": 4}},
    ),
    "mamba2": (
        2.7,
        {"model_type": "mamba2", "hidden_size": 2560, "num_hidden_layers": 64, "state_size": 128,
         "expand": 2, "n_groups": 1, "num_heads": 80, "head_dim": 64, "vocab_size": 50288},
    ),
    "command-r": (
        34.98,
        {"model_type": "cohere", "hidden_size": 8192, "num_hidden_layers": 40, "num_attention_heads": 64,
         "num_key_value_heads": 64, "intermediate_size": 22528, "vocab_size": 256000},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(ODD))
def test_each_kinds_own_way_of_writing_is_read(kind: str) -> None:
    """Other names, nested parts, widths that follow from the kind: within 2 % of what is published."""
    total, config = ODD[kind]
    assert Architecture.from_config(config).total_params == pytest.approx(total * 1e9, rel=0.02)


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, -1, "", [], {}, "x", "12", 3.7, True, [0], [1, 2], 10**12, "[1,", float("inf")]
)


@settings(deadline=None, max_examples=scaled(150))
@given(st.sampled_from(sorted(ALL)), st.dictionaries(st.integers(0, 30), st.none() | JUNK, max_size=6))
def test_broken_configs_are_read_or_refused(name: str, changes: dict[int, Any]) -> None:
    """Whatever is missing or nonsense: an architecture with sane counts, or a ConfigError."""
    config = dict(ALL[name])
    keys = sorted(config)
    for place, value in changes.items():
        if value is None:
            config.pop(keys[place % len(keys)], None)
        else:
            config[keys[place % len(keys)]] = value
    try:
        architecture = Architecture.from_config(config)
    except ConfigError:
        return
    assert 0 <= architecture.active_params <= architecture.total_params
    assert min(layer.kv_heads for layer in architecture.plan) >= 0
    assert sum(count for _, count in architecture.groups) == architecture.layers


def test_a_whole_config_leaves_nothing_to_assume() -> None:
    """What is stated is not assumed."""
    assert Architecture.from_config(DEEPSEEK_V3 | {"max_position_embeddings": 163840}).assumed == ()


def test_a_nested_config_is_read() -> None:
    """Models that see describe their language part in text_config, and their tower in vision_config."""
    plain = Architecture.from_config(LLAMA_8B)
    nested = Architecture.from_config({"model_type": "x", "text_config": LLAMA_8B})
    assert nested.total_params == plain.total_params
    tower = {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304, "patch_size": 14}
    seeing = Architecture.from_config({"text_config": LLAMA_8B, "vision_config": tower})
    assert seeing.vision_params == pytest.approx(0.42e9, rel=0.05)
    assert seeing.total_params == plain.total_params + seeing.vision_params


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"full": 32}),
        ({"layer_types": {"sliding_attention": 24, "full_attention": 8}}, {"sliding": 24, "full": 8}),
        ({"layer_types": ["full_attention", "linear_attention"] * 16}, {"full": 16, "state": 16}),
        ({"sliding_window": 4096, "use_sliding_window": False}, {"full": 32}),
        ({"sliding_window": 4096, "use_sliding_window": True}, {"sliding": 32}),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, {"sliding": 32}),
        ({"architectures": ["Llama4ForCausalLM"]}, {"chunked": 24, "full": 8}),
        ({"cross_attention_layers": [3, 8]}, {"full": 30, "none": 2}),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, {"state": 28, "full": 4}),
    ],
    ids=["plain", "counts", "list", "off", "on", "mistral", "llama4", "cross", "jamba"],
)
def test_layers_are_told_apart(changes: dict[str, Any], expected: dict[str, int]) -> None:
    """Each way to say which layers attend to what is understood."""
    assert kinds(LLAMA_8B | changes) == expected


def test_families_know_their_own_pattern() -> None:
    """A kind whose config does not say which layers slide has its default, and says so."""
    architecture = Architecture.from_config(GEMMA3_27B)
    assert kinds(GEMMA3_27B) == {"sliding": 52, "full": 10}
    assert any("every 6th layer" in note for note in architecture.assumed)
    assert kinds(NEMOTRON3_NANO) == {"state": 23, "none": 23, "full": 6}
    assert kinds(QWEN35_35B_A3B) == {"state": 30, "full": 10}


def test_lists_by_layer_may_be_text() -> None:
    """GGUF records write heads by layer as text; a layer without heads remembers nothing."""
    record = {
        "model": "pruned.gguf",
        "gguf_arch": "deci",
        "num_hidden_layers": 4,
        "hidden_size": 1024,
        "num_attention_heads": "[8, 0, 8, 8]",
        "num_key_value_heads": "[2, 0, 2, 4]",
        "head_dim_k": 128,
        "head_dim_v": 128,
        "intermediate_size": "[2048, 0, 4096, 2048]",
        "vocab_size": 32000,
    }
    architecture = Architecture.from_config(record)
    assert [layer.mixer.value for layer in architecture.plan] == ["full", "none", "full", "full"]
    assert [layer.kv_heads for layer in architecture.plan] == [2, 0, 2, 4]
    assert architecture.plan[1].parameters.attention == architecture.plan[1].parameters.mlp == 0
    assert architecture.kv_heads == 4


def test_what_is_missing_is_derived_and_said() -> None:
    """A record that names little gets its size from its name; each guess is listed."""
    record = {
        "model": "google/gemma-4-12B-it",
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "head_dim": 256,
    }
    architecture = Architecture.from_config(record)
    assert architecture.total_params == pytest.approx(12e9, rel=0.02)
    assert architecture.vocab_size == 262_144
    notes = " ".join(architecture.assumed)
    assert all(
        word in notes for word in ("hidden_size", "vocab_size", "num_attention_heads", "intermediate_size")
    )


def test_a_latent_of_experts_is_inferred_from_the_total() -> None:
    """Experts that would have ten times the parameters of the model must read a smaller latent."""
    config = NEMOTRON3_NANO | {
        "model": "Nemotron-3-Super-120B-A12B",
        "hidden_size": 4096,
        "n_routed_experts": 512,
    }
    config |= {"moe_intermediate_size": 2688, "hybrid_override_pattern": "MEMEMEM*E" * 10}
    architecture = Architecture.from_config(config)
    assert architecture.total_params == pytest.approx(120e9, rel=0.15)
    assert any("moe_latent_size" in note for note in architecture.assumed)


def test_a_config_without_layers_is_refused() -> None:
    """Nothing can be said of a model that does not say how many layers it has."""
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        Architecture.from_config({"hidden_size": 4096}, name="x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("672.050 B", 672.05e9),
        ("235,741 B", 235.741e9),
        ("1.027 T", 1.027e12),
        ("494 M", 494e6),
        ("many", None),
    ],
)
def test_counts_are_read_as_people_write_them(text: str, expected: float | None) -> None:
    """Points and commas, millions to trillions."""
    assert parse_count(text) == (pytest.approx(expected) if expected else None)


def test_a_slipped_digit_is_refused() -> None:
    """So many layers are a mistake, and they are not made."""
    with pytest.raises(ConfigError, match="layers"):
        Architecture.from_config({"hidden_size": 4096, "num_hidden_layers": 10**9, "vocab_size": 1000})
