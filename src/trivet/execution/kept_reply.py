"""A kept answer, given as if an engine gave it: whole, or as the stream that it would have been."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from trivet.domain.errors import EngineError
from trivet.domain.outcomes import Attempt, Usage
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import StreamChunk, Take

PIECE_CHARS = 48
"""A piece of text ends at the first space after so many characters: some twelve tokens."""
PIECES_AT_ONCE = 32

_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_ENVELOPE = ("system_fingerprint", "service_tier")


class KeptReply:
    """A `Reply` out of the cache. Its id and its date are this request's own."""

    def __init__(self, document: dict[str, Any], *, request_id: str, created_s: int, stream: bool) -> None:
        """Take a chat completion as it was kept."""
        self._document = {**document, "id": f"chatcmpl-{request_id}", "created": created_s}
        self.body = None if stream else _bytes(self._document)
        self.usage: Usage | None = None
        self.finished = True
        self.content_events = 0
        self.content_bytes = 0

    async def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Yield a stream's events: the role, the text in pieces, the finish, the usage."""
        together: list[bytes] = []
        for delta, finish_reason in _deltas(self._document["choices"][0]):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            together.append(self._event([choice]))
            if len(together) == PIECES_AT_ONCE:
                yield StreamChunk(b"".join(together))
                together.clear()
        yield StreamChunk(b"".join(together))
        usage = self._document.get("usage")
        if usage is not None:
            yield StreamChunk(self._event([], usage=usage), content_events=0, usage_only=True)

    async def aclose(self) -> None:
        """Do nothing: no engine was asked."""

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        document = self._document
        envelope = {name: document[name] for name in _ENVELOPE if name in document}
        chunk = {
            "id": document["id"],
            "object": "chat.completion.chunk",
            "created": document["created"],
            "model": document.get("model"),
            **envelope,
            "choices": choices,
            **more,
        }
        return b"data: " + _bytes(chunk) + b"\n\n"


@dataclass(slots=True)
class FromMemory:
    """Stands where an attempt would: nothing runs, nothing is to be ended."""

    attempt: Attempt

    @classmethod
    def of(cls, deployment: Deployment) -> "FromMemory":
        """Return what names the deployment that answered then."""
        return cls(Attempt(attempt_id="", deployment=deployment, dispatched_ns=0))

    def end(self, error: EngineError | None = None, *, cancelled: bool = False) -> None:
        """Do nothing."""


def _deltas(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    message: dict[str, Any] = choice["message"]
    yield {"role": "assistant", "content": ""}, None
    for name in _TEXTS:
        text = message.get(name)
        if isinstance(text, str):
            for piece in _pieces(text):
                yield {name: piece}, None
    yield {}, choice["finish_reason"]


def _pieces(text: str) -> Iterator[str]:
    """Cut a text after spaces, so that the pieces joined are the text."""
    start = 0
    while start < len(text):
        space = text.find(" ", start + PIECE_CHARS)
        end = len(text) if space < 0 else space
        yield text[start:end]
        start = end


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
