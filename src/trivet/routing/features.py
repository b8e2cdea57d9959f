"""What a request requires of a deployment, and the text and figures that describe it."""

import json
import sys
from typing import Any

from trivet.domain.requests import ChatRequest, Needs
from trivet.routing.request import nesting_depth

MEDIA_PART_BYTES = 2048
"""Prompt allowance of one image or audio part, in tokens counted as bytes.

What a picture becomes depends on the model and its resolution and cannot be read off the request; its
base64 data is no measure of it. 2,048 covers the usual tilings at their default settings.
"""

MESSAGE_TOKENS = 16
"""Upper bound on what a chat template adds around one message: role, separators, line ends."""

CHARS_PER_CONTEXT_TOKEN = 4
"""Used only to guess how much context a request carries when its caller does not say."""

_MEDIA_PARTS = frozenset({"image_url", "input_image", "image", "input_audio", "audio_url", "video_url"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})

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


def describe(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked request.

    `text` is the last user message (the last message where there is no user's), text parts joined.
    `prompt_bytes` is a ceiling of the prompt's tokens for byte-level tokenizers, see `prompt_ceiling_tokens`.
    `context_tokens` is what the caller says, else a guess from the messages' characters beyond `text`.
    `history_length` is what the caller says, else the number of user messages before the last.

    Args:
        request: as `parse_chat` returned it.
        text_limit_chars: characters of the text to keep.
    """
    messages: list[dict[str, Any]] = request.body["messages"]
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    last = users[-1] if users else len(messages) - 1
    text = _text(messages[last].get("content"), text_limit_chars)
    hints = request.hints
    return Needs(
        text=text,
        prompt_bytes=sum(map(_message_bytes, messages)) + _other_bytes(request.body),
        messages=len(messages),
        capabilities=_capabilities(request.body, messages),
        agent_capabilities=hints.capabilities,
        context_tokens=hints.context_tokens or _unseen_tokens(messages, text),
        history_length=max(0, len(users) - 1) if hints.history_length is None else hints.history_length,
        task_type=hints.task_type,
    )


def prompt_ceiling_tokens(needs: Needs, template_tokens: int) -> int:
    """Return a number of tokens that the prompt cannot exceed.

    A byte-level BPE tokenizer never makes more tokens than bytes; the chat template adds at most
    MESSAGE_TOKENS for each message and `template_tokens` once. Usually it is three to four times too
    much: right for a hold, wrong as an estimate.
    """
    return needs.prompt_bytes + MESSAGE_TOKENS * needs.messages + template_tokens


def _text(content: Any, limit_chars: int) -> str:
    if isinstance(content, str):
        return content[:limit_chars]
    texts: list[str] = []
    left = limit_chars
    for part in content or ():
        if left <= 0:
            break
        text = part.get("text")
        if isinstance(text, str):
            texts.append(text[:left])
            left -= len(text) + 1
    return "\n".join(texts)[:limit_chars]


def _message_bytes(message: dict[str, Any]) -> int:
    """Return the bytes of one message: content, names, tool calls and their results."""
    total = 0
    for key, value in message.items():
        if key == "content" and isinstance(value, list):
            total += sum(_part_bytes(part) for part in value)
        elif isinstance(value, str):
            total += _utf8_bytes(value)
        elif value is not None:
            total += _json_ceiling_bytes(value)
    return total


def _part_bytes(part: dict[str, Any]) -> int:
    kind = part.get("type")
    if kind in _MEDIA_PARTS:
        return MEDIA_PART_BYTES
    text = part.get("text", part.get("refusal"))
    if kind in _TEXT_PARTS and isinstance(text, str):
        return _utf8_bytes(text) + 1  # templates may put a line end between parts
    return _json_ceiling_bytes(part)


def _other_bytes(body: dict[str, Any]) -> int:
    total = 0
    for key, value in body.items():
        if key in _NOT_PROMPT:
            continue
        if isinstance(value, str):
            total += _utf8_bytes(value)
        elif isinstance(value, dict | list):
            total += _json_ceiling_bytes(value)
    return total


def _utf8_bytes(text: str) -> int:
    # JSON may carry half a surrogate pair; it becomes a replacement character of the same three bytes.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _json_ceiling_bytes(value: Any) -> int:
    """Return a ceiling, in tokens as bytes, of a JSON value as a chat template prints it.

    Templates print tools compactly or indented by four (Llama, Qwen). Indented, each line starts with a
    line end and a run of blanks, for which tokenizers have tokens of at least 15 blanks. The values'
    non-ASCII characters are counted as the six bytes of their escapes, which some templates write.
    """
    printed = json.dumps(value)
    lines = printed.count(",") + 2 * (printed.count("{") + printed.count("["))
    indent_tokens = 2 + (4 * nesting_depth(value) + 14) // 15
    return len(printed) + lines * indent_tokens


def _capabilities(body: dict[str, Any], messages: list[dict[str, Any]]) -> frozenset[str]:
    needed: set[str] = set()
    if body.get("tools") or body.get("functions"):
        needed.add("tools")
    if any(_has_image(message.get("content")) for message in messages):
        needed.add("vision")
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") in ("json_schema", "json_object"):
        needed.add("json_schema")
    if body.get("logprobs") is True:
        needed.add("logprobs")
    return frozenset(needed)


def _has_image(content: Any) -> bool:
    return isinstance(content, list) and any(part.get("type") in _IMAGE_PARTS for part in content)


def _unseen_tokens(messages: list[dict[str, Any]], text: str) -> int:
    written = sum(len(_text(message.get("content"), sys.maxsize)) for message in messages)
    return (written - len(text)) // CHARS_PER_CONTEXT_TOKEN
