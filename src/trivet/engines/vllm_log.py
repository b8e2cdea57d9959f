"""What a vLLM server says of its memory while it starts. Pure.

The lines, by version (vLLM's sources at the tags named; `INFO` level, as is the default):

- v0.6 to v0.8, V0 (`worker/worker.py`): "model weights take 14.99GiB; non_torch_memory takes 0.12GiB; PyTorch
  activation peak memory takes 1.19GiB; the rest of the memory reserved for KV Cache is 54.93GiB."
- V1 (`v1/worker/gpu_model_runner.py`, `gpu_worker.py`): "Model loading took 14.99 GiB and 2.1 seconds" (from
  v0.12 "GiB memory and"), "Available KV cache memory: 55.15 GiB", "Graph capturing finished in 5 secs, took
  0.67 GiB".
- from v0.10.2: "Actual usage is 14.08 GiB for weight, 1.97 GiB for peak activation, 0.07 GiB for non-torch
  memory, and 0.67 GiB for CUDAGraph memory." It gives all figures at once and is preferred.
- v0.32 (`gpu_worker.py`, `compile_or_warm_up_model`): "15.26 GiB for consumed memory (weights + non-torch),
  1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory." There the peak includes what was set aside
  for graphs, "Estimated CUDA graph memory: 0.4 GiB total".
- "GPU KV cache size: 451,744 tokens" and "Maximum concurrency for 4,096 tokens per request: 110.29x", from
  v0.32 on one line. Before v0.22 the first divides by all groups of layers, which hybrid models do not fill
  alike.

With several workers each says its own; the fullest counts, and the smallest pool.
"""

import re

from trivet.domain.gpus import GIB
from trivet.domain.observations import MemoryObservation

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_VERSION = re.compile(r"LLM engine \(v([^)\s]+)\)|version (\d+\.\d+\S*)")
_WEIGHTS = re.compile(
    rf"(?:Model loading|Loading model weights) took {_NUMBER} Gi?B|model weights take {_NUMBER}GiB"
)
_KV = re.compile(
    rf"Available KV cache memory: {_NUMBER} GiB|memory reserved for KV Cache is {_NUMBER}GiB"
    rf"|Explicitly set \({_NUMBER}/|Auto set \({_NUMBER}/"
)
_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: (\d+(?:\.\d+)?)x")
_ACTIVATION = re.compile(
    rf"{_NUMBER} GiB for peak activation|PyTorch activation peak memory takes {_NUMBER}GiB"
)
_NON_TORCH = re.compile(rf"{_NUMBER} GiB for non-torch memory|non_torch_memory takes {_NUMBER}GiB")
_CONSUMED = re.compile(rf"{_NUMBER} GiB for consumed memory \(weights \+ non-torch\)")
_USED_WEIGHTS = re.compile(rf"Actual usage is {_NUMBER} GiB for weight,")
_GRAPHS = re.compile(
    rf"Graph capturing finished in \d+ secs, took {_NUMBER} GiB|{_NUMBER} GiB for CUDAGraph memory"
)
_GRAPHS_ESTIMATE = re.compile(rf"Estimated CUDA graph memory: {_NUMBER} GiB")
SAME = 0.01
"""Two figures of the same pool differ by no more than their rounding."""


def read_vllm_log(text: str) -> MemoryObservation:
    """Return what the log of one start says."""
    weights = _largest(_USED_WEIGHTS, text) or _largest(_WEIGHTS, text)
    activation, non_torch = _largest(_ACTIVATION, text), _largest(_NON_TORCH, text)
    consumed = _largest(_CONSUMED, text)
    if consumed is not None:
        if weights is not None:
            non_torch = max(0.0, consumed - weights)
        if activation is not None:
            activation = max(0.0, activation - (_largest(_GRAPHS_ESTIMATE, text) or 0.0))
    pools = _figures(_KV, text)
    version = _VERSION.search(text)
    return MemoryObservation(
        engine_version=next(filter(None, version.groups())) if version else None,
        weights_bytes=_bytes(weights),
        kv_bytes=_bytes(min(pools, default=None)),
        kv_tokens=_tokens(text),
        activation_bytes=_bytes(activation),
        non_torch_bytes=_bytes(non_torch),
        graphs_bytes=_bytes(_largest(_GRAPHS, text)),
    )


def _tokens(text: str) -> int | None:
    printed = min((_whole(found) for found in _TOKENS.findall(text)), default=None)
    concurrency = min(
        (round(_whole(tokens) * float(times)) for tokens, times in _CONCURRENCY.findall(text)), default=None
    )
    if printed is None or concurrency is None:
        return printed if concurrency is None else concurrency
    return printed if abs(printed - concurrency) <= SAME * concurrency else concurrency


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _figures(pattern: re.Pattern[str], text: str) -> list[float]:
    """Return each match's one number, whichever of the alternatives it came from."""
    return [float(next(filter(None, match.groups()))) for match in pattern.finditer(text)]


def _largest(pattern: re.Pattern[str], text: str) -> float | None:
    return max(_figures(pattern, text), default=None)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * GIB)
