"""What `--dtype` and `--quant` mean: how many bits each part of a model takes in a safetensors checkpoint.
Pure.

A quantised checkpoint is not its nominal bits times its parameters: embeddings, output matrix, norms and
routers stay in 16 bits, and blocks of weights carry scales.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trivet.catalog.architecture import Architecture
from trivet.catalog.layers import Mixer
from trivet.domain.errors import ConfigError

_BPW = re.compile(r"\(\s*([\d.]+)\s*bpw", re.IGNORECASE)
_GGUF_TYPE = re.compile(
    r"(?:^|[^a-z0-9])((?:i?q\d|tq\d|i2_s|mxfp4_moe)[a-z0-9_]*(?: - (?:small|medium|large))?)"
)

SCHEMES = (
    "bf16",
    "f16",
    "fp16",
    "float32",
    "fp8",
    "w8a8",
    "int8",
    "mxfp4",
    "nvfp4",
    "int4",
    "awq",
    "gptq",
    "bnb",
)
_WORDS: tuple[tuple[str, str], ...] = (
    # The first word found decides, so 4-bit schemes stand before the types that they are computed in.
    ("nvfp4", "nvfp4"),
    ("mxfp4", "mxfp4"),
    ("awq", "int4"),
    ("gptq", "int4"),
    ("autoround", "int4"),
    ("w4a16", "int4"),
    ("w4a8", "int4"),
    ("int4", "int4"),
    ("4bit", "int4"),
    ("4-bit", "int4"),
    ("bnb", "bnb"),
    ("bitsandbytes", "bnb"),
    ("nf4", "bnb"),
    ("w8a8", "8bit"),
    ("w8a16", "8bit"),
    ("fp8", "8bit"),
    ("float8", "8bit"),
    ("int8", "8bit"),
    ("8bit", "8bit"),
    ("float32", "32bit"),
    ("fp32", "32bit"),
    ("f32", "32bit"),
    ("bf16", "16bit"),
    ("bfloat16", "16bit"),
    ("fp16", "16bit"),
    ("f16", "16bit"),
    ("float16", "16bit"),
    ("half", "16bit"),
)
_INT4_BITS = 4 + 16 / 128 + 4 / 128
"""Groups of 128 weights share a 16-bit scale and a 4-bit zero point (AWQ, GPTQ)."""
_NVFP4_BITS = 4 + 8 / 16
"""Blocks of 16 weights share an 8-bit scale."""
_MXFP4_BITS = 4 + 8 / 32
"""Blocks of 32 weights share an 8-bit exponent (OCP Microscaling formats, version 1.0)."""
_BNB_BITS = 4 + 32 / 64
"""Blocks of 64 weights share a 32-bit absolute maximum."""
_FP8_BITS = 8 + 32 / (128 * 128)
"""Blocks of 128 x 128 weights share a 32-bit scale (DeepSeek-V3, Qwen3 FP8)."""


_LINEAR_ATTENTION = ("qwen3next", "qwen35", "qwen36", "qwen38", "kimilinear")
FOUR_BITS = frozenset({"int4", "bnb", "nvfp4", "mxfp4"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Bits of each weight by part. `kv_bytes` is what the KV cache takes by itself for one element."""

    scheme: str
    embedding: float = 16.0
    output: float = 16.0
    attention: float = 16.0
    mixer: float = 16.0
    mlp: float = 16.0
    experts: float = 16.0
    router: float = 16.0
    small: float = 16.0
    kv_bytes: float = 2.0


def bits_in_name(text: str | None) -> float | None:
    """Return the bits per weight that llama.cpp prints: `Q4_K - Medium (4.837 BPW)`; else None."""
    found = _BPW.search(text or "")
    return float(found[1]) if found else None


def gguf_type(text: str | None) -> str | None:
    """Return a GGUF type as `q4_k_m` out of whatever names it; None where nothing does."""
    lowered = (text or "").lower().strip()
    found = _GGUF_TYPE.search(lowered)
    if not found:
        return None
    name = found[1].removesuffix("_r4").removesuffix("_r8")
    for word, letter in ((" - small", "_s"), (" - medium", "_m"), (" - large", "_l")):
        name = name.replace(word, letter)
    return name.replace("_k_xl", "_k_m")


def scheme_of(dtype: str, quant: str | None) -> str:
    """Return the scheme that two written words mean: 16bit, 32bit, 8bit, int4, bnb, mxfp4, nvfp4.

    Raises:
        ConfigError: neither says anything that is known.
    """
    for text in (quant, dtype):
        lowered = (text or "").lower()
        for word, scheme in _WORDS:
            if word in lowered:
                return scheme
        if lowered.strip() == "auto":
            return "16bit"
    raise ConfigError(
        f"No precision called {quant or dtype!r} is known.",
        hint=f"Use one of {', '.join(SCHEMES)}, or a GGUF type such as q4_k_m with --quant.",
        param="dtype",
    )


def precision_of(architecture: Architecture, dtype: str, quant: str | None) -> Precision:
    """Say how many bits each part of a model takes in a checkpoint of this kind.

    What a maker leaves in 16 bits differs. The checkpoint's own `quantization_config` decides where it is at
    hand; else the habits below, each of a maker of many such checkpoints.
    """
    scheme = scheme_of(dtype, quant)
    if scheme == "16bit":
        found = Precision(scheme=scheme)
    elif scheme == "32bit":
        found = Precision(
            scheme=scheme, embedding=32, output=32, attention=32, mixer=32, mlp=32, experts=32,
            router=32, small=32, kv_bytes=4.0,
        )  # fmt: skip
    elif scheme == "8bit":
        found = Precision(
            scheme=scheme, attention=_FP8_BITS, mixer=_FP8_BITS, mlp=_FP8_BITS, experts=_FP8_BITS
        )
    elif scheme == "mxfp4":
        # Only experts are, in gpt-oss; a dense model in MXFP4 has all its matrices so.
        dense = 16.0 if architecture.is_moe else _MXFP4_BITS
        found = Precision(scheme=scheme, attention=dense, mixer=dense, mlp=dense, experts=_MXFP4_BITS)
    else:
        found = _four_bits(architecture, scheme)
    return _with_kv(_as_stated(found, architecture.quantization), architecture.quantization)


def _four_bits(architecture: Architecture, scheme: str) -> Precision:
    """Return what 4-bit makers do: matrices in 4 bits, linear attention and Mamba in 16.

    NVIDIA's NVFP4 checkpoints leave attention in 16 bits in models with routed experts or sliding windows
    (Gemma 4 31B: 31.0 GiB, of which a model with 4-bit attention would have 20). On linear attention makers
    of NVFP4 differ: three checkpoints of one 27B model take 20, 21 and 24 GiB; 8 bits is the middle.
    """
    bits = {"nvfp4": _NVFP4_BITS, "bnb": _BNB_BITS}.get(scheme, _INT4_BITS)
    attention, mixer = bits, 16.0
    if scheme == "nvfp4":
        slides = any(layer.mixer is Mixer.SLIDING for layer, _ in architecture.groups)
        attention = 16.0 if architecture.is_moe or slides else bits
        mixer = _FP8_BITS if any(kind in architecture.family for kind in _LINEAR_ATTENTION) else 16.0
    return Precision(scheme=scheme, attention=attention, mixer=mixer, mlp=bits, experts=bits)


def _as_stated(precision: Precision, quantization: Mapping[str, Any]) -> Precision:
    """Let the checkpoint's list of unquantised modules decide which parts stay in 16 bits."""
    ignored = quantization.get("ignore") or quantization.get("modules_to_not_convert")
    ignored = ignored or quantization.get("exclude_modules") or ()
    if not isinstance(ignored, list | tuple) or precision.scheme in ("16bit", "32bit"):
        return precision
    text = " ".join(str(item) for item in ignored)
    if not text.strip():
        return precision
    attention = 16.0 if re.search(r"self_attn|\battn\b|attention", text) else precision.attention
    mixer = 16.0 if re.search(r"linear_attn|mamba|mixer|conv", text) else precision.mixer
    return replace(precision, attention=attention, mixer=mixer)


def _with_kv(precision: Precision, quantization: Mapping[str, Any]) -> Precision:
    """Follow a checkpoint that asks for an FP8 cache (`auto` obeys it)."""
    asked = str(quantization.get("kv_cache_quant_algo") or "").lower()
    scheme = quantization.get("kv_cache_scheme")
    eight = "fp8" in asked or (isinstance(scheme, Mapping) and scheme.get("num_bits") == 8)
    return replace(precision, kv_bytes=1.0) if eight else precision
