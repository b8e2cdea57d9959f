"""What engines keep of the tokens they have seen: keys and values, latent rows, recurrent states. Pure.

llama.cpp allocates the cells of all slots at the start; how vLLM deals out its pool stands in `vllm_cache`.
"""

import math
from dataclasses import dataclass

from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import LLAMACPP_CELL_PADDING
from trivet.catalog.layers import Layer, Mixer
from trivet.domain.errors import ConfigError

Groups = tuple[tuple[Layer, int], ...]
"""Distinct layers, each with how often it is there."""

_ELEMENT_BYTES = {
    "f32": 4.0, "fp32": 4.0, "float32": 4.0, "f16": 2.0, "fp16": 2.0, "float16": 2.0, "half": 2.0,
    "bf16": 2.0, "bfloat16": 2.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 9 / 16, "q8_0": 34 / 32,
    "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Bytes of one element, block scales included (ggml-common.h; NVFP4 with an 8-bit scale for 16 elements)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """Bytes of one element of the two parts of a recurrent state."""

    conv: float
    recurrent: float


def element_bytes(text: str | None, automatic: float) -> tuple[float, float]:
    """Return bytes of one element of (keys, values): `q8_0`, `q8_0/f16`, `fp8_e5m2`, `auto`.

    Raises:
        ConfigError: a type is not known.
    """
    words = [word.strip().lower() for word in (text or "auto").split("/")]
    found = []
    for word in (words[0], words[-1]):
        plain = word.split("(")[0].strip()
        if plain in ("", "auto"):
            found.append(automatic)
            continue
        name = "fp8" if plain.startswith("fp8") else plain
        if name not in _ELEMENT_BYTES:
            raise ConfigError(
                f"No KV cache type called {word!r} is known.",
                hint=f"Use auto, fp8, or one of {', '.join(sorted(_ELEMENT_BYTES))}.",
                param="kv_dtype",
            )
        found.append(_ELEMENT_BYTES[name])
    return found[0], found[1]


def state_bytes(architecture: Architecture, model_bytes: float) -> StateBytes:
    """Return how wide vLLM keeps recurrent states: as the config says, else as its kind does.

    Qwen3.5 and Nemotron keep the recurrent part in float32, Qwen3-Next in the model's type; what the block
    sizes in start-up logs (784 tokens for 27B, 1056 for 35B-A3B, 544 for Next at TP 2) confirm.
    """
    stated = str(architecture.state_dtype or "").lower()
    if "32" in stated:
        recurrent = 4.0
    elif "16" in stated:
        recurrent = 2.0
    else:
        wide = any(word in architecture.family for word in ("qwen35", "qwen36", "nemotronh", "kimilinear"))
        recurrent = 4.0 if wide else model_bytes
    return StateBytes(conv=model_bytes, recurrent=recurrent)


def llamacpp_cache_bytes(
    groups: Groups,
    *,
    kv_bytes: tuple[float, float],
    context_tokens: int,
    slots: int,
    ubatch_tokens: int,
    apart: bool = False,
    latent: bool = True,
    latent_heads: int = 0,
    latent_head_dims: tuple[int, int] = (192, 128),
) -> int:
    """Return what llama.cpp allocates for the cells of all slots.

    Sliding-window layers get window * slots + ubatch cells where slots share them, and window + ubatch each
    where every slot has its own (`apart`), rounded up to 256, at most those of the other layers
    (src/llama-kv-cache-iswa.cpp). Recurrent states are 32-bit, one for each slot
    (src/llama-memory-recurrent.cpp). With `latent` false, DeepSeek's keys and values are kept for every
    head, as before April 2025.
    """
    streams = slots if apart else 1
    sharing = slots // streams
    cells = _padded(context_tokens * sharing)
    total = 0.0
    for layer, count in groups:
        if layer.mixer is Mixer.NONE or layer.shares_kv:
            continue
        if layer.mixer is Mixer.STATE:
            total += count * 4.0 * slots * (layer.conv_state + layer.recurrent_state)
        elif layer.mixer is Mixer.LATENT and not latent:
            keys, values = latent_head_dims
            total += count * streams * cells * latent_heads * (keys * kv_bytes[0] + values * kv_bytes[1])
        else:
            own = cells
            if layer.mixer in (Mixer.SLIDING, Mixer.CHUNKED) and layer.window:
                own = min(cells, _padded(layer.window * sharing + ubatch_tokens))
            row = layer.kv_heads * (layer.key_dim * kv_bytes[0] + layer.value_dim * kv_bytes[1])
            total += count * streams * own * row
    return math.ceil(total)


def _padded(cells: int) -> int:
    return math.ceil(cells / LLAMACPP_CELL_PADDING) * LLAMACPP_CELL_PADDING
