"""What llama.cpp and Ollama hold on each GPU. Pure."""

import math

from trivet.catalog.confidence import band_bytes, stated_bits
from trivet.catalog.engine_constants import (
    LLAMACPP_LATENT_SINCE_OLLAMA,
    LLAMACPP_MARGIN_BYTES,
    LLAMACPP_UBATCH_TOKENS,
    llamacpp_context_bytes,
    parse_version,
)
from trivet.catalog.footprint_values import Footprint, FootprintRequest
from trivet.catalog.kv_cache import element_bytes, llamacpp_cache_bytes
from trivet.catalog.precision import gguf_type
from trivet.catalog.weights import gguf_weights_bytes, scaled_weights_bytes
from trivet.catalog.working_memory import llamacpp_compute_bytes


def llamacpp_footprint(request: FootprintRequest) -> Footprint:
    """Add up weights, the cache of all slots, one batch's buffers and the device's context."""
    architecture, gpus = request.architecture, request.tensor_parallel * request.pipeline_parallel
    slots = request.sequences or 1
    ubatch = request.batched_tokens or LLAMACPP_UBATCH_TOKENS
    version = parse_version(request.engine_version)
    kv = element_bytes(request.kv_dtype, 2.0)
    old_ollama = request.engine == "ollama" and version is not None and version < LLAMACPP_LATENT_SINCE_OLLAMA
    latent = architecture.keeps_latent and not old_ollama
    cache = llamacpp_cache_bytes(
        (*architecture.groups, *request.draft.groups) if request.draft else architecture.groups,
        kv_bytes=kv,
        context_tokens=request.context_tokens,
        slots=slots,
        ubatch_tokens=ubatch,
        apart=request.engine == "ollama" if request.slots_apart is None else request.slots_apart,
        latent=latent,
        latent_heads=architecture.attention_heads,
        latent_head_dims=architecture.latent_head_dims,
    )
    weights = _gguf_weights(request, gpus)
    cells = request.context_tokens * slots
    compute = llamacpp_compute_bytes(
        architecture, ubatch_tokens=ubatch, cells=cells, flash_attention=request.flash_attention
    )
    own_kv = math.ceil(cache / gpus)
    # Whole layers are dealt out, so one GPU may get one more than the mean.
    uneven = (weights + own_kv) * gpus // max(1, len(architecture.plan)) if gpus > 1 else 0
    context = llamacpp_context_bytes(request.gpu.compute_capability)
    total = weights + own_kv + compute + context
    band = band_bytes(request, version)
    assumed = list(architecture.assumed)
    if request.sequences is None:
        assumed.append("1 slot")
    return Footprint(
        weights_bytes=weights,
        kv_bytes=own_kv,
        kv_tokens=cells if cache else 0,
        kv_bytes_per_token=math.ceil(own_kv / cells),
        activation_bytes=0,
        non_torch_bytes=context,
        graphs_bytes=0,
        compute_bytes=compute,
        total_bytes=total,
        band_bytes=band,
        fits=total + uneven + max(band, LLAMACPP_MARGIN_BYTES) <= request.gpu.usable_bytes,
        assumed=tuple(assumed),
    )


def _gguf_weights(request: FootprintRequest, gpus: int) -> int:
    architecture, bits = request.architecture, stated_bits(request)
    drafted = request.draft.total_params * 2 if request.draft else 0
    if request.weights_bytes:
        return math.ceil((request.weights_bytes + drafted) / gpus)
    if bits:
        return scaled_weights_bytes(architecture.total_params, bits, gpus) + drafted
    written = request.quant or request.dtype
    kind = gguf_type(written) or _plain_gguf(written)
    ollama = request.engine == "ollama"
    rest = "bf16" if ollama else "q8_0"
    tensors = gguf_weights_bytes(
        architecture, kind, gpus=gpus, mxfp4_rest=rest, with_projector=ollama and not architecture.is_encoder
    )
    return tensors + drafted


def _plain_gguf(written: str) -> str:
    """Return the GGUF type that a word of other engines comes nearest to."""
    lowered = written.lower()
    words = (
        ("mxfp4", "mxfp4"), ("nvfp4", "q4_k_m"), ("awq", "q4_k_m"), ("gptq", "q4_k_m"), ("int4", "q4_k_m"),
        ("bnb", "q4_k_m"), ("fp8", "q8_0"), ("int8", "q8_0"), ("w8a8", "q8_0"), ("bf16", "bf16"),
        ("f32", "f32"), ("fp32", "f32"), ("float32", "f32"), ("f16", "f16"), ("fp16", "f16"),
    )  # fmt: skip
    return next((kind for word, kind in words if word in lowered), lowered)
