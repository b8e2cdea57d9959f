"""What vLLM holds on each GPU. Pure."""

import math

from trivet.catalog.architecture import Architecture
from trivet.catalog.confidence import band_bytes, stated_bits
from trivet.catalog.engine_constants import (
    VllmConstants,
    vllm_constants,
    vllm_default_load,
    vllm_version,
)
from trivet.catalog.footprint_values import Footprint, FootprintRequest
from trivet.catalog.kv_cache import element_bytes, state_bytes
from trivet.catalog.precision import Precision, gguf_type, precision_of
from trivet.catalog.vllm_cache import VllmCache, stage_of, vllm_cache
from trivet.catalog.weights import (
    VOCABULARY_PADDING,
    gguf_weights_bytes,
    mxfp4_padding,
    scaled_weights_bytes,
    vllm_weights_bytes,
)
from trivet.catalog.working_memory import vllm_activation_bytes, vllm_graph_bytes

_MODULAR_SCHEMES = ("16bit", "8bit", "32bit")
"""Precisions whose expert kernels share a workspace (vllm/model_executor/layers/fused_moe)."""


def vllm_footprint(request: FootprintRequest) -> Footprint:
    """Take weights, activation and the rest out of vLLM's budget; what is left becomes its pool."""
    version = vllm_version(request.engine_version)
    constants = vllm_constants(version)
    own_sequences, own_batched = vllm_default_load(request.gpu.usable_bytes, request.gpu.name, version)
    sequences = request.sequences or own_sequences
    batched = request.batched_tokens or own_batched
    gguf = gguf_type(request.quant) if request.quant and "mxfp4" not in request.quant.lower() else None
    precision = precision_of(
        request.architecture, "f16" if gguf else request.dtype, None if gguf else request.quant
    )
    weights = _vllm_weights(request, precision, constants, gguf)
    groups = stage_of(request.architecture, request.pipeline_parallel)
    layers = sum(count for _, count in groups)
    model_bytes = 4.0 if precision.scheme == "32bit" else 2.0
    ahead = constants.batches_in_flight
    in_flight = ahead + request.pipeline_parallel - 1 if ahead > 1 else 1
    cache = vllm_cache(
        (*groups, *request.draft.groups) if request.draft else groups,
        kv_bytes=element_bytes(request.kv_dtype, precision.kv_bytes),
        states=state_bytes(request.architecture, model_bytes),
        tensor_parallel=request.tensor_parallel,
        context_tokens=request.context_tokens,
        in_flight_tokens=batched * in_flight,
        constants=constants,
        speculative_tokens=request.speculative_tokens,
    )
    activation = vllm_activation_bytes(
        request.architecture,
        sequences=sequences,
        batched_tokens=batched,
        context_tokens=request.context_tokens,
        tensor_parallel=request.tensor_parallel,
        model_bytes=model_bytes,
        constants=constants,
        modular_experts=precision.scheme in _MODULAR_SCHEMES,
    )
    non_torch = _non_torch_bytes(request, constants)
    graphs = vllm_graph_bytes(layers, sequences=sequences, eager=request.eager, constants=constants)
    utilization = request.gpu_memory_utilization or constants.utilization
    budget = int(request.gpu.usable_bytes * utilization)
    beside = weights + activation + non_torch + (graphs if constants.graphs_in_budget else 0)
    # A model that keeps nothing of its tokens (an encoder) gets no pool.
    pool = max(0, budget - beside) if cache.sequence_bytes else 0
    total = weights + activation + non_torch + graphs + pool
    band = band_bytes(request, version, scheme=precision.scheme)
    starts = budget - beside - band >= cache.sequence_bytes
    refusal = tensor_parallel_refusal(request.architecture, request.tensor_parallel)
    assumed = _assumptions(request, sequences, batched, utilization, cache, refusal)
    return Footprint(
        weights_bytes=weights,
        kv_bytes=pool,
        kv_tokens=cache.tokens(pool),
        kv_bytes_per_token=cache.bytes_per_token,
        activation_bytes=activation,
        non_torch_bytes=non_torch,
        graphs_bytes=graphs,
        compute_bytes=0,
        total_bytes=total,
        band_bytes=band,
        fits=starts and total <= request.gpu.usable_bytes and not refusal,
        assumed=assumed,
    )


def _assumptions(
    request: FootprintRequest,
    sequences: int,
    batched: int,
    utilization: float,
    cache: VllmCache,
    refusal: str,
) -> tuple[str, ...]:
    """Name what was taken because nothing was said, and what vLLM would say to it."""
    assumed = list(request.architecture.assumed)
    if request.sequences is None or request.batched_tokens is None:
        assumed.append(f"{sequences} sequences and {batched} batched tokens (vLLM's defaults there)")
    if request.gpu_memory_utilization is None:
        assumed.append(f"gpu_memory_utilization {utilization:g} (its default)")
    if cache.padded_layers:
        assumed.append(f"{cache.padded_layers} padding layers in the cache")
    return (*assumed, refusal) if refusal else tuple(assumed)


def tensor_parallel_refusal(architecture: Architecture, tensor_parallel: int) -> str:
    """Return why vLLM does not start with so many GPUs, or nothing.

    It divides heads and the padded vocabulary evenly, and keys and values either evenly or as whole copies
    (vllm/config/model.py verify_with_parallel_config, QKVParallelLinear, VocabParallelEmbedding).
    """
    rows = math.ceil(architecture.vocab_size / VOCABULARY_PADDING) * VOCABULARY_PADDING
    heads, kv_heads = architecture.attention_heads, architecture.kv_heads
    for count, what in ((heads, "attention heads"), (rows, "rows of the vocabulary")):
        if count % tensor_parallel:
            return f"vLLM refuses tp {tensor_parallel}: {count} {what} cannot be divided by it"
    if kv_heads and max(kv_heads, tensor_parallel) % min(kv_heads, tensor_parallel):
        return f"vLLM refuses tp {tensor_parallel}: {kv_heads} key heads cannot be dealt out evenly"
    return ""


def _non_torch_bytes(request: FootprintRequest, constants: VllmConstants) -> int:
    """Return what is taken outside of PyTorch's allocator.

    Newer versions set up symmetric memory and fused all-reduce where Hopper or Blackwell are on NVLink;
    elsewhere NCCL alone is there, as before.
    """
    if request.tensor_parallel == 1:
        return constants.non_torch_bytes
    capability = request.gpu.compute_capability
    if capability and capability[0] in (9, 10) and request.gpu.connect == "nvlink":
        return constants.non_torch_parallel_bytes
    return min(constants.non_torch_parallel_bytes, constants.non_torch_plain_parallel_bytes)


def _vllm_weights(
    request: FootprintRequest, precision: Precision, constants: VllmConstants, gguf: str | None
) -> int:
    architecture, bits = request.architecture, stated_bits(request)
    shards = request.tensor_parallel * request.pipeline_parallel
    drafted = request.draft.total_params * 2 // request.tensor_parallel if request.draft else 0
    if request.weights_bytes:
        return math.ceil(request.weights_bytes / shards) + drafted
    if bits:
        return scaled_weights_bytes(architecture.total_params, bits, shards) + drafted
    if gguf:
        return gguf_weights_bytes(architecture, gguf, gpus=shards, mxfp4_rest="bf16") + drafted
    return drafted + vllm_weights_bytes(
        architecture,
        precision,
        tensor_parallel=request.tensor_parallel,
        pipeline_parallel=request.pipeline_parallel,
        padding=mxfp4_padding(request.gpu.compute_capability, constants),
    )
