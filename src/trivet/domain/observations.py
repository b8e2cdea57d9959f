"""What an engine said, while it started, of the memory that it took."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryObservation:
    """Bytes on each GPU (of the fullest one where they differ), or of the host where no GPU is used.

    None where the engine said nothing.
    """

    engine_version: str | None = None
    weights_bytes: int | None = None
    kv_bytes: int | None = None
    """The pool for KV, and for the recurrent states of hybrid models."""
    kv_tokens: int | None = None
    """Tokens of one long request after another that the pool holds: largest concurrency times the context."""
    activation_bytes: int | None = None
    """Peak of what a step needs for the moment."""
    non_torch_bytes: int | None = None
    """What is taken beside PyTorch: the CUDA context, NCCL."""
    graphs_bytes: int | None = None
    """Captured CUDA graphs."""
    compute_bytes: int | None = None
    """llama.cpp's compute buffers."""
    total_bytes: int | None = None
    """All in one, where the engine tells no parts (Ollama); over all GPUs."""

    @property
    def empty(self) -> bool:
        """Tell whether nothing of memory was said."""
        figures = (self.weights_bytes, self.kv_bytes, self.kv_tokens, self.total_bytes)
        return all(figure is None for figure in figures)
