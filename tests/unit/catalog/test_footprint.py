"""The footprint as a whole: against measurements, and what must hold for any request."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import scaled
from tests.unit.catalog.configs import (
    ALL,
    DEEPSEEK_V3,
    GPT_OSS_20B,
    LLAMA_8B,
    QWEN3_30B_A3B,
    QWEN3_32B,
)
from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import vllm_version
from trivet.catalog.footprint import (
    EngineKind,
    Footprint,
    FootprintRequest,
    default_context_tokens,
    footprint,
)
from trivet.catalog.gpu_table import load_gpu_table
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB

TABLE = load_gpu_table()
KINDS: tuple[EngineKind, ...] = ("vllm", "llamacpp", "ollama")
ARCHITECTURES = {name: Architecture.from_config(config, name=name) for name, config in ALL.items()}


def of(config: dict[str, Any], gpu: str = "H100", context: int = 8192, **changes: Any) -> Footprint:
    """Return the footprint of a config on vLLM, or as the changes say."""
    changes.setdefault("engine", "vllm")
    request = FootprintRequest(
        architecture=Architecture.from_config(config), gpu=TABLE.find(gpu), context_tokens=context, **changes
    )
    return footprint(request)


@pytest.mark.parametrize(
    ("config", "changes", "weights", "activation", "kv"),
    [
        (LLAMA_8B, {"engine_version": "0.19.0", "gpu_memory_utilization": 0.95}, 14.99, 1.89, 58.11),
        (LLAMA_8B, {"engine_version": "0.11.0", "gpu_memory_utilization": 0.9}, 14.99, 4.76, 51.38),
        (
            LLAMA_8B,
            {"engine_version": "0.19.0", "gpu_memory_utilization": 0.95, "dtype": "float32"},
            29.98,
            None,
            42.80,
        ),
        (
            LLAMA_8B,
            {"engine_version": "0.19.0", "gpu_memory_utilization": 0.95, "dtype": "fp8"},
            8.49,
            None,
            64.61,
        ),
        (
            GPT_OSS_20B,
            {"engine_version": "0.11.0", "gpu_memory_utilization": 0.9, "dtype": "mxfp4"},
            13.47,
            7.38,
            50.28,
        ),
    ],
    ids=["0.19", "0.11", "float32", "fp8", "mxfp4"],
)
def test_vllm_on_an_h100(
    config: dict[str, Any], changes: dict[str, Any], weights: float, activation: float | None, kv: float
) -> None:
    """Figures that vLLM printed on an H100 (llm-d-planner's published accuracy runs)."""
    found = of(config, **changes)
    assert found.weights_bytes / GIB == pytest.approx(weights, rel=0.01)
    assert found.kv_bytes / GIB == pytest.approx(kv, abs=0.15)
    if activation:
        assert found.activation_bytes / GIB == pytest.approx(activation, rel=0.02)
    assert found.fits


def test_pipeline_stages_hold_the_ends() -> None:
    """Llama 3.1 8B in four stages: 4.26 GiB on the heaviest, since the output matrix is not spread."""
    found = of(LLAMA_8B, pipeline_parallel=4, engine_version="0.19")
    assert found.weights_bytes / GIB == pytest.approx(4.26, rel=0.01)


@pytest.mark.parametrize(
    ("config", "quant", "expected"),
    [
        (QWEN3_30B_A3B, "q5_k_m", 20.228),
        (QWEN3_32B, "q4_0", 17.413),
        (QWEN3_32B, "Q5_K - Medium (5.664 BPW)", 21.603),
        (GPT_OSS_20B, "mxfp4", 11.27),
    ],
)
def test_gguf_files_have_the_size_that_they_have(config: dict[str, Any], quant: str, expected: float) -> None:
    """Sizes of published files, from the rules by which llama.cpp picks types."""
    found = of(config, engine="llamacpp", quant=quant, gpu="A100-40GB")
    assert found.weights_bytes / GIB == pytest.approx(expected, rel=0.005)


def test_llamacpp_adds_up() -> None:
    """Weights, cache, one batch's buffers (300.75 MiB in a public log) and the context."""
    found = of(QWEN3_30B_A3B, engine="llamacpp", quant="q4_k_m", gpu="RTX 4090", context=4096)
    assert found.compute_bytes == int(300.75 * 1024**2)
    parts = found.weights_bytes + found.kv_bytes + found.compute_bytes + found.non_torch_bytes
    assert (found.total_bytes, found.fits) == (parts, True)


def test_exact_weights_win() -> None:
    """What the files' headers say is taken as it is, and divided."""
    assert of(LLAMA_8B, weights_bytes=20 * GIB, tensor_parallel=2).weights_bytes == 10 * GIB
    assert of(LLAMA_8B, total_params=10_000_000_000, bits_per_weight=8).weights_bytes == 10_000_000_000


def test_defaults_are_those_of_the_device() -> None:
    """An H100 gets 1024 sequences, an A100 and a 4090 get 256, whatever their memory."""
    large, small = of(LLAMA_8B, gpu="H100"), of(LLAMA_8B, gpu="A100-80GB")
    assert large.activation_bytes > 2 * small.activation_bytes
    assert any("1024 sequences and 8192" in note for note in large.assumed)
    assert any("256 sequences and 2048" in note for note in small.assumed)


def test_old_constants_are_kept() -> None:
    """Before 0.21 graphs come on top of the budget; the default budget was 0.90."""
    old, new = of(LLAMA_8B, engine_version="0.19"), of(LLAMA_8B)
    usable = TABLE.find("H100").usable_bytes
    assert old.total_bytes - old.graphs_bytes == pytest.approx(0.90 * usable, abs=2)
    assert new.total_bytes == pytest.approx(0.92 * usable, abs=2)
    assert of(LLAMA_8B, eager=True).graphs_bytes == 0


@pytest.mark.parametrize(
    ("config", "tensor_parallel", "words"),
    [
        (LLAMA_8B, 2, ""),
        (LLAMA_8B, 8, ""),
        (LLAMA_8B, 16, ""),  # 8 key heads, two copies of each
        (LLAMA_8B, 3, "32 attention heads"),
        ({**QWEN3_32B, "num_attention_heads": 40}, 5, "rows of the vocabulary"),
        (
            {**LLAMA_8B, "num_attention_heads": 24, "num_key_value_heads": 4, "vocab_size": 96_000},
            6,
            "4 key heads",
        ),
    ],
)
def test_vllm_refuses_what_it_cannot_divide(config: dict[str, Any], tensor_parallel: int, words: str) -> None:
    """A model that vLLM would refuse at that size does not fit, and why is said."""
    found = of(config, tensor_parallel=tensor_parallel)
    refusals = [note for note in found.assumed if "refuses" in note]
    assert found.fits == (not words)
    assert bool(refusals) == bool(words)
    assert words in "".join(refusals)


def test_an_encoder_has_no_cache() -> None:
    """A model that answers with vectors keeps no tokens: no pool, and it fits where its weights do."""
    encoder = {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
               "intermediate_size": 4096, "vocab_size": 30522, "max_position_embeddings": 512}  # fmt: skip
    found = of(encoder, gpu="8GB", context=512)
    assert (found.kv_bytes, found.kv_tokens, found.kv_bytes_per_token, found.fits) == (0, 0, 0, True)
    assert found.total_bytes < 2 * GIB


def test_what_is_guessed_has_a_wide_band() -> None:
    """4-bit hybrids differ among makers; exact weights narrow the band."""
    hybrid = ALL["qwen35-35b-a3b"]
    guessed, exact = of(hybrid, dtype="awq"), of(hybrid, dtype="awq", weights_bytes=20 * GIB)
    assert (guessed.band_bytes, exact.band_bytes) == (3 * GIB, 3 * GIB // 2)


def test_what_does_not_fit_is_said() -> None:
    """Weights larger than the card leave no pool; a pool shorter than the context is no fit either."""
    too_large = of(QWEN3_32B, gpu="RTX 4090")
    assert (too_large.kv_bytes, too_large.fits) == (0, False)
    assert of(LLAMA_8B, gpu="RTX 4090", context=16384, engine_version="0.11").fits
    assert not of(LLAMA_8B, gpu="RTX 4090", context=131_072, engine_version="0.11").fits


def test_newer_schedulers_run_ahead() -> None:
    """Since 0.26 sliding layers hold two batches beside the window, and the sampler keeps the logits only."""
    sliding = ALL["gemma3-27b"]
    before, since = of(sliding, context=131_072, engine_version="0.25"), of(sliding, context=131_072)
    assert since.kv_bytes_per_token > before.kv_bytes_per_token
    assert since.activation_bytes < before.activation_bytes
    assert of(LLAMA_8B, gpu="B200", engine_version="0.27").assumed != of(LLAMA_8B, gpu="B200").assumed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.19.0", (0, 19)),
        ("~0.11", (0, 11)),
        ("v0.9.2", (0, 9)),
        ("0.20.1rc1.dev16", (0, 20)),
        ("0.24.0+rhaiv.13", (0, 24)),
        ("0.6.x dev (Dec 2024, V0)", (0, 6)),
        ("dev (main, Jun 2026)", (0, 22)),
        ("dev Nov 2023", None),
        ("nightly", None),
        (None, None),
    ],
)
def test_versions_are_read_as_people_write_them(text: str | None, expected: tuple[int, int] | None) -> None:
    """A build without a number counts as the release of its month; what says nothing is the newest."""
    assert vllm_version(text) == expected


def test_old_files_of_deepseek_keep_every_head() -> None:
    """A GGUF record from before latent attention keeps 128 heads: 2.38 GiB for 512 tokens."""
    record = DEEPSEEK_V3 | {"gguf_arch": "deepseek2", "head_dim_k": 192, "head_dim_v": 128}
    old = of(record, engine="llamacpp", quant="q4_k_m", context=512)
    assert old.kv_bytes / GIB == pytest.approx(2.38281, rel=0.0005)


def test_ollama_chooses_its_context_by_memory() -> None:
    """4k, 32k or 256k, at most the model's own."""
    architecture = Architecture.from_config(LLAMA_8B | {"max_position_embeddings": 131_072})
    found = [
        default_context_tokens(architecture, "ollama", TABLE.find(g))
        for g in ("RTX 3060", "RTX 4090", "H100")
    ]
    assert found == [4096, 32_768, 131_072]
    assert default_context_tokens(architecture, "vllm", TABLE.find("H100")) == 131_072


@pytest.mark.parametrize(
    "changes",
    [
        {"context_tokens": 0},
        {"sequences": 0},
        {"tensor_parallel": 0},
        {"gpu_memory_utilization": 1.5},
        {"dtype": "q17"},
        {"engine": "llamacpp", "quant": "q9_k"},
        {"kv_dtype": "zz"},
        {"pipeline_parallel": 99},
    ],
    ids="-".join,
)
def test_nonsense_is_refused(changes: dict[str, Any]) -> None:
    """A number or a type that makes no sense is named, not guessed at."""
    base: dict[str, Any] = {"engine": "vllm", "context_tokens": 8192}
    request = FootprintRequest(
        architecture=Architecture.from_config(LLAMA_8B), gpu=TABLE.find("H100"), **(base | changes)
    )
    with pytest.raises(ConfigError):
        footprint(request)


def test_json_has_the_published_names() -> None:
    """One object, in GiB."""
    assert list(of(LLAMA_8B).as_json()) == [
        "weights_gib",
        "kv_gib",
        "activation_gib",
        "non_torch_gib",
        "graphs_gib",
        "compute_gib",
        "total_gib",
        "band_gib",
        "kv_tokens",
        "kv_bytes_per_token",
        "fits",
        "assumed",
    ]


@st.composite
def requests(draw: st.DrawFn) -> FootprintRequest:
    """Any sensible request."""
    engine = draw(st.sampled_from(KINDS))
    quants = (
        ["fp8", "awq", "nvfp4", "mxfp4", None] if engine == "vllm" else ["q4_k_m", "q8_0", "iq4_xs", "f16"]
    )
    return FootprintRequest(
        architecture=ARCHITECTURES[draw(st.sampled_from(sorted(ARCHITECTURES)))],
        engine=engine,
        quant=draw(st.sampled_from(quants)),
        gpu=TABLE.specs[draw(st.integers(0, len(TABLE.specs) - 1))],
        context_tokens=draw(st.integers(1, 300_000)),
        sequences=draw(st.one_of(st.none(), st.integers(1, 2048))),
        tensor_parallel=draw(st.sampled_from([1, 2, 4, 8])),
        pipeline_parallel=draw(st.sampled_from([1, 2, 3])),
        engine_version=draw(st.sampled_from([None, "0.6", "0.9.2", "0.11.0", "0.19.0", "0.24", "0.30"])),
        kv_dtype=draw(st.sampled_from([None, "fp8", "q8_0", "f16"])),
        gpu_memory_utilization=draw(st.one_of(st.none(), st.floats(0.05, 1.0))),
        eager=draw(st.booleans()),
    )


@settings(deadline=None, max_examples=scaled(150))
@given(requests(), st.integers(1, 4))
def test_more_never_costs_less(asked: FootprintRequest, factor: int) -> None:
    """No figure is negative; more context or sequences never cost less, more GPUs never more for each."""
    one = footprint(asked)
    longer = footprint(replace(asked, context_tokens=asked.context_tokens * factor))
    wider = footprint(replace(asked, sequences=(asked.sequences or 1) * factor, batched_tokens=512))
    narrow = footprint(replace(asked, sequences=asked.sequences or 1, batched_tokens=512))
    shared = footprint(replace(asked, tensor_parallel=asked.tensor_parallel * 2))
    for found in (one, longer, wider, shared):
        assert min(v for name, v in found.as_json().items() if name not in ("fits", "assumed")) >= 0
    assert shared.weights_bytes <= one.weights_bytes
    assert shared.kv_bytes_per_token <= one.kv_bytes_per_token
    assert longer.kv_bytes_per_token * factor + factor >= one.kv_bytes_per_token
    if asked.engine == "vllm":
        assert wider.activation_bytes >= narrow.activation_bytes
        assert (wider.kv_bytes, longer.kv_bytes) <= (narrow.kv_bytes, one.kv_bytes)
    else:
        assert (wider.total_bytes, longer.total_bytes) >= (narrow.total_bytes, one.total_bytes)


@settings(deadline=None, max_examples=scaled(60))
@given(requests())
def test_what_fits_leaves_room(asked: FootprintRequest) -> None:
    """A fit lies within the GPU; the cache holds a sequence of the context's length, with room to spare."""
    found = footprint(asked)
    if not found.fits:
        return
    assert found.total_bytes <= asked.gpu.usable_bytes
    if asked.engine == "vllm":
        assert found.kv_bytes >= (found.kv_bytes_per_token - 1) * asked.context_tokens + found.band_bytes
    else:
        assert found.total_bytes + GIB <= asked.gpu.usable_bytes
