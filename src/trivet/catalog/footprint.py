"""How much memory a model needs on each GPU, before anything is started. Pure.

The formulas in words, their errors on measured cases, and what is not known stand in
docs/guides/footprint.md.
"""

from dataclasses import replace

from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import OLLAMA_CONTEXT_BY_MEMORY
from trivet.catalog.footprint_values import EngineKind, Footprint, FootprintRequest, GpuMemory
from trivet.catalog.llamacpp_footprint import llamacpp_footprint
from trivet.catalog.vllm_footprint import vllm_footprint
from trivet.catalog.weights import with_total
from trivet.domain.errors import ConfigError

__all__ = ["EngineKind", "Footprint", "FootprintRequest", "GpuMemory", "default_context_tokens", "footprint"]


def footprint(request: FootprintRequest) -> Footprint:
    """Work out what each GPU holds.

    Raises:
        ConfigError: a precision or cache type is not known, or a number makes no sense.
    """
    _check(request)
    prepared = replace(request, architecture=with_total(request.architecture, request.total_params))
    return vllm_footprint(prepared) if request.engine == "vllm" else llamacpp_footprint(prepared)


def default_context_tokens(architecture: Architecture, engine: EngineKind, gpu: GpuMemory) -> int:
    """Return the context that an engine takes by itself: Ollama by the GPU's memory, others the model's."""
    longest = architecture.max_context_tokens
    if engine == "ollama":
        own = next(tokens for size, tokens in OLLAMA_CONTEXT_BY_MEMORY if gpu.usable_bytes >= 0.96 * size)
        return min(own, longest or own)
    return longest or 8192


def _check(request: FootprintRequest) -> None:
    positive = {
        "context": request.context_tokens,
        "sequences": request.sequences,
        "batched-tokens": request.batched_tokens,
        "tp": request.tensor_parallel,
        "pp": request.pipeline_parallel,
        "params-b": request.total_params,
        "bits-per-weight": request.bits_per_weight,
    }
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} must be more than 0, not {value:g}.", param=name)
    share = request.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise ConfigError(
            f"--gpu-memory-utilization is a share between 0 and 1, not {share:g}.",
            param="gpu_memory_utilization",
        )
    if request.pipeline_parallel > max(1, len(request.architecture.plan)):
        raise ConfigError("There are more pipeline stages than layers.", param="pp")
