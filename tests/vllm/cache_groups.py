"""Ask vLLM's own code what one sequence holds in its cache: `cache_groups.py` prints one JSON object.

Run by vLLM's Python. Nothing is loaded: layers are described as vLLM describes them to its cache manager.
"""

import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from vllm.v1.core import kv_cache_utils  # type: ignore[import-not-found,unused-ignore]
from vllm.v1.kv_cache_interface import (  # type: ignore[import-not-found,unused-ignore]
    FullAttentionSpec,
    MambaSpec,
    SlidingWindowSpec,
)

CONTEXT_TOKENS, BATCHED_TOKENS = 131_072, 8192


def full(heads: int, width: int, block: int = 16) -> Any:
    """Describe a layer that attends to everything."""
    return FullAttentionSpec(block_size=block, num_kv_heads=heads, head_size=width, dtype=torch.bfloat16)


def sliding(heads: int, width: int, window: int) -> Any:
    """Describe a layer that attends to a window."""
    return SlidingWindowSpec(
        block_size=16, num_kv_heads=heads, head_size=width, dtype=torch.bfloat16, sliding_window=window
    )


def linear() -> Any:
    """Describe a layer of Qwen3.5 35B-A3B with linear attention, its page padded to that of attention."""
    return MambaSpec(
        block_size=1056,
        shapes=((3, 8192), (32, 128, 128)),
        dtypes=(torch.bfloat16, torch.float32),
        page_size_padded=1056 * 2048,
        mamba_cache_mode="align",
    )


def sequence_bytes(layers: list[Any]) -> int:
    """Return what one sequence of the longest length holds, by the groups that vLLM forms."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=CONTEXT_TOKENS),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=BATCHED_TOKENS),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        cache_config=SimpleNamespace(mamba_cache_mode="align"),
        max_in_flight_tokens=2 * BATCHED_TOKENS,
    )
    named = {f"layers.{number}": layer for number, layer in enumerate(layers)}
    unified = kv_cache_utils.unify_kv_cache_spec_page_size(named)
    groups = kv_cache_utils._get_kv_cache_groups_uniform_page_size(unified)
    size = max(len(group.layer_names) for group in groups)
    page = groups[0].kv_cache_spec.page_size_bytes
    blocks = sum(math.ceil(group.kv_cache_spec.max_memory_usage_bytes(config) / page) for group in groups)
    return int(blocks * size * page)


MODELS = {
    "gemma3-27b": [full(16, 128)] * 10 + [sliding(16, 128, 1024)] * 52,
    "gpt-oss-20b": [full(8, 64)] * 12 + [sliding(8, 64, 128)] * 12,
    "gemma4-31b": [full(4, 512)] * 10 + [sliding(16, 256, 1024)] * 50,
    "qwen35-35b-a3b": [full(2, 256, 1056)] * 10 + [linear()] * 30,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: sequence_bytes(layers) for name, layers in MODELS.items()}) + "\n")
