"""Server-sent events: cut a byte stream into whole events, and tell what each one of a chat completion is."""

import json
import re
from typing import Any, Literal, Protocol

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.domain.values import value
from trivet.engines.usage import parse_usage

EVENT_LIMIT_BYTES = 1024 * 1024

EventKind = Literal["content", "role", "finish", "usage", "done", "error", "comment", "broken"]
"""content: carries generated output, whatever else; role: carries none and ends nothing; finish: ends a
choice without output; usage: `choices: []`, only counts; done: `[DONE]`; comment: keep-alive; broken."""

# A blank line ends an event. The match ends with the second newline, so no later byte can change it.
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_NONE: frozenset[int] = frozenset()
_FIRST = frozenset({0})
_GENERATED_FIELDS = frozenset(
    {
        "content",
        "tool_calls",
        "function_call",
        "reasoning_content",
        "reasoning",
        "refusal",
        "audio",
    }
)


class EventSplitter:
    """Cuts bytes as they arrive into whole events, each with its blank line, byte for byte."""

    def __init__(self) -> None:
        self.buffer = b""
        self.at = 0
        """Where the next event begins in the buffer."""
        self._searched = 0
        self._returns = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the events that they complete.

        Raises:
            EngineBroken: one event is larger than EVENT_LIMIT_BYTES.
        """
        self.add(data)
        events = []
        while (event := self.following()) is not None:
            events.append(event)
        return events

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.at == len(self.buffer):
            self.buffer, self._searched = data, 0
        else:
            # A blank line may straddle the seam by at most three bytes.
            self._searched = max(0, self._searched - self.at - 3)
            self.buffer = self.buffer[self.at :] + data
        self.at = 0
        self._returns = b"\r" in self.buffer

    def following(self) -> bytes | None:
        """Return the next event that is there as a whole, and go on behind it.

        Raises:
            EngineBroken: it is larger than EVENT_LIMIT_BYTES, or what is there of it.
        """
        start, buffer = self.at, self.buffer
        search_from = max(start, self._searched)
        if self._returns:
            found = _BLANK_LINE.search(buffer, search_from)
            end = found.end() if found is not None else 0
        else:
            end = buffer.find(b"\n\n", search_from) + 2
        if end <= start + 1:
            self._searched = end = len(buffer)
        else:
            self.at = end
        if end - start > EVENT_LIMIT_BYTES:
            raise EngineBroken(f"The engine sent an event of more than {EVENT_LIMIT_BYTES} bytes.")
        return buffer[start:end] if self.at > start else None

    def end(self) -> list[bytes]:
        """Return what is left when the stream has ended: an event whose blank line was never sent, if any."""
        rest, self.buffer, self.at, self._searched = self.buffer[self.at :], b"", 0, 0
        return [rest] if rest.strip() else []


@value()
class ChatEvent:
    """What one event says."""

    kind: EventKind
    seen: frozenset[int] = _NONE
    """Indexes of the choices that it speaks of; empty where that was not looked at."""
    ended: frozenset[int] = _NONE
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

    def skim(self, buffer: bytes, start: int) -> tuple[int, int, int]:
        """Return how many events from `start` on are plain text for certain, the text's bytes, and the end.

        They are events for which `classify` says no more than `content`. (0, 0, start) is always right.
        """
        ...


_DECODER = json.JSONDecoder()
# What OpenAI and vLLM write before the choices: nothing in it says what an event is.
_ENVELOPE = re.compile(
    rb'data: \{"id":"[ !#-\[\]-~]*","object":"chat\.completion\.chunk","created":[1-9][0-9]{0,15},'
    rb'"model":"[ !#-\[\]-~]*",(?=.{1,300}\n\n\Z)'
)
KNOWN_MAX = 64
_KNOWN: dict[bytes, ChatEvent] = {}
"""What events say that are alike from behind the envelope on."""
_TEXT = re.compile(rb'"(?:reasoning_)?content":\s*"((?:[^"\\]|\\.)*)"')
_CONTENT = b'"content":"'
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
    """Tell what an event is, reading all of it: also which choices it speaks of.

    The first and the last event of a stream are those of every other, but for the stream's name: they are
    read once.
    """
    envelope = _ENVELOPE.match(event)
    choices = b"" if envelope is None else event[envelope.end() :]
    known = _KNOWN.get(choices)
    if known is not None:
        return known
    told = _told_by(event)
    if choices and told.kind in ("role", "finish") and told.usage is None and len(_KNOWN) < KNOWN_MAX:
        _KNOWN[choices] = told
    return told


def _told_by(event: bytes) -> ChatEvent:
    document = read_event(event)
    if isinstance(document, ChatEvent):
        return document
    choices, told = document.get("choices"), document.get("usage")
    if not isinstance(choices, list):
        return _BROKEN
    usage = parse_usage(told) if told is not None else None
    if not choices:
        return ChatEvent("role" if told is None else "usage", _NONE, _NONE, usage)
    generated = False
    seen, ended = _NONE, _NONE
    for choice in choices:
        if not isinstance(choice, dict):
            return _BROKEN
        index = choice_index(choice)
        itself = frozenset((index,)) if index else _FIRST
        seen = seen | itself if seen else itself
        if choice.get("finish_reason") is not None:
            ended = ended | itself if ended else itself
        generated = generated or _is_generated(choice)
    kind: EventKind = "content" if generated else "finish" if ended else "role"
    return ChatEvent(kind, seen, ended, usage)


def read_event(event: bytes) -> dict[str, Any] | ChatEvent:
    """Return the document that an event of any surface carries, or what it is where it carries none."""
    if event == b"data: [DONE]\n\n":
        return _DONE
    if event.startswith(b"data: {") and event.count(b"\n") == 2 and b"\r" not in event:
        name, data = b"", event[6:]
    else:
        name, told = _fields(event)
        if told is None:
            return _COMMENT
        if told.strip() == b"[DONE]":
            return _DONE
        data = told
    try:
        document = _DECODER.decode(data.decode())
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
        self._seam = b""
        """What lies between two texts: `_after` of the first one's, `_before` of the second one's."""

    def skim(self, buffer: bytes, start: int) -> tuple[int, int, int]:
        """Return how many events from `start` on are plain pieces of text, that text's bytes, and their end.

        `start` is where an event begins. For each of them `classify` says `content` and no more, and
        `content_size` what is added up here.
        """
        plain, end = self._count(buffer, start)
        if not plain and self._learn(buffer, start):
            plain, end = self._count(buffer, start)
        return plain, end - start - plain * len(self._seam), end

    def _count(self, buffer: bytes, start: int) -> tuple[int, int]:
        """Return how many pieces with the same bytes around their text follow, and where they end."""
        before, after, seam = self._before, self._after, self._seam
        if not before or not buffer.startswith(before, start):
            return 0, start
        find, goes_on_with, frame_bytes = buffer.find, buffer.startswith, len(seam)
        plain, at = 0, start + len(before)
        limit = find(b"\\", start)
        if limit < 0:
            limit = len(buffer)
        while (end := find(b'"', at, limit)) > at and goes_on_with(seam, end):
            plain += 1
            at = end + frame_bytes
        if end > at and goes_on_with(after, end):
            plain, end = plain + 1, end + len(after)
        else:
            end = at - len(before)
        # Each piece ends with the two line ends behind it; none may be in a text.
        if buffer.count(b"\n", start, end) != 2 * plain:
            self._before = b""
            return 0, start
        return plain, end

    def _learn(self, buffer: bytes, start: int) -> bool:
        stop = buffer.find(b"\n\n", start) + 2
        at = buffer.find(_CONTENT, start, stop) + len(_CONTENT)
        end = buffer.find(b'"', at, stop)
        if at < len(_CONTENT) or end <= at:
            return False
        event = buffer[start:stop]
        plain = (
            b"\\" not in event
            and b"\r" not in event
            and event.count(b'content":') == 1
            and event.endswith(b"}\n\n")
            and classify(event) is _PLAIN_CONTENT
        )
        if plain:
            before, after = buffer[start:at], buffer[end:stop]
            self._before, self._after, self._seam = before, after, after + before
        return plain


def skim_nothing(buffer: bytes, start: int) -> tuple[int, int, int]:
    """Leave every event to `classify`."""
    return 0, 0, start


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
    if delta and isinstance(delta, dict):
        for name, value in delta.items():
            if value and name in _GENERATED_FIELDS:
                return True
    # A token that adds no text yet (half a character) still shows in the log-probabilities.
    logprobs = choice.get("logprobs")
    return logprobs is not None and isinstance(logprobs, dict) and bool(logprobs.get("content"))
