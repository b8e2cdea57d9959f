"""What engines need beside weights and cache: activations, CUDA graphs, compute buffers. Pure."""

import math

from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import VllmConstants, vllm_capture_sizes
from trivet.catalog.layers import Mixer
from trivet.domain.gpus import GIB

_PEAK_BASE_BYTES = GIB // 10
"""What is there at every peak: cuBLAS workspaces, positions, masks."""
_GRAPHS_BASE_BYTES = int(0.15 * GIB)
_FEED_FORWARD_COPIES = 3
"""The gate, the up projection and their product, all of them alive at the peak of a layer."""
_HIDDEN_COPIES = 5
"""The residual, the norm's output, attention's output, and what a pipeline stage receives."""


def vllm_activation_bytes(
    architecture: Architecture,
    *,
    sequences: int,
    batched_tokens: int,
    context_tokens: int,
    tensor_parallel: int,
    model_bytes: float,
    constants: VllmConstants,
    modular_experts: bool,
) -> int:
    """Return the peak that vLLM's profile run shows: the larger of its two moments.

    *Sampler*: max_num_seqs rows of logits over the whole vocabulary, on every GPU (it does not shrink with
    TP).
    *Forward*: max_num_batched_tokens rows through the widest layer, divided among the GPUs.
    Since 0.17 the experts' workspace (rows times experts per token, twice) is kept from the forward pass,
    so the sampler's moment includes it; kernels for MXFP4 have none.
    """
    tokens = batched_tokens
    if constants.profile_whole_context:
        tokens = max(batched_tokens, context_tokens)
    hidden = architecture.hidden_size
    workspace = 0.0
    width = _FEED_FORWARD_COPIES * architecture.ffn_size / tensor_parallel
    if architecture.experts:
        gate_up = 2 * architecture.expert_ffn_size / tensor_parallel
        row = max(gate_up / 2, hidden) + max(gate_up, hidden)
        width = max(width, architecture.experts_used * row)
        if modular_experts:
            workspace = tokens * architecture.experts_used * row * model_bytes
    forward = tokens * (width + _HIDDEN_COPIES * hidden) * model_bytes + _PEAK_BASE_BYTES
    if architecture.is_encoder:
        return math.ceil(forward)
    plain = not architecture.experts and not architecture.has_states
    factor = constants.sampler_factor if plain else constants.sampler_factor_moe
    logits = (factor - 0.5) * 4 + model_bytes
    sampler = sequences * architecture.vocab_size * logits + tokens * hidden * model_bytes + _PEAK_BASE_BYTES
    if constants.workspace_stays:
        sampler += workspace
    return math.ceil(max(sampler, forward))


def vllm_graph_bytes(layers: int, *, sequences: int, eager: bool, constants: VllmConstants) -> int:
    """Return what captured CUDA graphs take: by layer and batch size, rough (0.3 to 2.5 GiB were seen)."""
    if eager:
        return 0
    return _GRAPHS_BASE_BYTES + layers * vllm_capture_sizes(sequences) * constants.graph_bytes


def llamacpp_compute_bytes(
    architecture: Architecture, *, ubatch_tokens: int, cells: int, flash_attention: bool
) -> int:
    """Return llama.cpp's compute buffer: one batch's logits and hidden states in float32.

    Exact on one GPU with flash attention for most models (300.75 MiB for Qwen3 30B-A3B). Without it the
    scores of every head over all cells are there as well.
    """
    rows = ubatch_tokens * 4
    total = rows * (architecture.vocab_size + architecture.hidden_size)
    if not flash_attention:
        # Scores of every head and the mask take the place of the logits where they are larger.
        total = max(total, rows * cells * (architecture.attention_heads + 1))
    if any(layer.mixer is Mixer.LATENT for layer, _ in architecture.groups):
        # Keys are expanded from their latent rows, for all cells at once.
        total += 4 * cells * architecture.attention_heads * architecture.latent_head_dims[0]
    return total
