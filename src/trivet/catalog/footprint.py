"""How much memory a model needs on each GPU, before anything is started. Pure.

The formulas and their measured errors stand in docs/guides/footprint.md.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trivet.catalog.architecture import Architecture
from trivet.domain.gpus import GIB

EngineKind = Literal["vllm", "llamacpp", "ollama"]


class GpuMemory(Protocol):
    """What is read of a GPU; `GpuSpec` is one."""

    @property
    def name(self) -> str:
        """As people write it: `RTX 4090`."""

    @property
    def usable_bytes(self) -> int:
        """The total as CUDA reports it, not the maker's figure."""

    @property
    def unified(self) -> bool:
        """Whether it is the host's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintRequest:
    """What is asked about: a model in a form, on an engine, on a GPU, for a load."""

    architecture: Architecture
    engine: EngineKind
    dtype: str = "bf16"
    quant: str | None = None
    weights_bytes: int | None = None
    """The exact sum from the files' headers, whole model; None where they are not at hand."""
    gpu: GpuMemory
    context_tokens: int
    sequences: int | None = None
    """None: what that engine version would do by itself on that GPU."""
    batched_tokens: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory_utilization: float | None = None
    engine_version: str | None = None
    """None: the newest known."""
    kv_dtype: str | None = None
    total_params: int | None = None
    bits_per_weight: float | None = None
    eager: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What each GPU would hold, in bytes."""

    weights_bytes: int
    kv_bytes: int
    """vLLM: the pool that the engine would end up with. Others: the cache of context times slots."""
    kv_tokens: int
    """Tokens that the cache holds in sequences of the context's length."""
    kv_bytes_per_token: int
    activation_bytes: int
    non_torch_bytes: int
    graphs_bytes: int
    compute_bytes: int
    total_bytes: int
    band_bytes: int
    """The total is expected within plus or minus this."""
    fits: bool
    assumed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the figures under their published names, in GiB."""
        parts = ("weights", "kv", "activation", "non_torch", "graphs", "compute", "total", "band")
        figures = {f"{part}_gib": round(getattr(self, f"{part}_bytes") / GIB, 4) for part in parts}
        return {
            **figures,
            "kv_tokens": self.kv_tokens,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "fits": self.fits,
            "assumed": list(self.assumed),
        }


_BITS = {"float32": 32.0, "fp32": 32.0, "fp8": 8.1, "int8": 8.1, "w8a8": 8.1, "q8_0": 8.5, "q6_k": 6.56,
         "q5_k_m": 5.7, "q4_k_m": 4.85, "q4_0": 4.55, "q4_k_s": 4.6, "q3_k_m": 3.9, "q2_k": 3.0, "awq": 4.6,
         "gptq": 4.6, "int4": 4.6, "mxfp4": 4.6, "nvfp4": 5.2, "bnb": 5.0}  # fmt: skip


def footprint(request: FootprintRequest) -> Footprint:
    """Work out what each GPU holds. Preliminary: right in kind, not yet in every detail."""
    architecture, shards = request.architecture, request.tensor_parallel * request.pipeline_parallel
    bits = request.bits_per_weight or _BITS.get((request.quant or request.dtype).lower(), 16.0)
    params = request.total_params or architecture.total_params
    weights = (request.weights_bytes or int(params * bits / 8)) // shards
    per_token = max(1, sum(_row(layer) for layer in architecture.plan) * 2 // shards)
    kv_byte_rate = {"q8_0": 0.53, "fp8": 0.5, "q4_0": 0.28}.get(request.kv_dtype or "", 1.0)
    per_token = max(1, int(per_token * kv_byte_rate))
    usable = request.gpu.usable_bytes
    non_torch = GIB // 4
    if request.engine == "vllm":
        large = usable >= 70 * GIB and "A100" not in request.gpu.name
        sequences = request.sequences or (1024 if large else 256)
        activation = int(3.9 * 4 * sequences * architecture.vocab_size) + GIB // 4
        graphs = 0 if request.eager else GIB // 2
        budget = int(usable * (request.gpu_memory_utilization or 0.92))
        kv = max(0, budget - weights - activation - non_torch - graphs)
        enough = kv >= per_token * request.context_tokens
        compute = 0
    else:
        activation = graphs = 0
        compute = 512 * (architecture.vocab_size + architecture.hidden_size) * 4
        kv = per_token * request.context_tokens * (request.sequences or 1)
        enough = True
    total = weights + kv + activation + non_torch + graphs + compute
    band = GIB
    return Footprint(
        weights_bytes=weights,
        kv_bytes=kv,
        kv_tokens=kv // per_token,
        kv_bytes_per_token=per_token,
        activation_bytes=activation,
        non_torch_bytes=non_torch,
        graphs_bytes=graphs,
        compute_bytes=compute,
        total_bytes=total,
        band_bytes=band,
        fits=enough and total <= usable - GIB // 2,
        assumed=architecture.assumed,
    )


def _row(layer: Any) -> int:
    return int(layer.kv_heads * (layer.key_dim + layer.value_dim)) if layer.mixer in ("full", "latent") else 0
