"""Surfaces: the wire protocols that callers speak to Trivet, and which deployments can serve them."""

from enum import StrEnum

from trivet.domain.tiers import Deployment, EngineKind


class Surface(StrEnum):
    """The protocol of one request."""

    CHAT = "chat"
    """OpenAI's chat completions."""
    COMPLETIONS = "completions"
    """OpenAI's former completions: plain text goes on."""
    EMBEDDINGS = "embeddings"
    """OpenAI's embeddings: vectors, nothing is generated."""
    RESPONSES = "responses"
    """OpenAI's responses."""
    MESSAGES = "messages"
    """Anthropic's messages."""
    TOKENIZE = "tokenize"
    """vLLM's tokens of a text or a conversation."""
    COUNT_TOKENS = "count_tokens"
    """Anthropic's count of a conversation's tokens."""

    __hash__ = str.__hash__  # as equality is the text's; an enumeration's own is a call of Python's

    generates: bool
    """Whether an engine generates tokens for it, up to a cap."""
    computes: bool
    """Whether the model itself works on it, so that there is something to hold and to charge."""


EMBEDDINGS = "embeddings"
CHAT = "chat"
"""Capabilities. A deployment whose model makes vectors serves nothing that generates, unless it has both."""

_GENERATING = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
_COUNTING = frozenset({Surface.TOKENIZE, Surface.COUNT_TOKENS})
for _surface in Surface:
    _surface.generates = _surface in _GENERATING
    _surface.computes = _surface not in _COUNTING
_TOKENIZERS: frozenset[EngineKind] = frozenset({"vllm", "llamacpp"})
"""Engines that tell their model's tokens."""

_LACKS = {
    Surface.COMPLETIONS: "is reached through LiteLLM, which has no plain completions",
    Surface.EMBEDDINGS: "makes no embeddings",
    Surface.TOKENIZE: "does not tell its model's tokens",
    Surface.COUNT_TOKENS: "does not tell its model's tokens",
}


def lack_of(deployment: Deployment, surface: Surface) -> str | None:
    """Return what keeps a deployment from serving a surface, as the end of a sentence; None: nothing does.

    What an engine does not speak itself, of responses and messages, is said to it as a chat completion.
    """
    if surface is Surface.EMBEDDINGS:
        return None if EMBEDDINGS in deployment.capabilities else _LACKS[surface]
    if not surface.computes:
        tells = deployment.transport == "relay" and deployment.engine in _TOKENIZERS
        return None if tells else _LACKS[surface]
    if EMBEDDINGS in deployment.capabilities and CHAT not in deployment.capabilities:
        return "makes embeddings only"
    if surface is Surface.COMPLETIONS and deployment.transport != "relay":
        return _LACKS[surface]
    return None
