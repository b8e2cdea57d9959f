"""What one layer of a model is: how it mixes tokens, what it remembers, how many parameters it has."""

from dataclasses import dataclass
from enum import StrEnum


class Mixer(StrEnum):
    """How a layer lets tokens see one another, which decides what it has to remember."""

    FULL = "full"
    """Attention over the whole context: keys and values of every token."""
    SLIDING = "sliding"
    """Attention over the last `window` tokens."""
    CHUNKED = "chunked"
    """Attention within chunks of `window` tokens (Llama 4)."""
    LATENT = "latent"
    """Multi-head latent attention: one compressed row for all heads (DeepSeek)."""
    STATE = "state"
    """A recurrent state of constant size: linear attention, Mamba, short convolution."""
    NONE = "none"
    """No mixing here, or attention that looks elsewhere: nothing to remember."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParameters:
    """Parameters of one layer by what quantisation does with them."""

    attention: int = 0
    """Matrices of softmax attention."""
    mixer: int = 0
    """Matrices of linear attention and Mamba."""
    mlp: int = 0
    """Matrices of the dense feed-forward part and of shared experts."""
    experts: int = 0
    router: int = 0
    small: int = 0
    """Norms, biases, convolutions: always 16 bits or more."""
    attention_key: int = 0
    """The part of `attention` that makes keys; llama.cpp treats parts of it differently."""
    attention_value: int = 0
    attention_output: int = 0
    mlp_down: int = 0
    """The part of `mlp` that leads back to the hidden size; likewise."""
    experts_down: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.attention + self.mixer + self.mlp + self.experts + self.router + self.small


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. Sizes are in elements; bytes depend on the engine."""

    mixer: Mixer
    kv_heads: int = 0
    key_dim: int = 0
    """Elements of one head's key; of the whole latent row for LATENT."""
    value_dim: int = 0
    rope_dim: int = 0
    """The part of a latent row that carries positions."""
    window: int = 0
    conv_state: int = 0
    """Elements of the convolution's state of one sequence."""
    recurrent_state: int = 0
    """Elements of the recurrent state of one sequence."""
    index_dim: int = 0
    """Elements of the key that a sparse attention's indexer keeps for each token (DeepSeek V3.2)."""
    shares_kv: bool = False
    """Uses an earlier layer's keys and values (Gemma 3n): nothing of its own to remember."""
    parameters: LayerParameters = LayerParameters()
