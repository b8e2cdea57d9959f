"""How far a footprint may be off, and what its caller states of the weights. Pure."""

from trivet.catalog.engine_constants import MEASURED_VLLM, Version
from trivet.catalog.footprint_values import FootprintRequest
from trivet.catalog.precision import FOUR_BITS, bits_in_name
from trivet.domain.gpus import GIB

_BAND_KNOWN_BYTES = GIB // 2
_BAND_BYTES = 3 * GIB // 2
_BAND_UNKNOWN_BYTES = 3 * GIB


def stated_bits(request: FootprintRequest) -> float | None:
    """Return the mean bits per weight, where the caller or the type's written form states them."""
    return request.bits_per_weight or bits_in_name(request.quant) or bits_in_name(request.dtype)


def band_bytes(request: FootprintRequest, version: Version | None, *, scheme: str | None = None) -> int:
    """Return how far the figures may be off.

    Half a GiB where this engine version was compared with measurements on such a GPU; 1.5 GiB elsewhere; 3
    GiB on unified memory, with a draft model, and for hybrids whose states are many or whose 4-bit weights
    are guessed (`scheme`): errors of 2 to 3 GiB were seen there.
    """
    states = request.architecture.has_states
    guessed = scheme in FOUR_BITS and request.weights_bytes is None and stated_bits(request) is None
    on_vllm = request.engine == "vllm"
    if request.draft or request.gpu.unified:
        return _BAND_UNKNOWN_BYTES
    if states and on_vllm and (request.speculative_tokens or guessed):
        return _BAND_UNKNOWN_BYTES
    if not on_vllm:
        return _BAND_KNOWN_BYTES if not states else _BAND_BYTES
    measured = version in MEASURED_VLLM and "H100" in request.gpu.name
    return _BAND_KNOWN_BYTES if measured and not states else _BAND_BYTES
