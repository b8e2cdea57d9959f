"""What is asked of the footprint, and what it answers. Pure."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trivet.catalog.architecture import Architecture
from trivet.domain.gpus import GIB

EngineKind = Literal["vllm", "llamacpp", "ollama"]


class GpuMemory(Protocol):
    """What is read of a GPU; `catalog.gpu_spec.GpuSpec` is one."""

    @property
    def name(self) -> str:
        """As people write it: `RTX 4090`."""

    @property
    def usable_bytes(self) -> int:
        """The total as CUDA reports it, not the maker's figure."""

    @property
    def unified(self) -> bool:
        """Whether it is the host's memory."""

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Of NVIDIA's GPUs."""

    @property
    def connect(self) -> str:
        """How several of them reach each other: `nvlink`, `pcie`, `none`."""


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
    """For llama.cpp and Ollama: GPUs that share the layers."""
    pipeline_parallel: int = 1
    gpu_memory_utilization: float | None = None
    engine_version: str | None = None
    """None: the newest known."""
    kv_dtype: str | None = None
    total_params: int | None = None
    bits_per_weight: float | None = None
    eager: bool = False
    speculative_tokens: int = 0
    """Tokens drafted ahead; each needs a recurrent state of its own in hybrid models."""
    draft: Architecture | None = None
    """A draft model in the engine: its weights, in 16 bits, and its cache."""
    flash_attention: bool = True
    slots_apart: bool | None = None
    """Whether each slot of llama.cpp has cells of its own, as with `--parallel N`. None: Ollama's have;
    those of a llama.cpp that chooses their number itself share them (`--kv-unified`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What each GPU would hold, in bytes."""

    weights_bytes: int
    kv_bytes: int
    """vLLM: the pool that the engine would end up with. Others: the cache of context times slots."""
    kv_tokens: int
    """Tokens that the cache holds in sequences of the context's length."""
    kv_bytes_per_token: int
    """Of a sequence of the context's length, on average: windows and states make long ones cheaper."""
    activation_bytes: int
    non_torch_bytes: int
    graphs_bytes: int
    compute_bytes: int
    total_bytes: int
    band_bytes: int
    """The figures beside weights are expected within plus or minus this."""
    fits: bool
    """Whether it starts and serves one sequence of the context's length, with the band as margin."""
    assumed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the figures under their published names, in GiB."""
        parts = ("weights", "kv", "activation", "non_torch", "graphs", "compute", "total", "band")
        figures: dict[str, Any] = {
            f"{part}_gib": round(getattr(self, f"{part}_bytes") / GIB, 4) for part in parts
        }
        return figures | {
            "kv_tokens": self.kv_tokens,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "fits": self.fits,
            "assumed": list(self.assumed),
        }
