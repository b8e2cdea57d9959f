"""What a model needs on each GPU in one tier, independent of how full the GPU is. Pure, and remembers."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

from trivet.catalog.corrections import Corrections, Observed, corrected
from trivet.catalog.footprint import Footprint, FootprintRequest, footprint
from trivet.catalog.forms import Form, forms_of
from trivet.catalog.gpu_spec import GpuSpec
from trivet.catalog.model_card import ModelCard, Variant
from trivet.catalog.objective import label_of
from trivet.catalog.vllm_footprint import tensor_parallel_refusal
from trivet.domain.gpus import GIB, MIB

OLLAMA_SEQUENCES_MAX = 4
"""Beyond it llama.cpp's batches fall behind vLLM's paged attention; more sequences are vLLM's work."""
BATCHED_TOKENS = 2048
"""vLLM's prefill chunk in every plan: short pauses for those who are being answered."""
DECODE_SHARE = 0.6
"""Share of the data sheet's bandwidth that decoding one sequence reaches, by rule of thumb."""
LAYER_S = 30e-6
"""What a layer takes besides reading its weights: some ten kernels, by rule of thumb. It bounds small models
on fast GPUs, and large ones that many GPUs share."""
SYNC_S = {"nvlink": 10e-6}
SYNC_FAR_S = 30e-6
"""One of the two sums over all GPUs that each layer of a shared model waits for: by NVLink, through PCIe."""

_BOUNDLESS_BYTES = 1 << 50
_VLLM_CAPABILITY = (7, 5)
_BF16_CAPABILITY = (8, 0)
_QUANT_CAPABILITY = {
    # vLLM's own minima; below the native ones (8.9 for FP8, 10.0 for NVFP4) its Marlin kernels compute in 16
    # bit.
    "fp8": (8, 0),
    "w8a8": (7, 5),
    "int8": (7, 5),
    "awq": (7, 5),
    "gptq": (7, 5),
    "int4": (7, 5),
    "bnb": (7, 5),
    "mxfp4": (8, 0),
    "nvfp4": (8, 0),
}
ROUNDING_BYTES = 4 * MIB
"""Covers the last digit of a utilisation, which is rounded down."""
OVERRUN_STEP_BYTES = 256 * MIB
UTILIZATION_MAX = 0.95
"""Of a GPU, for all vLLM engines on it together."""
SPLIT_MIN_BYTES = 4 * GIB
"""A model is not split into parts with fewer bytes of weights: the GPUs would only wait for one another."""
_GROUP = 128
_GROUPED = frozenset({"awq", "gptq", "int4"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one model takes of each GPU that it runs on, in bytes."""

    total_bytes: int
    """With the KV cache for all its sequences; of vLLM the whole budget that it gets, the band inside."""
    band_bytes: int
    """What it may take beyond that: the estimate's band; of vLLM, whose budget holds the band, its
    overrun."""
    kv_bytes_per_sequence: int
    weights_bytes: int
    tokens_per_s: float
    """Decoding one sequence with half its context, by bandwidth and depth: modelled."""

    @property
    def bytes(self) -> int:
        """The room that has to be there."""
        return self.total_bytes + self.band_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The work that a model is sized for."""

    context_tokens: int
    sequences: int


class Sizer:
    """Asks the footprint once per question; one serves many plans over the same catalog."""

    def __init__(self, corrections: Corrections | None = None) -> None:
        """Begin without answers; what engines took in truth corrects them."""
        self._corrections = corrections
        self._needs: dict[tuple[str, str, str, str, int, Load], Need] = {}
        self._forms: dict[str, tuple[Form, ...]] = {}

    def forms(self, card: ModelCard) -> tuple[Form, ...]:
        """Return a card's forms, the fewest bits first."""
        found = self._forms.get(card.id)
        if found is None:
            found = self._forms[card.id] = forms_of(card)
        return found

    def need(self, card: ModelCard, variant: Variant, spec: GpuSpec, tp: int, load: Load) -> Need:
        """Return what a variant needs per GPU, on a kind of GPU, split over `tp` of them."""
        key = (card.id, variant.engine, variant.ref, spec.name, tp, load)
        found = self._needs.get(key)
        if found is None:
            found = self._needs[key] = self._need(card, variant, spec, tp, load)
        return found

    def size(
        self,
        card: ModelCard,
        variant: Variant,
        spec: GpuSpec,
        tp: int,
        load: Load,
        utilization: float | None,
        *,
        boundless: bool = False,
    ) -> Footprint:
        """Return the footprint on a GPU, or one like it without end, of which the engine uses this share."""
        gpu = dataclasses.replace(spec, usable_bytes=_BOUNDLESS_BYTES) if boundless else spec
        size = footprint(_request(card, variant, gpu, tp, load, utilization))
        seen = self.seen(variant, spec, tp)
        return corrected(size, seen, load.context_tokens, load.sequences) if seen is not None else size

    def seen(self, variant: Variant, spec: GpuSpec, tp: int) -> Observed | None:
        """Return what a variant took when it was last started on such a GPU, if that is known."""
        if self._corrections is None:
            return None
        return self._corrections.about(variant.engine, variant.ref, spec, tp)

    def _need(self, card: ModelCard, variant: Variant, spec: GpuSpec, tp: int, load: Load) -> Need:
        on_vllm = variant.engine == "vllm"
        if on_vllm:
            # The pool of a boundless GPU says what one token of this load takes, padding and states included.
            size = self.size(card, variant, spec, tp, load, 0.5, boundless=True)
            per_sequence = int(size.kv_bytes / size.kv_tokens * load.context_tokens) + 1
            fixed = size.weights_bytes + size.activation_bytes + size.non_torch_bytes + size.graphs_bytes
            total = fixed + per_sequence * load.sequences + size.band_bytes + ROUNDING_BYTES
            band = overrun_bytes(total, tp)
        else:
            size = self.size(card, variant, spec, tp, load, None)
            per_sequence = size.kv_bytes // load.sequences
            total, band = size.total_bytes, size.band_bytes
        active = size.weights_bytes * card.active_params / card.total_params
        return Need(
            total_bytes=total,
            band_bytes=band,
            kv_bytes_per_sequence=per_sequence,
            weights_bytes=size.weights_bytes,
            tokens_per_s=1 / _token_s(active + per_sequence / 2, card.architecture.layers, spec, tp),
        )


def obstacle(
    card: ModelCard, variant: Variant, spec: GpuSpec, tp: int, sequences: int, engines: Collection[str]
) -> str | None:
    """Return why a variant cannot run on a kind of GPU at all; None when it can."""
    if variant.engine not in engines:
        return f"{variant.engine} is not among the engines that may be used"
    if variant.engine == "vllm":
        return _vllm_obstacle(card, variant, spec, tp)
    if tp > 1:
        return "GGUF models are planned on one GPU"
    if sequences > OLLAMA_SEQUENCES_MAX and "vllm" in engines and _runs_vllm(spec):
        return f"more than {OLLAMA_SEQUENCES_MAX} sequences are planned on vLLM, and it has no such form"
    return None


def overrun_bytes(budget_bytes: int, tp: int) -> int:
    """Return what vLLM may take beyond its own budget on each of `tp` GPUs.

    Its sampler's warm-up and NCCL allocate after the KV cache is sized: 786 MiB were seen with one GPU
    (gpt-oss-20b), 1.37 GiB with eight (vllm PR 51590). It grows with the budget: with 0.95 of an H100 people
    still ran out of memory, so the budgets on one GPU never come to more than that share of it.
    """
    least = (6 if tp > 1 else 3) * OVERRUN_STEP_BYTES
    return max(least, math.ceil(budget_bytes * (1 / UTILIZATION_MAX - 1)))


def _token_s(read_bytes: float, layers: int, spec: GpuSpec, tp: int) -> float:
    """Return the time of one token of one sequence: what each GPU reads for it, and what each layer waits."""
    sync = 2 * SYNC_S.get(spec.connect, SYNC_FAR_S) if tp > 1 else 0.0
    return read_bytes / (spec.bandwidth_gb_s * 1e9 * DECODE_SHARE) + layers * (LAYER_S + sync)


def dtype_of(variant: Variant, spec: GpuSpec) -> str:
    """Return the type that a model computes in: fp16 where the GPU has no bf16."""
    capability = spec.compute_capability
    if variant.dtype == "bf16" and capability is not None and capability < _BF16_CAPABILITY:
        return "fp16"
    return variant.dtype


def _runs_vllm(spec: GpuSpec) -> bool:
    """Tell whether vLLM is planned on a kind of GPU at all."""
    if spec.name == "CPU":
        return False
    if spec.vendor == "amd":
        return spec.name.upper().startswith("MI")
    return not spec.known or (spec.compute_capability or (0, 0)) >= _VLLM_CAPABILITY


def _vllm_obstacle(card: ModelCard, variant: Variant, spec: GpuSpec, tp: int) -> str | None:
    if not _runs_vllm(spec):
        return f"vLLM is not planned on {spec.name}"
    label = label_of(variant)
    least = _QUANT_CAPABILITY.get(label, _VLLM_CAPABILITY)
    if spec.vendor == "nvidia" and spec.known and (spec.compute_capability or (0, 0)) < least:
        return f"vLLM needs compute capability {least[0]}.{least[1]} for it"
    if spec.vendor == "amd" and label not in ("bf16", "f16", "fp16", "fp8"):
        return "vLLM is planned on AMD GPUs without 4-bit kernels"
    architecture = card.architecture
    refusal = tensor_parallel_refusal(architecture, tp)
    if refusal:
        return refusal
    if tp > 1 and label in _GROUPED:
        for size in (variant.ffn_size or architecture.ffn_size, architecture.expert_ffn_size):
            if size % (tp * _GROUP):
                return f"its quantisation groups of {_GROUP} do not divide by {tp}"
    return None


def _request(
    card: ModelCard, variant: Variant, spec: GpuSpec, tp: int, load: Load, utilization: float | None
) -> FootprintRequest:
    on_vllm = variant.engine == "vllm"
    return FootprintRequest(
        architecture=card.architecture,
        engine=variant.engine,
        dtype=dtype_of(variant, spec),
        quant=variant.quant,
        weights_bytes=variant.weights_bytes,
        bits_per_weight=variant.bits_per_weight,
        gpu=spec,
        context_tokens=load.context_tokens,
        sequences=load.sequences,
        batched_tokens=BATCHED_TOKENS if on_vllm else None,
        tensor_parallel=tp,
        gpu_memory_utilization=utilization,
    )
