"""How vLLM deals its pool out to sequences. Pure.

Layers of one kind form groups of equal size, and a sequence holds blocks of each group.
"""

import math
from collections import Counter
from dataclasses import dataclass

from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import VLLM_BLOCK_TOKENS, VllmConstants
from trivet.catalog.kv_cache import Groups, StateBytes
from trivet.catalog.layers import Layer, Mixer

_INDEX_SCALE_BYTES = 4
"""The indexer of sparse attention keeps an FP8 key and a 32-bit scale for each token (DeepSeek V3.2)."""
_SPARSE_ROW_BYTES = 656
"""vLLM's row of a latent for sparse attention in FP8: 512 bytes, four scales, 64 rotary elements in BF16."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Layers that vLLM treats alike."""

    mixer: Mixer
    window: int
    token_bytes: int
    """Of one token in one layer; 0 for states."""
    state_bytes: int


def stage_of(architecture: Architecture, pipeline_parallel: int) -> Groups:
    """Return the layers, with counts, of the pipeline stage that has most to hold.

    vLLM gives each stage layers // stages, and what is left over to the stages before the last
    (vllm/distributed/utils.py, get_pp_indices).
    """
    if pipeline_parallel == 1:
        return architecture.groups
    start = 0
    stages: list[Groups] = []
    for size in stage_sizes(architecture.layers, pipeline_parallel):
        places = Counter(architecture.group_of[start : start + size])
        stages.append(tuple((architecture.groups[place][0], count) for place, count in places.items()))
        start += size
    return max(stages, key=lambda groups: sum(_weight(layer) * count for layer, count in groups))


def stage_sizes(layers: int, stages: int) -> list[int]:
    """Return how many layers each pipeline stage gets."""
    sizes = [layers // stages] * stages
    for index in range(2, layers % stages + 2):
        sizes[-index] += 1
    return sizes


def _weight(layer: Layer) -> int:
    remembers = layer.mixer not in (Mixer.NONE, Mixer.STATE)
    return layer.kv_heads * (layer.key_dim + layer.value_dim) if remembers else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmCache:
    """How vLLM deals out its pool on one GPU, for sequences of one length."""

    sequence_bytes: int
    """What one sequence of the context's length holds."""
    context_tokens: int
    block_bytes: int
    padded_layers: int
    """Layers that exist only to make groups equal; their memory is lost."""

    @property
    def bytes_per_token(self) -> int:
        """What one token costs on average in a sequence of this length."""
        return math.ceil(self.sequence_bytes / self.context_tokens)

    def tokens(self, pool_bytes: int) -> int:
        """Return how many tokens a pool holds, in sequences of this length."""
        if not self.sequence_bytes:
            return 0
        blocks = pool_bytes // self.block_bytes
        return blocks * self.block_bytes * self.context_tokens // self.sequence_bytes


def vllm_cache(
    groups: Groups,
    *,
    kv_bytes: tuple[float, float],
    states: StateBytes,
    tensor_parallel: int,
    context_tokens: int,
    in_flight_tokens: int,
    constants: VllmConstants,
    speculative_tokens: int = 0,
) -> VllmCache:
    """Work out the blocks that vLLM gives a sequence.

    Follows vllm/v1/core/kv_cache_utils.py: layers are grouped by kind, groups have the size of the rarest
    kind (or of the most frequent, where counts are close), the last group of a kind is padded; all pages
    get one size by making blocks of the smaller ones longer.
    """
    kinds = _kinds(groups, kv_bytes, states, tensor_parallel, constants)
    if not kinds:
        return VllmCache(sequence_bytes=0, context_tokens=context_tokens, block_bytes=1, padded_layers=0)
    alike = {(kind.mixer, kind.window) for kind in kinds}
    if len(alike) == 1 and next(iter(alike))[0] is Mixer.FULL:
        # One table of blocks for all, however wide each layer is.
        block = VLLM_BLOCK_TOKENS * sum(kind.token_bytes * count for kind, count in kinds.items())
        held = math.ceil(context_tokens / VLLM_BLOCK_TOKENS)
        return VllmCache(
            sequence_bytes=block * held, context_tokens=context_tokens, block_bytes=block, padded_layers=0
        )
    page, tokens_of = _pages(kinds)
    counts = list(kinds.values())
    close = max(counts) < min(counts) * constants.padding_ratio
    group = max(counts) if close else min(counts)
    total_blocks = padded = 0
    for kind, count in kinds.items():
        parts = math.ceil(count / group)
        padded += parts * group - count
        total_blocks += parts * _blocks(
            kind,
            tokens_of[kind],
            context_tokens,
            in_flight_tokens,
            constants.state_blocks + speculative_tokens,
        )
    return VllmCache(
        sequence_bytes=total_blocks * group * page,
        context_tokens=context_tokens,
        block_bytes=group * page,
        padded_layers=padded,
    )


def _kinds(
    groups: Groups,
    kv_bytes: tuple[float, float],
    states: StateBytes,
    tensor_parallel: int,
    constants: VllmConstants,
) -> Counter[_Kind]:
    found: Counter[_Kind] = Counter()
    for layer, count in groups:
        if layer.mixer is Mixer.NONE or layer.shares_kv:
            continue
        if layer.mixer is Mixer.STATE:
            conv = math.ceil(layer.conv_state / tensor_parallel) * states.conv
            recurrent = math.ceil(layer.recurrent_state / tensor_parallel) * states.recurrent
            found[_Kind(Mixer.STATE, 0, 0, round(conv + recurrent))] += count
            continue
        sliding = layer.mixer is Mixer.SLIDING and constants.hybrid_cache
        chunked = layer.mixer is Mixer.CHUNKED and constants.hybrid_cache and constants.chunked_in_hybrid
        mixer = layer.mixer if sliding or chunked else Mixer.FULL
        window = 0 if mixer is Mixer.FULL else layer.window
        found[_Kind(mixer, window, _row(layer, kv_bytes, tensor_parallel), 0)] += count
    return found


def _row(layer: Layer, kv_bytes: tuple[float, float], tensor_parallel: int) -> int:
    """Return the bytes of one token in one layer on one GPU.

    Heads are divided among GPUs and repeated where there are fewer of them; a latent row is on every GPU
    whole.
    """
    if layer.mixer is Mixer.LATENT:
        if not layer.index_dim:
            return math.ceil(layer.key_dim * kv_bytes[0])
        row = _SPARSE_ROW_BYTES if kv_bytes[0] == 1 else math.ceil(layer.key_dim * kv_bytes[0])
        return row + layer.index_dim + _INDEX_SCALE_BYTES
    heads = math.ceil(layer.kv_heads / tensor_parallel)
    return math.ceil(heads * (layer.key_dim * kv_bytes[0] + layer.value_dim * kv_bytes[1]))


def _pages(kinds: Counter[_Kind]) -> tuple[int, dict[_Kind, int]]:
    """Return the size of a page that all kinds can share, and the tokens in a block of each."""
    largest_token = max(kind.token_bytes for kind in kinds)
    page = VLLM_BLOCK_TOKENS * largest_token
    largest_state = max(kind.state_bytes for kind in kinds)
    if largest_state:
        # Attention's blocks are made long enough to hold a state; the state is padded to them.
        rows = largest_token or 1
        page = VLLM_BLOCK_TOKENS * math.ceil(largest_state / (VLLM_BLOCK_TOKENS * rows)) * rows
    return page, {kind: page // kind.token_bytes if kind.token_bytes else 0 for kind in kinds}


def _blocks(kind: _Kind, block_tokens: int, context: int, in_flight: int, state_blocks: int) -> int:
    """Return the blocks of one group that a sequence of the context's length may hold at most."""
    if kind.mixer is Mixer.STATE:
        return state_blocks
    if kind.mixer is Mixer.SLIDING:
        # The window may begin within a block, so one more.
        return math.ceil(min(kind.window - 1 + in_flight, context) / block_tokens) + 1
    if kind.mixer is Mixer.CHUNKED:
        return math.ceil(min(kind.window + in_flight, context) / block_tokens)
    return math.ceil(context / block_tokens)
