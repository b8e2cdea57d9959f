"""Anthropic's messages as engines speak them: events, and whole answers."""

import json
import re
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.faults import fault_from_event
from trivet.engines.sse import ChatEvent, read_event, skim_nothing
from trivet.engines.usage import parse_usage

_PIECE = re.compile(rb'"(?:text|partial_json|thinking)":\s*"((?:[^"\\]|\\.)*)"')
_CONTENT = ChatEvent("content")
_FIRST = frozenset({0})


class MessageEvents:
    """The reader of one stream; the prompt's tokens come with its first event, the answer's with the last."""

    skim = staticmethod(skim_nothing)

    def __init__(self) -> None:
        self._prompt: dict[str, Any] = {}

    def classify(self, event: bytes) -> ChatEvent:
        """Tell what an event is; a piece of text is recognised without parsing it.

        A quote inside a JSON string is always escaped, so the type never matches in text.
        """
        return _CONTENT if b'"type":"content_block_delta"' in event else self.classify_parsed(event)

    def classify_parsed(self, event: bytes) -> ChatEvent:
        """Tell what an event is, reading all of it."""
        document = read_event(event)
        if isinstance(document, ChatEvent):
            return document
        kind = document.get("type")
        if kind == "content_block_delta":
            return _CONTENT
        if kind == "message_start":
            message = document.get("message")
            usage = message.get("usage") if isinstance(message, dict) else None
            self._prompt = usage if isinstance(usage, dict) else {}
            return ChatEvent("role")
        if kind == "message_delta":
            told = document.get("usage")
            # What the last event says of the prompt, too, is the better word.
            told = {name: value for name, value in told.items() if value} if isinstance(told, dict) else {}
            delta = document.get("delta")
            ended = _FIRST if isinstance(delta, dict) and delta.get("stop_reason") else frozenset()
            usage = message_usage({"output_tokens": 0, **self._prompt, **told}) if told else None
            return ChatEvent("finish" if ended else "role", seen=_FIRST, ended=ended, usage=usage)
        if kind == "message_stop":
            return ChatEvent("done")
        if kind == "ping":
            return ChatEvent("comment")
        return ChatEvent("role" if isinstance(kind, str) else "broken")

    def content_size(self, event: bytes) -> int:
        """Return the bytes of text in a content event, escapes included, and at least 1."""
        return sum(len(text) for text in _PIECE.findall(event)) or (1 if _PIECE.search(event) else len(event))


def message_usage(reported: Any) -> Usage | None:
    """Return the usage in a message's `usage`, or None where it cannot be a token count.

    Anthropic's `input_tokens` are those that were in no cache; ours are all of the prompt.
    """
    if not isinstance(reported, dict):
        return None
    read, written = (
        reported.get(name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens")
    )
    counts = (reported.get("input_tokens"), read, written)
    if not all(isinstance(count, int) for count in counts):
        return None
    prompt_tokens = sum(count for count in counts if isinstance(count, int))
    return parse_usage(
        {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": reported.get("output_tokens"),
            "prompt_tokens_details": {"cached_tokens": read},
        }
    )


def plain_message(body: bytes) -> PlainReply:
    """Return a whole message as a Reply after checking that it is one.

    Raises:
        EngineError: it is none, or it is an error.
    """
    document = parse_document(body)
    if document.get("error"):
        raise fault_from_event(document["error"])
    content = document.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise EngineBroken("The engine's answer has no `content`.", status=200)
    return PlainReply(
        body=body,
        usage=message_usage(document.get("usage")),
        finished=document.get("stop_reason") is not None,
        content_events=len(content),
        content_bytes=sum(map(_size, content)),
    )


def _size(block: dict[str, Any]) -> int:
    text = block.get("text")
    alone = block.get("type") == "text" and isinstance(text, str)
    return len(str(text).encode("utf-8", "surrogatepass")) if alone else len(json.dumps(block))
