"""Server-sent events: cut a byte stream into whole events, and tell what each one of a chat completion is."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.usage import parse_usage

EVENT_LIMIT_BYTES = 1024 * 1024

EventKind = Literal["content", "role", "finish", "usage", "done", "error", "comment", "broken"]
"""content: carries generated output, whatever else; role: carries none and ends nothing; finish: ends a
choice without output; usage: `choices: []`, only counts; done: `[DONE]`; comment: keep-alive; broken."""

# A blank line ends an event. The match ends with the second newline, so no later byte can change it.
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_GENERATED_FIELDS = (
    "content",
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "refusal",
    "audio",
)


class EventSplitter:
    """Cuts bytes as they arrive into whole events, each with its blank line, byte for byte."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the events that they complete.

        Raises:
            EngineBroken: one event is larger than EVENT_LIMIT_BYTES.
        """
        # The blank line may straddle the seam by at most three bytes.
        scan_from = max(0, len(self._rest) - 3)
        buffer = self._rest + data if self._rest else data
        if b"\r" in buffer:
            events = self._cut(buffer, scan_from)
        elif b"\n\n" in buffer[scan_from:]:
            *whole, self._rest = buffer.split(b"\n\n")
            events = [event + b"\n\n" for event in whole]
        else:
            events, self._rest = [], buffer
        longest = max(map(len, events), default=0) if len(buffer) > EVENT_LIMIT_BYTES else 0
        if len(self._rest) > EVENT_LIMIT_BYTES or longest > EVENT_LIMIT_BYTES:
            raise EngineBroken(f"The engine sent an event of more than {EVENT_LIMIT_BYTES} bytes.")
        return events

    def _cut(self, buffer: bytes, scan_from: int) -> list[bytes]:
        events = []
        start = 0
        for blank_line in _BLANK_LINE.finditer(buffer, scan_from):
            events.append(buffer[start : blank_line.end()])
            start = blank_line.end()
        self._rest = buffer[start:] if start else buffer
        return events

    def end(self) -> list[bytes]:
        """Return what is left when the stream has ended: an event whose blank line was never sent, if any."""
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip() else []


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """What one event says."""

    kind: EventKind
    seen: frozenset[int] = field(default_factory=frozenset)
    """Indexes of the choices that it speaks of; empty where that was not looked at."""
    ended: frozenset[int] = field(default_factory=frozenset)
    """Indexes of the choices that it gives a finish reason for."""
    usage: Usage | None = None
    error: Any = None
    """The `error` object, for kind `error`."""


class EventReader(Protocol):
    """Tells what the events of one stream say, in its surface's protocol."""

    def classify(self, event: bytes) -> ChatEvent:
        """Tell what an event of a stream with one choice is; as cheaply as can be."""
        ...

    def classify_parsed(self, event: bytes) -> ChatEvent:
        """Tell what an event is, reading all of it: also which choices it speaks of."""
        ...

    def content_size(self, event: bytes) -> int:
        """Return the bytes of text in a content event, escapes included, and at least 1."""
        ...

    def skim(self, events: Sequence[bytes], start: int) -> tuple[int, int]:
        """Return how many events from `start` on are plain text for certain, and that text's bytes.

        They are events for which `classify` says no more than `content`. (0, 0) is always right.
        """
        ...


_TEXT = re.compile(rb'"(?:reasoning_)?content":\s*"((?:[^"\\]|\\.)*)"')
_CONTENT = b'"content":"'
_CLEAN = re.compile(rb'[^"\\\n]+')
_PLAIN_CONTENT = ChatEvent("content")
_DONE = ChatEvent("done")
_COMMENT = ChatEvent("comment")
_BROKEN = ChatEvent("broken")


def classify(event: bytes) -> ChatEvent:
    """Tell what an event is; the common one, a piece of text, is recognised without parsing it.

    A quote inside a JSON string is always escaped, so a key with its quotes and colon never matches in text.
    """
    if (
        b'"finish_reason":null' in event
        and b'"content":"' in event
        and b'"content":""' not in event
        and b'"usage":{' not in event
        and b'"error"' not in event
        and event.startswith(b"data: {")
        and event.count(b"\n") == 2
        and event.rstrip().endswith(b"}")
    ):
        return _PLAIN_CONTENT
    return classify_parsed(event)


def content_size(event: bytes) -> int:
    """Return the bytes of text in a content event, escapes included, and at least 1.

    Where the content is no plain text (a tool call, say) it is the whole event: a ceiling on its tokens.
    """
    return sum(len(text) for text in _TEXT.findall(event)) or (1 if _TEXT.search(event) else len(event))


def classify_parsed(event: bytes) -> ChatEvent:
    """Tell what an event is, reading all of it: also which choices it speaks of."""
    document = read_event(event)
    if isinstance(document, ChatEvent):
        return document
    choices = document.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return _BROKEN
    usage = parse_usage(document.get("usage"))
    if not choices:
        return ChatEvent("usage" if document.get("usage") is not None else "role", usage=usage)
    ended = frozenset(choice_index(choice) for choice in choices if choice.get("finish_reason") is not None)
    kind: EventKind = "finish" if ended else "role"
    if any(_is_generated(choice) for choice in choices):
        kind = "content"
    return ChatEvent(kind, seen=frozenset(map(choice_index, choices)), ended=ended, usage=usage)


def read_event(event: bytes) -> dict[str, Any] | ChatEvent:
    """Return the document that an event of any surface carries, or what it is where it carries none."""
    name, data = _fields(event)
    if data is None:
        return _COMMENT
    if data.strip() == b"[DONE]":
        return _DONE
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return ChatEvent("error", error=data.decode("utf-8", "replace")) if name == b"error" else _BROKEN
    if name == b"error":
        return ChatEvent(
            "error", error=document.get("error", document) if isinstance(document, dict) else document
        )
    if not isinstance(document, dict):
        return _BROKEN
    if document.get("error"):
        return ChatEvent("error", error=_with_code(document))
    return document


class Skimmer:
    """Counts plain pieces of text without a look at each: those of one stream differ in their text only.

    One piece is looked at, and its bytes before and after the text are remembered. What else consists of the
    same bytes around text that holds neither quotes nor escapes says the same.
    """

    def __init__(self) -> None:
        self._before = b""
        self._after = b""

    def skim(self, events: Sequence[bytes], start: int) -> tuple[int, int]:
        """Return how many events from `start` on are plain pieces of text, and the bytes of that text.

        For each of them `classify` says `content` and no more, and `content_size` what is added up here.
        """
        first = events[start]
        known = self._before and first.startswith(self._before) and first.endswith(self._after)
        if not known and not self._learn(first):
            return 0, 0
        rest = b"".join(events[start:])
        texts = rest[len(self._before) :].split(self._after + self._before)
        last, found, _ = texts.pop().partition(self._after)
        if found:
            texts.append(last)
        text = b"".join(texts)
        if b"" in texts or not _CLEAN.fullmatch(text):
            # Something else lies between: count as far as the first piece that is not clean.
            clean = next((n for n, each in enumerate(texts) if not _CLEAN.fullmatch(each)), len(texts))
            texts = texts[:clean]
            return clean, sum(map(len, texts))
        return len(texts), len(text)

    def _learn(self, event: bytes) -> bool:
        at = event.find(_CONTENT) + len(_CONTENT)
        end = event.find(b'"', at)
        plain = (
            at >= len(_CONTENT)
            and end > at
            and b"\\" not in event
            and event.count(b'content":') == 1
            and event.endswith(b"}\n\n")
            and classify(event) is _PLAIN_CONTENT
        )
        if plain:
            self._before, self._after = event[:at], event[end:]
        return plain


def skim_nothing(events: Sequence[bytes], start: int) -> tuple[int, int]:
    """Leave every event to `classify`."""
    return 0, 0


class ChatEvents(Skimmer):
    """The reader of one stream of a chat completion."""

    classify = staticmethod(classify)
    classify_parsed = staticmethod(classify_parsed)
    content_size = staticmethod(content_size)


def chunk_document(event: bytes) -> dict[str, Any] | None:
    """Return the document that an event carries, or None where it carries none: a comment, `[DONE]`.

    Raises:
        EngineBroken: what it carries is not a JSON object.
    """
    _, data = _fields(event)
    if data is None or data.strip() == b"[DONE]":
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise EngineBroken("The engine sent an event that is not a JSON object.", status=200)
    return document


def choice_index(choice: dict[str, Any]) -> int:
    """Return which choice a part of a chunk speaks of, the first one where it does not say."""
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _fields(event: bytes) -> tuple[bytes, bytes | None]:
    # The event's name and its joined data lines. Old llama.cpp servers put errors in a field of that name.
    name = b""
    lines: list[bytes] = []
    for line in event.replace(b"\r\n", b"\n").split(b"\n"):
        key, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if key == b"data":
            lines.append(value)
        elif key == b"error":
            name = key
            lines.append(value)
        elif key == b"event":
            name = value.strip()
    return name, b"\n".join(lines) if lines else None


def _with_code(document: dict[str, Any]) -> Any:
    error = document["error"]
    if isinstance(error, dict):
        return error
    return {"message": error, "code": document.get("code", document.get("status"))}


def _is_generated(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if isinstance(delta, dict) and any(delta.get(name) for name in _GENERATED_FIELDS):
        return True
    # A token that adds no text yet (half a character) still shows in the log-probabilities.
    logprobs = choice.get("logprobs")
    return isinstance(logprobs, dict) and bool(logprobs.get("content"))
