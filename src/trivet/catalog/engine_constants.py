"""What engines do by themselves, by version: defaults, and the constants of their memory. Pure.

One table, since constants rot: the same model's activation in vLLM fell by 60 % from 0.16 to 0.17, and the
non-torch part grew fourfold under tensor parallelism. Each field says where its figures come from.
"""

import re
from dataclasses import dataclass, replace

from trivet.domain.gpus import GIB, MIB

Version = tuple[int, int]
NEWEST: Version = (9999, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConstants:
    """vLLM's defaults and memory constants from one version on."""

    utilization: float
    """`gpu_memory_utilization` when not given (vllm/config/cache.py)."""
    sampler_factor: float
    """Bytes of the sampler's warm-up in units of 4 * max_num_seqs * vocabulary.

    The warm-up runs with max_num_seqs rows: logits in the model's type (half a unit), then whole matrices in
    float32. Up to 0.16 they are sorted with 64-bit indices (nine units), since 0.17 they are not (three).
    Fits the activation that vLLM printed on an H100 within 6 % (13 models, 0.11.0 and 0.19.0)."""
    sampler_factor_moe: float
    """The same for models with experts or states, which changed later. Model runner V2 (dense models since
    0.26, all since 0.30) samples from the logits as they are: half a unit
    (vllm/v1/worker/gpu/sample/sampler.py)."""
    workspace_stays: bool
    """The workspace of fused experts is kept from the first pass on, so it adds to the sampler's peak
    (vllm/v1/worker/workspace.py)."""
    non_torch_bytes: int
    """CUDA context and libraries beyond PyTorch's allocator, one GPU (0.11.0: 0.13 GiB, 0.19.0: 0.25 GiB)."""
    non_torch_parallel_bytes: int
    """The same with NCCL, two GPUs or more (0.11.0: 0.55 GiB, 0.19.0: 2.07 to 2.13 GiB on H100)."""
    non_torch_plain_parallel_bytes: int
    """The same without NVLink on Hopper or Blackwell (a few reports: 0.6 to 0.75 GiB)."""
    graphs_in_budget: bool
    """CUDA graphs are estimated and taken out of the budget; before 0.21 they came on top of it."""
    graph_bytes: int
    """One captured batch size of one layer."""
    hybrid_cache: bool
    """Layers that forget get their own, smaller share of the cache (hybrid KV cache manager)."""
    chunked_in_hybrid: bool
    """The same for attention in chunks (VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE)."""
    padding_ratio: float
    """Layer kinds whose counts differ by less are padded to the larger (vllm/v1/core/kv_cache_utils.py)."""
    state_blocks: int
    """Blocks of recurrent state that one sequence holds: 2 since prefix caching is on for hybrids."""
    batches_in_flight: int
    """Batches whose tokens sliding layers still hold: 2 since 0.26, as scheduling runs ahead by one
    (VllmConfig.max_in_flight_tokens)."""
    marlin_on_hopper: bool
    """MXFP4 experts ran on Marlin kernels on Hopper too, which pads them more."""
    profile_whole_context: bool = False
    """V0 profiled with prompts of the whole context; V1 profiles with max_num_batched_tokens."""


_FIRST = VllmConstants(
    utilization=0.90,
    sampler_factor=9.5,
    sampler_factor_moe=9.5,
    workspace_stays=False,
    non_torch_bytes=int(0.35 * GIB),
    non_torch_parallel_bytes=int(0.8 * GIB),
    non_torch_plain_parallel_bytes=int(0.8 * GIB),
    graphs_in_budget=False,
    graph_bytes=int(0.9 * MIB),
    hybrid_cache=False,
    chunked_in_hybrid=False,
    padding_ratio=1.25,
    state_blocks=1,
    batches_in_flight=1,
    marlin_on_hopper=True,
    profile_whole_context=True,
)
_V0_8 = replace(
    _FIRST,
    profile_whole_context=False,
    non_torch_bytes=int(0.13 * GIB),
    non_torch_parallel_bytes=int(0.55 * GIB),
)
_V0_10 = replace(_V0_8, hybrid_cache=True)
_V0_11 = replace(_V0_10, marlin_on_hopper=False, graph_bytes=MIB // 4)
_V0_13 = replace(_V0_11, chunked_in_hybrid=True)
_V0_17 = replace(_V0_13, sampler_factor=3.5, sampler_factor_moe=3.5, workspace_stays=True)
_V0_18 = replace(
    _V0_17, non_torch_bytes=int(0.25 * GIB), non_torch_parallel_bytes=int(2.1 * GIB), padding_ratio=1.5
)
_V0_21 = replace(_V0_18, utilization=0.92, graphs_in_budget=True)
_V0_26 = replace(_V0_21, sampler_factor=0.5, batches_in_flight=2)
_V0_28 = replace(_V0_26, state_blocks=2)
_V0_30 = replace(_V0_28, sampler_factor_moe=0.5)
_VLLM: tuple[tuple[Version, VllmConstants], ...] = (
    ((0, 0), _FIRST),
    ((0, 8), _V0_8),
    ((0, 10), _V0_10),
    ((0, 11), _V0_11),
    ((0, 13), _V0_13),
    ((0, 17), _V0_17),
    ((0, 18), _V0_18),
    ((0, 21), _V0_21),
    ((0, 26), _V0_26),
    ((0, 28), _V0_28),
    ((0, 30), _V0_30),
)
MEASURED_VLLM: frozenset[Version] = frozenset({(0, 11), (0, 19)})
"""Versions whose constants were compared with printed figures on an H100; others follow their neighbours."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_RELEASES: tuple[tuple[tuple[int, int], Version], ...] = (
    # (year, month): what was current, from release notes and from issues that name version and day.
    ((2024, 12), (0, 6)),
    ((2025, 1), (0, 7)),
    ((2025, 3), (0, 8)),
    ((2025, 6), (0, 9)),
    ((2025, 8), (0, 10)),
    ((2025, 10), (0, 11)),
    ((2025, 12), (0, 13)),
    ((2026, 3), (0, 17)),
    ((2026, 4), (0, 19)),
    ((2026, 5), (0, 21)),
    ((2026, 6), (0, 22)),
    ((2026, 7), (0, 25)),
    ((2026, 8), (0, 27)),
    ((2026, 9), (0, 29)),
)

LARGE_DEVICE_BYTES = 70 * GIB
"""From here on, and not on an A100, the API server takes 1024 sequences and 8192 batched tokens by itself,
else 256 and 2048 (vllm/engine/arg_utils.py, get_batch_defaults)."""
HUGE_DEVICE_BYTES = 160 * GIB
"""From here on it takes 16384 batched tokens since 0.28."""
VLLM_BLOCK_TOKENS = 16

LLAMACPP_UBATCH_TOKENS = 512
LLAMACPP_CELL_PADDING = 256
LLAMACPP_CONTEXT_BYTES = 350 * MIB
"""CUDA context and what no buffer accounts for: 150 to 460 MiB in public logs of llama.cpp."""
LLAMACPP_CONTEXT_LARGE_GPU_BYTES = 610 * MIB
"""The same on the largest GPUs. Measured on an H100 and an H200, which agree (driver 580, CUDA 13,
docs/proofs/gpu.json): 527 MiB for a context alone, 598 with the model loaded, 610 from the first request on
(706 with weights of 16 bits). Blackwell's data centre GPUs were not measured and are taken as alike."""
_LARGE_GPUS = frozenset({9, 10})
"""Major compute capabilities: Hopper, and Blackwell in the data centre."""
LLAMACPP_MARGIN_BYTES = GIB
"""What llama.cpp's own `--fit` leaves free on each device (common/fit.cpp)."""
LLAMACPP_LATENT_SINCE_OLLAMA: Version = (0, 7)
"""Before llama.cpp kept DeepSeek's latent rows it kept every head's key and value (April 2025)."""
OLLAMA_CONTEXT_BY_MEMORY = ((48 * GIB, 262_144), (24 * GIB, 32_768), (0, 4096))
"""Ollama's default num_ctx by the GPU's memory, largest first."""


def parse_version(text: str | None) -> Version | None:
    """Read (major, minor) out of `0.19.0`, `~0.11`, `0.20.1rc1.dev16`, `v0.9.2`; None for none.

    A text without a version (`dev (main, Jun 2026)`) is None too: the newest known.
    """
    found = re.search(r"(?<![\d.])(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def vllm_version(text: str | None) -> Version | None:
    """Read vLLM's version; of a build that only says when it was made, the release of that month."""
    found = parse_version(text)
    dated = re.search(r"\b([A-Z][a-z]{2})[a-z]* (20\d\d)\b", text or "")
    if found is not None or dated is None or dated[1] not in _MONTHS:
        return found
    made = (int(dated[2]), _MONTHS.index(dated[1]) + 1)
    return next((version for since, version in reversed(_RELEASES) if since <= made), None)


def vllm_constants(version: Version | None) -> VllmConstants:
    """Return the constants of the newest entry that is not newer than this version."""
    wanted = version or NEWEST
    return next(constants for since, constants in reversed(_VLLM) if since <= wanted)


def vllm_default_load(device_bytes: int, name: str, version: Version | None) -> tuple[int, int]:
    """Return (sequences, batched tokens) that vLLM's API server takes by itself on such a device."""
    known = version or NEWEST
    if device_bytes < LARGE_DEVICE_BYTES or "a100" in name.lower() or known < (0, 8):
        return 256, 2048
    return 1024, 16384 if device_bytes >= HUGE_DEVICE_BYTES and known >= (0, 28) else 8192


def llamacpp_context_bytes(capability: tuple[int, int] | None) -> int:
    """Return what llama.cpp takes of a GPU beside its buffers, by the GPU's compute capability."""
    large = capability is not None and capability[0] in _LARGE_GPUS
    return LLAMACPP_CONTEXT_LARGE_GPU_BYTES if large else LLAMACPP_CONTEXT_BYTES


def vllm_capture_sizes(sequences: int) -> int:
    """Return how many batch sizes vLLM captures: 1, 2, 4, by 8 to 256, by 16 to 512; up to 2 * sequences."""
    largest = min(512, 2 * sequences)
    few = sum(1 for size in (1, 2, 4) if size <= largest)
    return few + min(largest, 255) // 8 + (1 + (largest - 256) // 16 if largest >= 256 else 0)
