"""What engines keep of each token, compared with what they printed."""

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
from trivet.catalog.engine_constants import parse_version, vllm_constants
from trivet.catalog.kv_cache import element_bytes, llamacpp_cache_bytes, state_bytes
from trivet.catalog.vllm_cache import VllmCache, stage_of, stage_sizes, vllm_cache
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB, MIB


def cache(
    config: dict[str, Any],
    *,
    context: int = 16384,
    version: str | None = None,
    kv: str = "auto",
    tp: int = 1,
    batched: int = 8192,
    drafted: int = 0,
) -> VllmCache:
    """Return vLLM's cache for a config."""
    architecture = Architecture.from_config(config)
    return vllm_cache(
        architecture.groups,
        kv_bytes=element_bytes(kv, 2.0),
        states=state_bytes(architecture, 2.0),
        tensor_parallel=tp,
        context_tokens=context,
        in_flight_tokens=batched,
        constants=vllm_constants(parse_version(version)),
        speculative_tokens=drafted,
    )


@pytest.mark.parametrize(
    ("config", "kv", "tp", "expected"),
    [
        (LLAMA_8B, "auto", 1, 131_072),
        (LLAMA_8B, "fp8", 1, 65_536),
        (LLAMA_8B, "auto", 2, 65_536),
        (LLAMA_8B, "auto", 16, 16_384),
        (QWEN3_30B_A3B, "auto", 1, 98_304),
        (DEEPSEEK_V3, "auto", 1, 61 * 576 * 2),
        (DEEPSEEK_V3, "auto", 8, 61 * 576 * 2),
    ],
    ids=["gqa", "fp8", "tp2", "tp beyond heads", "moe", "mla", "mla on every gpu"],
)
def test_plain_layers_are_arithmetic(config: dict[str, Any], kv: str, tp: int, expected: int) -> None:
    """Heads times elements times bytes; heads are divided and repeated; a latent row is whole everywhere."""
    assert cache(config, kv=kv, tp=tp).bytes_per_token == expected


def test_sliding_layers_are_grouped_and_padded() -> None:
    """Gemma 3 27B, vLLM 0.11, 4096 tokens: 109.86 GiB held 50.05 sequences; 8 layers were padded."""
    found = cache(GEMMA3_27B, context=4096, version="0.11")
    assert found.padded_layers == 8
    assert found.tokens(int(109.86 * GIB)) / 4096 == pytest.approx(50.05, rel=0.001)


def test_states_are_padded_to_blocks() -> None:
    """Qwen3.5 35B-A3B in BF16: 47.55 GiB held 18.44 sequences of 131,072 before prefix caching was on."""
    found = cache(QWEN35_35B_A3B, context=131_072, version="0.20")
    assert found.block_bytes == 10 * 1056 * 2048
    assert found.tokens(int(47.55 * GIB)) / 131_072 == pytest.approx(18.44, rel=0.002)


def test_prefix_caching_keeps_a_second_state() -> None:
    """With it, each sequence holds two states; each drafted token one more."""
    plain = cache(QWEN35_35B_A3B, context=131_072, version="0.20").sequence_bytes
    caching = cache(QWEN35_35B_A3B, context=131_072).sequence_bytes
    drafting = cache(QWEN35_35B_A3B, context=131_072, drafted=3).sequence_bytes
    page = 1056 * 2048
    assert caching - plain == 30 * page
    assert drafting - caching == 3 * 30 * page


def test_without_the_hybrid_manager_every_layer_is_full() -> None:
    """Versions before 0.10 keep the whole context in every layer."""
    assert cache(GPT_OSS_20B, version="0.9", context=16384).bytes_per_token == 24 * 2048
    assert cache(GPT_OSS_20B, version="0.11", context=131_072).bytes_per_token < 14 * 2048


@pytest.mark.parametrize(
    ("config", "context", "slots", "kv", "ubatch", "expected_mib"),
    [
        (QWEN3_30B_A3B, 32768, 1, "f16", 512, 3072.0),
        (QWEN3_30B_A3B, 4096, 1, "f16/f16", 512, 384.0),
        (GPT_OSS_20B, 131_072, 1, "f16", 512, 3072.0 + 18.0),
        (GPT_OSS_20B, 131_072, 1, "f16", 2048, 3072.0 + 54.0),
        (GPT_OSS_20B, 8192, 1, "q8_0", 128, 102.0 + 3.19),
        (DEEPSEEK_V3, 32768, 1, "f16", 512, 2.14453 * 1024),
        (DEEPSEEK_V3, 32768, 1, "q8_0", 512, 1.13928 * 1024),
    ],
)
def test_llamacpp_prints_the_same(
    config: dict[str, Any], context: int, slots: int, kv: str, ubatch: int, expected_mib: float
) -> None:
    """KV buffers of public llama.cpp logs, by layer kind, cache type and batch."""
    architecture = Architecture.from_config(config)
    found = llamacpp_cache_bytes(
        architecture.groups,
        kv_bytes=element_bytes(kv, 2.0),
        context_tokens=context,
        slots=slots,
        ubatch_tokens=ubatch,
    )
    assert found / MIB == pytest.approx(expected_mib, rel=0.0005)


def test_states_grow_with_slots_only() -> None:
    """A recurrent state is there once for each slot, however long the context."""
    groups = Architecture.from_config(NEMOTRON3_NANO).groups
    states = tuple((layer, count) for layer, count in groups if layer.recurrent_state)
    sizes = [
        llamacpp_cache_bytes(
            states, kv_bytes=(2.0, 2.0), context_tokens=context, slots=slots, ubatch_tokens=512
        )
        for context, slots in ((4096, 1), (65536, 1), (4096, 3))
    ]
    assert sizes[0] == sizes[1] == sizes[2] // 3


def test_slots_may_share_their_cells() -> None:
    """Gemma 4 12B, four slots of 2048: 4608 sliding cells shared (a public log), four times 1536 apart."""
    config = {"model": "gemma-4-12b", "num_hidden_layers": 48, "num_key_value_heads": 8, "head_dim": 256,
              "layer_types": {"sliding_attention": 40, "full_attention": 8}, "sliding_window": 1024,
              "num_global_key_value_heads": 1, "global_head_dim": 512, "hidden_size": 3840}  # fmt: skip
    groups = Architecture.from_config(config).groups
    shared, apart = (
        llamacpp_cache_bytes(
            groups,
            kv_bytes=element_bytes("q8_0", 2.0),
            context_tokens=2048,
            slots=4,
            ubatch_tokens=512,
            apart=own,
        )
        for own in (False, True)
    )
    assert shared / MIB == pytest.approx(68.0 + 765.0, abs=0.1)
    assert apart / MIB == pytest.approx(68.0 + 765.0 * 6144 / 4608, abs=0.1)


def test_pipeline_stages_follow_vllm() -> None:
    """What is left over goes to the stages before the last."""
    assert stage_sizes(32, 4) == [8, 8, 8, 8]
    assert stage_sizes(61, 4) == [15, 15, 16, 15]
    assert stage_sizes(62, 4) == [15, 16, 16, 15]
    stage = stage_of(Architecture.from_config(DEEPSEEK_V3), 4)
    assert sum(count for _, count in stage) == 16


def test_an_unknown_cache_type_is_refused() -> None:
    """The message lists what is known."""
    assert element_bytes("q8_0/f16", 2.0) == (1.0625, 2.0)
    assert element_bytes("float32 (auto)", 2.0) == (4.0, 4.0)
    assert element_bytes("fp8_e5m2", 2.0) == (1.0, 1.0)
    with pytest.raises(ConfigError, match="q9_9"):
        element_bytes("q9_9", 2.0)
