"""What engines took in truth, put in the place of what the formulas say. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from trivet.catalog.footprint import Footprint
from trivet.catalog.gpu_spec import GpuSpec
from trivet.domain.gpus import MIB

OBSERVED_BAND_BYTES = 256 * MIB
"""How far a start may be from the last one of the same engine, model and GPU."""
_CPU = "cpu"


class DriverNames(Protocol):
    """Knows GPUs by their drivers' names; `GpuTable` does."""

    def for_driver_name(self, name: str, total_bytes: int) -> GpuSpec:
        """Return the GPU that a driver named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One start of an engine, for each GPU, in bytes; None where the engine said nothing."""

    engine: str
    model: str
    gpu: str
    """The driver's name, or `cpu`."""
    tensor_parallel: int = 1
    context_tokens: int | None = None
    sequences: int | None = None
    weights_bytes: int | None = None
    kv_bytes: int | None = None
    kv_tokens: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    graphs_bytes: int | None = None
    compute_bytes: int | None = None
    observed_at: str | None = None


class Corrections:
    """The newest start of each kind."""

    def __init__(self, document: Mapping[str, Any], names: DriverNames) -> None:
        """Read what `fleet.observed` keeps: a mapping of entries, oldest first; the rest is skipped."""
        self._names = names
        self._starts: dict[tuple[str, str, int], list[Observed]] = {}
        for entry in document.values():
            seen = _observed(entry)
            if seen is not None:
                key = (seen.engine, seen.model, seen.tensor_parallel)
                self._starts.setdefault(key, []).append(seen)

    def about(self, engine: str, model: str, spec: GpuSpec, tp: int) -> Observed | None:
        """Return the newest start of a model on this kind of GPU, or None."""
        for seen in reversed(self._starts.get((engine, model, tp), [])):
            if self._is_on(seen, spec):
                return seen
        return None

    def _is_on(self, seen: Observed, spec: GpuSpec) -> bool:
        if seen.gpu == _CPU or spec.name == "CPU":
            return seen.gpu == _CPU and spec.name == "CPU"
        return self._names.for_driver_name(seen.gpu, spec.usable_bytes).name == spec.name


def corrected(size: Footprint, seen: Observed, context_tokens: int, sequences: int) -> Footprint:
    """Return a footprint with what was seen in it, for a load that may differ from that of the start.

    Weights, CUDA context and graphs are the start's. Activation grows with the sequences, so that of fewer is
    only a lower bound. A cache is taken over only for the same load; its bytes for a token for the same
    context.
    """
    activation = seen.activation_bytes
    if activation is not None and (seen.sequences or 0) < sequences:
        activation = max(activation, size.activation_bytes)
    changed = replace(
        size,
        weights_bytes=_either(seen.weights_bytes, size.weights_bytes),
        activation_bytes=_either(activation, size.activation_bytes),
        non_torch_bytes=_either(seen.non_torch_bytes, size.non_torch_bytes),
        graphs_bytes=_either(seen.graphs_bytes, size.graphs_bytes),
        compute_bytes=_either(seen.compute_bytes, size.compute_bytes),
        band_bytes=min(size.band_bytes, OBSERVED_BAND_BYTES),
    )
    same_context = seen.context_tokens == context_tokens
    if seen.engine != "vllm":
        if same_context and seen.sequences == sequences and seen.kv_bytes is not None:
            changed = replace(changed, kv_bytes=seen.kv_bytes)
        return replace(changed, total_bytes=changed.kv_bytes + _beside_cache(changed))
    # The budget is what it was; what the rest does not take is the pool.
    pool = max(0, size.kv_bytes + _beside_cache(size) - _beside_cache(changed))
    per_token = size.kv_bytes / size.kv_tokens if size.kv_tokens else 0.0
    if same_context and seen.kv_bytes and seen.kv_tokens:
        per_token = seen.kv_bytes / seen.kv_tokens
    return replace(changed, kv_bytes=pool, kv_tokens=int(pool / per_token) if per_token else 0)


def _beside_cache(size: Footprint) -> int:
    parts = (
        size.weights_bytes,
        size.activation_bytes,
        size.non_torch_bytes,
        size.graphs_bytes,
        size.compute_bytes,
    )
    return sum(parts)


def _either(seen: int | None, predicted: int) -> int:
    return predicted if seen is None else seen


def _observed(entry: Any) -> Observed | None:
    """Return an entry as a value; None where it is not one."""
    if not isinstance(entry, Mapping):
        return None
    words: dict[str, Any] = {name: entry.get(name) for name in ("engine", "model", "gpu")}
    if not all(isinstance(word, str) for word in words.values()):
        return None
    counts: dict[str, Any] = {
        name: entry.get(name)
        for name in Observed.__dataclass_fields__
        if name.endswith(("_bytes", "_tokens")) or name == "sequences"
    }
    if not all(value is None or (isinstance(value, int) and value >= 0) for value in counts.values()):
        return None
    tp, at = entry.get("tensor_parallel"), entry.get("observed_at")
    return Observed(
        **words,
        **counts,
        tensor_parallel=tp if isinstance(tp, int) else 1,
        observed_at=at if isinstance(at, str) else None,
    )
