"""Anthropic's messages as engines speak them: events, whole answers, and streams joined to such."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.faults import fault_from_event
from trivet.engines.sse import ChatEvent, read_event
from trivet.engines.usage import parse_usage

_PIECE = re.compile(rb'"(?:text|partial_json|thinking)":\s*"((?:[^"\\]|\\.)*)"')
_CONTENT = ChatEvent("content")
_FIRST = frozenset({0})
_PIECES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class MessageEvents:
    """The reader of one stream; the prompt's tokens come with its first event, the answer's with the last."""

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


@dataclass(slots=True)
class MessageJoiner:
    """Joins the events of a stream into the document that the whole answer would have been."""

    message: dict[str, Any] = field(default_factory=dict)
    blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    pieces: dict[int, list[str]] = field(default_factory=dict)
    """Of the input of a tool's call, JSON in pieces."""

    def add(self, document: dict[str, Any]) -> None:
        """Take the next event's document."""
        kind, index = document.get("type"), document.get("index")
        if kind == "message_start" and isinstance(document.get("message"), dict):
            self.message = dict(document["message"])
        elif kind == "content_block_start" and isinstance(index, int):
            block = document.get("content_block")
            self.blocks[index] = dict(block) if isinstance(block, dict) else {}
        elif kind == "content_block_delta" and isinstance(index, int):
            delta = document.get("delta")
            if isinstance(delta, dict):
                self._add_piece(index, delta)
        elif kind == "message_delta":
            delta, usage = document.get("delta"), document.get("usage")
            self.message |= delta if isinstance(delta, dict) else {}
            before = self.message.get("usage")
            self.message["usage"] = (before if isinstance(before, dict) else {}) | (
                usage if isinstance(usage, dict) else {}
            )

    def document(self) -> dict[str, Any]:
        """Return the whole answer."""
        blocks = [
            block | ({"input": _input(self.pieces[index])} if index in self.pieces else {})
            for index, block in sorted(self.blocks.items())
        ]
        return {**self.message, "content": blocks}

    def _add_piece(self, index: int, delta: dict[str, Any]) -> None:
        block = self.blocks.setdefault(index, {})
        kind = delta.get("type")
        if kind == "input_json_delta":
            self.pieces.setdefault(index, []).append(str(delta.get("partial_json") or ""))
            return
        name = _PIECES.get(str(kind))
        if name is not None:
            block[name] = f"{block.get(name) or ''}{delta.get(name) or ''}"


def _input(pieces: list[str]) -> Any:
    text = "".join(pieces)
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        # A call that the cap cut short: what came of it is no object, as the whole answer would not be.
        return {}


def _size(block: dict[str, Any]) -> int:
    text = block.get("text")
    alone = block.get("type") == "text" and isinstance(text, str)
    return len(str(text).encode("utf-8", "surrogatepass")) if alone else len(json.dumps(block))
