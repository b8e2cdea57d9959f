"""What a request requires of a deployment, and the text and figures that describe it."""

import sys
from typing import Any

from trivet.domain.requests import ChatRequest, Needs
from trivet.routing.prompt_size import (
    has_image,
    json_ceiling_bytes,
    other_bytes,
    part_bytes,
    text_of,
    utf8_bytes,
)

MESSAGE_TOKENS = 16
"""Upper bound on what a chat template adds around one message: role, separators, line ends."""

CHARS_PER_CONTEXT_TOKEN = 4
"""Used only to guess how much context a request carries when its caller does not say."""

# Fields of a body that never reach the model's prompt. Any other list, object or string is taken to:
# tools, functions, response_format, and what an engine adds (documents, guided_json, ...).
_NOT_PROMPT = frozenset(
    {
        "audio",
        "logit_bias",
        "messages",
        "metadata",
        "modalities",
        "model",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "stop",
        "stream_options",
        "user",
    }
)
_TAKES = frozenset({"tools", "functions", "response_format", "logprobs"})
_NOTHING: frozenset[str] = frozenset()


def describe_chat(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked chat request.

    `text` is the last user message (the last message where there is no user's), text parts joined.
    `prompt_bytes` is a ceiling of the prompt's tokens for byte-level tokenizers, see `prompt_ceiling_tokens`.
    `context_tokens` is what the caller says, else a guess from the messages' characters beyond `text`.
    `history_length` is what the caller says, else the number of user messages before the last.

    Args:
        request: as `parse_chat` returned it.
        text_limit_chars: characters of the text to keep.
    """
    body, hints = request.body, request.hints
    messages: list[dict[str, Any]] = body["messages"]
    last, users = messages[-1], 0
    prompt_bytes, written, seen = 0, 0, False
    for message in messages:
        if message["role"] == "user":
            last = message
            users += 1
        content = message.get("content")
        if isinstance(content, str):
            written += len(content)
        elif content is not None:
            written += len(text_of(content, sys.maxsize))
            seen = seen or has_image(content)
        prompt_bytes += _message_bytes(message)
    text = text_of(last.get("content"), text_limit_chars)
    return Needs(
        text=text,
        prompt_bytes=prompt_bytes + other_bytes(body, _NOT_PROMPT),
        messages=len(messages),
        capabilities=_capabilities(body, seen=seen),
        agent_capabilities=hints.capabilities,
        context_tokens=hints.context_tokens or (written - len(text)) // CHARS_PER_CONTEXT_TOKEN,
        history_length=max(0, users - 1) if hints.history_length is None else hints.history_length,
        task_type=hints.task_type,
    )


def prompt_ceiling_tokens(needs: Needs, template_tokens: int) -> int:
    """Return a number of tokens that the prompt cannot exceed.

    A byte-level BPE tokenizer never makes more tokens than bytes; the chat template adds at most
    MESSAGE_TOKENS for each message and `template_tokens` once. Usually it is three to four times too
    much: right for a hold, wrong as an estimate. Counting tokens takes none.
    """
    if not needs.surface.computes:
        return 0
    return needs.prompt_bytes + MESSAGE_TOKENS * needs.messages + template_tokens


def _message_bytes(message: dict[str, Any]) -> int:
    """Return the bytes of one message: content, names, tool calls and their results."""
    total = 0
    for key, value in message.items():
        if isinstance(value, str):
            total += len(value) if value.isascii() else utf8_bytes(value)
        elif key == "content" and isinstance(value, list):
            total += sum(map(part_bytes, value))
        elif value is not None:
            total += json_ceiling_bytes(value)
    return total


def _capabilities(body: dict[str, Any], *, seen: bool) -> frozenset[str]:
    """Return what the request takes; `seen`: there is something to be seen in it."""
    if not seen and _TAKES.isdisjoint(body):
        return _NOTHING
    needed: set[str] = set()
    if body.get("tools") or body.get("functions"):
        needed.add("tools")
    if seen:
        needed.add("vision")
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") in ("json_schema", "json_object"):
        needed.add("json_schema")
    if body.get("logprobs") is True:
        needed.add("logprobs")
    return frozenset(needed)
