"""Cards from what Ollama and GGUF files say."""

import json
from pathlib import Path
from typing import Any

import pytest

from trivet.catalog.architecture import Architecture
from trivet.catalog.cards import load_catalog
from trivet.catalog.gguf_metadata import config_from_gguf
from trivet.catalog.model_files import read_architecture
from trivet.catalog.ollama_card import card_from_show, config_from_show
from trivet.domain.errors import ConfigError

CATALOG = load_catalog()

# Metadata as llama.cpp prints it for these models; vocabularies as lengths.
LLAMA_8B = {
    "general.architecture": "llama",
    "general.parameter_count": 8030261248,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.block_count": 32,
    "llama.context_length": 131072,
    "llama.embedding_length": 4096,
    "llama.feed_forward_length": 14336,
    "llama.vocab_size": 128256,
    "tokenizer.ggml.tokens": None,
}
LLAMA_3B = {
    "general.architecture": "llama",
    "general.parameter_count": 3212749888,
    "llama.attention.head_count": 24,
    "llama.attention.head_count_kv": 8,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
    "llama.block_count": 28,
    "llama.context_length": 131072,
    "llama.embedding_length": 3072,
    "llama.feed_forward_length": 8192,
    "llama.vocab_size": 128256,
}
QWEN3_MOE = {
    "general.architecture": "qwen3moe",
    "qwen3moe.block_count": 48,
    "qwen3moe.context_length": 40960,
    "qwen3moe.embedding_length": 2048,
    "qwen3moe.feed_forward_length": 6144,
    "qwen3moe.attention.head_count": 32,
    "qwen3moe.attention.head_count_kv": 4,
    "qwen3moe.attention.key_length": 128,
    "qwen3moe.attention.value_length": 128,
    "qwen3moe.expert_count": 128,
    "qwen3moe.expert_used_count": 8,
    "qwen3moe.expert_feed_forward_length": 768,
    "tokenizer.ggml.tokens": 151936,
}
DEEPSEEK = {
    "general.architecture": "deepseek2",
    "deepseek2.block_count": 61,
    "deepseek2.context_length": 163840,
    "deepseek2.embedding_length": 7168,
    "deepseek2.feed_forward_length": 18432,
    "deepseek2.attention.head_count": 128,
    "deepseek2.attention.head_count_kv": 1,
    "deepseek2.attention.kv_lora_rank": 512,
    "deepseek2.attention.q_lora_rank": 1536,
    "deepseek2.attention.key_length": 576,
    "deepseek2.attention.value_length": 512,
    "deepseek2.attention.key_length_mla": 192,
    "deepseek2.attention.value_length_mla": 128,
    "deepseek2.rope.dimension_count": 64,
    "deepseek2.expert_count": 256,
    "deepseek2.expert_used_count": 8,
    "deepseek2.expert_feed_forward_length": 2048,
    "deepseek2.expert_shared_count": 1,
    "deepseek2.leading_dense_block_count": 3,
    "deepseek2.vocab_size": 129280,
}
QWEN3_NEXT = {
    "general.architecture": "qwen3next",
    "qwen3next.block_count": 48,
    "qwen3next.context_length": 262144,
    "qwen3next.embedding_length": 2048,
    "qwen3next.feed_forward_length": 5120,
    "qwen3next.attention.head_count": 16,
    "qwen3next.attention.head_count_kv": 2,
    "qwen3next.attention.key_length": 256,
    "qwen3next.attention.value_length": 256,
    "qwen3next.expert_count": 512,
    "qwen3next.expert_used_count": 10,
    "qwen3next.expert_feed_forward_length": 512,
    "qwen3next.expert_shared_feed_forward_length": 512,
    "qwen3next.ssm.conv_kernel": 4,
    "qwen3next.ssm.state_size": 128,
    "qwen3next.ssm.group_count": 16,
    "qwen3next.ssm.time_step_rank": 32,
    "qwen3next.ssm.inner_size": 4096,
    "tokenizer.ggml.tokens": 151936,
}


@pytest.mark.parametrize(
    ("metadata", "card_id"),
    [
        (LLAMA_8B, "llama-3.1-8b-instruct"),
        (QWEN3_MOE, "qwen3-30b-a3b"),
        (DEEPSEEK, "deepseek-v3-0324"),
        (QWEN3_NEXT, "qwen3-next-80b-a3b-instruct"),
    ],
)
def test_metadata_and_card_are_one_structure(metadata: dict[str, Any], card_id: str) -> None:
    """A GGUF file's metadata gives the layers and parameters of the same model's card."""
    config = config_from_gguf({key: value for key, value in metadata.items() if value is not None})
    read = Architecture.from_config({**config, "tie_word_embeddings": False})
    known = CATALOG.find(card_id).architecture
    assert read.total_params == pytest.approx(known.total_params, rel=0.005)
    assert read.active_params == pytest.approx(known.active_params, rel=0.005)
    assert [layer.mixer for layer in read.plan] == [layer.mixer for layer in known.plan]
    assert read.kv_heads in (known.kv_heads, 1)


def test_windows_stated_per_layer() -> None:
    """A list of flags, as gpt-oss and Gemma files carry, becomes counts; two sizes of heads become two."""
    config = config_from_gguf(
        {
            "general.architecture": "gemma4",
            "gemma4.block_count": 6,
            "gemma4.attention.sliding_window": 1024,
            "gemma4.attention.sliding_window_pattern": [True] * 5 + [False],
            "gemma4.attention.key_length": 512,
            "gemma4.attention.key_length_swa": 256,
        }
    )
    assert config["layer_types"] == {"sliding_attention": 5, "full_attention": 1}
    assert (config["head_dim"], config["global_head_dim"]) == (256, 512)


def show(info: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an answer of `/api/show` as Ollama gives it without `verbose`."""
    return {
        "details": {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M"},
        "model_info": info,
        "capabilities": ["completion", "tools"],
        "modified_at": "2026-05-04T10:00:00.123Z",
        "license": "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: ...",
        **more,
    }


def test_a_card_from_ollamas_show() -> None:
    """Structure, form, abilities and window come from the answer, and the quality is unknown."""
    card = card_from_show("Mine:8B", show(LLAMA_8B), size_bytes=4_920_753_328)
    assert (card.id, card.family, card.context_tokens) == ("mine:8b", "llama", 131072)
    assert card.capabilities == {"tools"}
    assert (card.total_params, card.active_params) == (8030261248, 8030261248)
    assert (card.quality, card.quality_source) == (0.0, "unknown")
    (variant,) = card.variants
    assert (variant.ref, variant.quant, variant.weights_bytes) == ("Mine:8B", "q4_k_m", 4_920_753_328)
    assert card.architecture.total_params == pytest.approx(8030261248, rel=0.001)
    assert card.licence == "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT"
    assert card.released.isoformat() == "2026-05-04"


@pytest.mark.parametrize(
    ("info", "tensors", "tied"),
    [
        (LLAMA_8B, None, False),
        (LLAMA_3B, None, True),
        (LLAMA_3B, [{"name": "token_embd.weight"}, {"name": "output.weight"}], False),
        (LLAMA_8B, [{"name": "token_embd.weight"}], True),
    ],
)
def test_whether_the_output_is_the_embedding(info: dict[str, Any], tensors: Any, tied: bool) -> None:
    """The tensors tell; without them the number of parameters does."""
    assert config_from_show(show(info, tensors=tensors))["tie_word_embeddings"] is tied


def test_a_saved_answer_is_a_model(tmp_path: Path) -> None:
    """What `curl .../api/show` printed can stand where a config.json can."""
    path = tmp_path / "show.json"
    path.write_text(json.dumps(show(LLAMA_8B)), encoding="utf-8")
    assert read_architecture(path).total_params == pytest.approx(8030261248, rel=0.001)


def test_an_answer_without_structure_is_refused() -> None:
    """What names no layers cannot be planned with, and the error says what to give instead."""
    with pytest.raises(ConfigError, match="nothing of the model's layers"):
        card_from_show("odd", {"model_info": {"general.architecture": "odd"}})


def test_a_sparse_answer_is_enough() -> None:
    """Without counts, dates or abilities there is still a card."""
    info = {key: value for key, value in LLAMA_8B.items() if key != "general.parameter_count"}
    card = card_from_show("x:1b", {"model_info": info, "details": {"parameter_size": "8.03B"}})
    assert card.total_params == 8_030_000_000
    assert card.capabilities == frozenset()
    bare = card_from_show("x:1b", {"model_info": info})
    assert bare.total_params == pytest.approx(8.03e9, rel=0.01)
