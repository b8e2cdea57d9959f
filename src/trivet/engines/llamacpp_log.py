"""What llama.cpp says of its buffers while it loads. Pure.

The lines (`src/llama-model.cpp`, `llama-kv-cache.cpp`, `llama-memory-recurrent.cpp`, `llama-context.cpp` of
llama.cpp; function names and blanks differ from build to build, the words do not):

    load_tensors:        CUDA0 model buffer size =  4165.37 MiB
    llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
    llama_memory_recurrent: CUDA0 RS buffer size =   249.38 MiB
    llama_context:       CUDA0 compute buffer size =   258.50 MiB
    llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  4/4 seqs), K (f16): ...
"""

import re
from collections import defaultdict

from trivet.domain.gpus import MIB
from trivet.domain.observations import MemoryObservation

_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute) buffer size = *(\d+(?:\.\d+)?) MiB")
_CELLS = re.compile(r"size = *[\d.]+ MiB \( *(\d+) cells, *\d+ layers, *\d+(?:/ *(\d+))? seqs\)")
"""Cells of each stream, and the streams, where the build has several."""
_BUILD = re.compile(r"build(?:_info)?: *(b?\d+[^\s,]*)")
_HOST = re.compile(r"CPU|AMX|BLAS|.*_(Host|Mapped)$")
"""Buffers in the host's memory, also those pinned or mapped there for a GPU."""


def read_llamacpp_log(text: str) -> MemoryObservation:
    """Return what the log of one start says: of the fullest GPU, or of the host where no GPU holds any."""
    held: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for device, kind, mib in _BUFFER.findall(text):
        place = "host" if _HOST.match(device) else device
        if kind == "compute":
            # Reserved anew, larger, where a first guess was too small: the last line counts.
            held[place][kind] = float(mib)
        else:
            held[place]["KV" if kind == "RS" else kind] += float(mib)
    gpus = [figures for place, figures in held.items() if place != "host"]
    if not held:
        return MemoryObservation(engine_version=_version(text))
    fullest = max(gpus, key=lambda figures: sum(figures.values())) if gpus else held["host"]
    return MemoryObservation(
        engine_version=_version(text),
        weights_bytes=_bytes(fullest.get("model")),
        kv_bytes=_bytes(fullest.get("KV")),
        kv_tokens=_tokens(text),
        compute_bytes=_bytes(fullest.get("compute")),
    )


def _tokens(text: str) -> int | None:
    """Return the cells of all streams; the largest of several caches is that of full attention."""
    return max((int(cells) * int(streams or 1) for cells, streams in _CELLS.findall(text)), default=None)


def _version(text: str) -> str | None:
    found = _BUILD.search(text)
    return None if found is None or found[1] == "b0-unknown" else found[1]


def _bytes(mib: float | None) -> int | None:
    return None if mib is None else round(mib * MIB)
