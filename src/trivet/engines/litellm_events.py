"""LiteLLM's response objects as the OpenAI documents that callers read."""

import json
from typing import Any

_OWN_FIELDS = ("provider_specific_fields", "citations")
"""What LiteLLM adds to OpenAI's shape."""


def plain_body(response: Any, *, model: str) -> bytes:
    """Return a whole answer as an OpenAI chat completion, with the model under the engine's own name."""
    document = response.model_dump(mode="json", exclude_none=True)
    for choice in document.get("choices") or ():
        _remove_own_fields(choice)
        choice.setdefault("finish_reason", None)
        message = choice.get("message")
        if isinstance(message, dict):
            _remove_own_fields(message)
            message.setdefault("content", None)
    usage = document.get("usage")
    # LiteLLM fills zeros in where an engine reported nothing.
    if isinstance(usage, dict) and not (usage.get("prompt_tokens") or usage.get("completion_tokens")):
        del document["usage"]
    return _json(document, model)


def stream_event(chunk: Any, *, model: str, stream_id: str) -> bytes:
    """Return a chunk as a server-sent event in the shape of an OpenAI chunk, without usage.

    Every chunk gets the stream's one `id`: for Ollama LiteLLM makes up another for each.
    """
    document = chunk.model_dump(mode="json", exclude_none=True) | {"id": stream_id}
    document.pop("usage", None)
    for choice in document.get("choices") or ():
        _remove_own_fields(choice)
        choice.setdefault("finish_reason", None)
        delta = choice.setdefault("delta", {})
        if isinstance(delta, dict):
            _remove_own_fields(delta)
    return b"data: " + _json(document, model) + b"\n\n"


def finish_event(chunk_event: bytes, finish_reason: str) -> bytes:
    """Return the event that ends the first choice of the stream that `chunk_event` belongs to."""
    document = json.loads(chunk_event.removeprefix(b"data: "))
    document["choices"] = [{"index": 0, "delta": {}, "finish_reason": finish_reason}]
    return b"data: " + _json(document, document["model"]) + b"\n\n"


def usage_event(chunk_event: bytes, usage: dict[str, Any]) -> bytes:
    """Return the event without choices that carries a stream's usage."""
    document = json.loads(chunk_event.removeprefix(b"data: "))
    return b"data: " + _json({**document, "choices": [], "usage": usage}, document["model"]) + b"\n\n"


def usage_in(chunks: list[Any]) -> dict[str, Any] | None:
    """Return the usage that the engine itself reported in one of its chunks; the last one counts.

    What LiteLLM puts at a stream's end may be its own estimate, made with another tokenizer.
    """
    for chunk in reversed(chunks):
        reported = getattr(chunk, "usage", None)
        if reported is not None:
            usage: dict[str, Any] = reported.model_dump(mode="json", exclude_none=True)
            return usage
    return None


def _remove_own_fields(part: dict[str, Any]) -> None:
    for name in _OWN_FIELDS:
        part.pop(name, None)


def _json(document: dict[str, Any], model: str) -> bytes:
    document = {name: value for name, value in document.items() if name not in _OWN_FIELDS} | {"model": model}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
