"""Bytes of a model's weights on each GPU. Pure.

vLLM: each part of the model in its own precision, matrices divided among the GPUs of a tensor-parallel
group, the heaviest stage of a pipeline. llama.cpp and Ollama: the tensors of the file, layers divided among
GPUs.
"""

import dataclasses
import math
from dataclasses import dataclass

from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import VllmConstants
from trivet.catalog.gguf_mix import gguf_weights
from trivet.catalog.layers import Layer
from trivet.catalog.precision import Precision
from trivet.catalog.vllm_cache import stage_sizes

VOCABULARY_PADDING = 64
"""vLLM rounds the vocabulary up (vllm/model_executor/layers/vocab_parallel_embedding.py)."""
_PROJECTOR_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPadding:
    """What MXFP4 experts are rounded up to, by the kernels that a GPU runs them on."""

    hidden: int = 1
    ffn: int = 1


def mxfp4_padding(capability: tuple[int, int] | None, constants: VllmConstants) -> ExpertPadding:
    """Return the padding of MXFP4 experts (vllm/model_executor/layers/quantization/mxfp4.py, create_weights).

    Hopper's Triton layout is not in that table; one side to 256 is what 13.47 and 64.38 GiB of gpt-oss on
    an H100 show.
    """
    if capability is None:
        return ExpertPadding(hidden=256, ffn=256)
    if capability[0] == 9 and not constants.marlin_on_hopper:
        return ExpertPadding(hidden=256, ffn=64)
    if capability[0] == 10:
        return ExpertPadding(hidden=256, ffn=256)
    return ExpertPadding(hidden=256, ffn=128)


def vllm_weights_bytes(
    architecture: Architecture,
    precision: Precision,
    *,
    tensor_parallel: int,
    pipeline_parallel: int,
    padding: ExpertPadding,
) -> int:
    """Return the bytes that the heaviest GPU loads."""
    tp = tensor_parallel
    rows = math.ceil(architecture.vocab_size / VOCABULARY_PADDING) * VOCABULARY_PADDING
    stretch = rows / architecture.vocab_size
    embedding = architecture.embedding_params * stretch * precision.embedding / 8 / tp
    embedding += architecture.per_layer_embedding_params * precision.embedding / 8 / tp
    output = architecture.output_params * stretch * precision.output / 8 / tp
    if not architecture.output_params and pipeline_parallel > 1 and not architecture.is_encoder:
        output = embedding  # a tied matrix is needed at both ends
    vision = architecture.vision_params * 16 / 8 / tp
    costs = [_layer_bytes(architecture, layer, precision, tp, padding) for layer, _ in architecture.groups]
    sizes = stage_sizes(architecture.layers, pipeline_parallel)
    stages = []
    start = 0
    for number, size in enumerate(sizes):
        stage = sum(costs[place] for place in architecture.group_of[start : start + size])
        start += size
        stage += embedding + vision if number == 0 else 0
        stage += output if number == len(sizes) - 1 else 0
        stages.append(stage)
    return math.ceil(max(stages))


def _layer_bytes(
    architecture: Architecture, layer: Layer, precision: Precision, tp: int, padding: ExpertPadding
) -> float:
    p = layer.parameters
    attention = p.attention * precision.attention / tp
    if 0 < layer.kv_heads < tp and p.attention_key:
        # Keys and values of the few heads are made on every GPU that needs them.
        repeated = math.ceil(layer.kv_heads / tp) * tp / layer.kv_heads - 1
        attention += (p.attention_key + p.attention_value) * repeated * precision.attention / tp
    experts = p.experts * precision.experts / tp
    if experts and precision.scheme == "mxfp4":
        experts *= _padded_share(architecture, tp, padding)
    divided = p.mixer * precision.mixer + p.mlp * precision.mlp
    return (attention + experts + divided / tp + p.router * precision.router + p.small * precision.small) / 8


def _padded_share(architecture: Architecture, tp: int, padding: ExpertPadding) -> float:
    hidden, ffn = architecture.hidden_size, max(1, architecture.expert_ffn_size // tp)
    up = math.ceil(hidden / padding.hidden) * padding.hidden / hidden
    return up * math.ceil(ffn / padding.ffn) * padding.ffn / ffn


def gguf_weights_bytes(
    architecture: Architecture, kind: str, *, gpus: int, mxfp4_rest: str, with_projector: bool = False
) -> int:
    """Return the bytes of the file's tensors, divided evenly among the GPUs.

    llama.cpp leaves an untied token embedding in host memory; it is counted here all the same, since it is
    little and some builds do not. A vision tower is a file of its own (the projector), which Ollama loads
    by itself.
    """
    tensors = gguf_weights(architecture, kind, mxfp4_rest=mxfp4_rest)
    if with_projector:
        tensors += architecture.vision_params * _PROJECTOR_BITS / 8
    return math.ceil(tensors / gpus)


def scaled_weights_bytes(total_params: float, bits: float, shards: int) -> int:
    """Return a share of so many parameters of so many bits."""
    return math.ceil(total_params * bits / 8 / shards)


def with_total(architecture: Architecture, total_params: int | None) -> Architecture:
    """Return the architecture with the stated number of parameters, where one is stated."""
    if not total_params or abs(architecture.total_params - total_params) <= 0.0005 * total_params:
        return architecture
    scaled = architecture.scaled_to(total_params)
    note = f"layers scaled to {total_params / 1e9:.4g} B parameters as given"
    return dataclasses.replace(scaled, assumed=(*architecture.assumed, note))
