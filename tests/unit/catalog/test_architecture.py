"""Parameters and layers counted from configurations."""

from collections import Counter
from typing import Any

import pytest

from tests.unit.catalog.configs import (
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
