"""How many bytes of a body become prompt: a ceiling on its tokens for byte-level tokenizers."""

import json
from collections.abc import Container, Mapping
from typing import Any

from trivet.routing.fields import nesting_depth

MEDIA_PART_BYTES = 2048
"""Prompt allowance of one image or audio part, in tokens counted as bytes.

What a picture becomes depends on the model and its resolution and cannot be read off the request; its
base64 data is no measure of it. 2,048 covers the usual tilings at their default settings.
"""

ROLE_BYTES = len("assistant")
WRAP_BYTES = 64
"""Upper bound on what a tool or a call grows by when it is said in a chat completion's longer form."""

_MEDIA_PARTS = frozenset({"image_url", "input_image", "image", "input_audio", "audio_url", "video_url"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_HOLDERS: Mapping[str, str] = {"tool_result": "content", "function_call_output": "output"}
"""Parts that hold content themselves, by the key that it stands under."""


def text_of(content: Any, limit_chars: int) -> str:
    """Return the text of a message's content, its parts joined, cut to so many characters."""
    if isinstance(content, str):
        return content[:limit_chars]
    texts: list[str] = []
    left = limit_chars
    for part in content if isinstance(content, list) else ():
        if left <= 0:
            break
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            texts.append(text[:left])
            left -= len(text) + 1
    return "\n".join(texts)[:limit_chars]


def content_bytes(content: Any) -> int:
    """Return the bytes of content: a string, or a list of parts."""
    if isinstance(content, str):
        return utf8_bytes(content)
    if isinstance(content, list):
        return sum(map(part_bytes, content))
    return 0 if content is None else json_ceiling_bytes(content)


def part_bytes(part: Any) -> int:
    """Return the bytes of one part of a message's content."""
    if not isinstance(part, dict):
        return json_ceiling_bytes(part)
    kind = part.get("type")
    if kind in _MEDIA_PARTS:
        return MEDIA_PART_BYTES
    text = part.get("text", part.get("refusal"))
    if kind in _TEXT_PARTS and isinstance(text, str):
        return utf8_bytes(text) + 1  # templates may put a line end between parts
    if kind == "tool_use":
        # Chat completions, and the templates for them, have a call's input as a string within JSON.
        said = {"name": part.get("name"), "id": part.get("id"), "arguments": json.dumps(part.get("input"))}
        return json_ceiling_bytes(said) + WRAP_BYTES
    holds = _HOLDERS.get(kind) if isinstance(kind, str) else None
    if holds is not None:
        rest = {key: value for key, value in part.items() if key != holds}
        return json_ceiling_bytes(rest) + content_bytes(part.get(holds))
    return json_ceiling_bytes(part)


def other_bytes(body: Mapping[str, Any], not_prompt: Container[str]) -> int:
    """Return the bytes of a body's fields that may reach the prompt: any list, object or string does."""
    total = 0
    for key, value in body.items():
        if key in not_prompt:
            continue
        if isinstance(value, str):
            total += utf8_bytes(value)
        elif isinstance(value, dict | list):
            total += json_ceiling_bytes(value)
    return total


def utf8_bytes(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    # JSON may carry half a surrogate pair; it becomes a replacement character of the same three bytes.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def json_ceiling_bytes(value: Any) -> int:
    """Return a ceiling, in tokens as bytes, of a JSON value as a chat template prints it.

    Templates print tools compactly or indented by four (Llama, Qwen). Indented, each line starts with a
    line end and a run of blanks, for which tokenizers have tokens of at least 15 blanks. The values'
    non-ASCII characters are counted as the six bytes of their escapes, which some templates write.
    """
    printed = json.dumps(value)
    lines = printed.count(",") + 2 * (printed.count("{") + printed.count("["))
    indent_tokens = 2 + (4 * nesting_depth(value) + 14) // 15
    return len(printed) + lines * indent_tokens


def has_image(content: Any) -> bool:
    """Tell whether content has an image among its parts, also within what a tool gave back."""
    if not isinstance(content, list):
        return False
    for part in content:
        if isinstance(part, dict):
            kind = part.get("type")
            if kind in _IMAGE_PARTS or (kind in _HOLDERS and has_image(part.get(_HOLDERS[str(kind)]))):
                return True
    return False
