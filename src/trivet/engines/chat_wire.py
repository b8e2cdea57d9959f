"""A chat completion's stream as engines speak it: what its events say, and how much of it is plain text."""

import re
from typing import Any

from trivet.engines.sse import NO_CHOICE, ChatEvent, EventKind, choice_index, read_event
from trivet.engines.usage import parse_usage

KNOWN_MAX = 64
FRAME_MAX_BYTES = 1024
"""What is around a text is kept for other streams up to this size; engines write a fifth of it."""
_KNOWN: dict[bytes, ChatEvent] = {}
"""What events say that are alike from behind the envelope on."""
_FRAMES: dict[bytes, tuple[bytes, bytes]] = {}
"""What is around a plain piece's text, from behind the envelope on, by the event that began its stream."""

# What OpenAI and vLLM write before the choices: nothing in it says what an event is.
_ENVELOPE = re.compile(
    rb'data: \{"id":"[ !#-\[\]-~]*","object":"chat\.completion\.chunk","created":[1-9][0-9]{0,15},'
    rb'"model":"[ !#-\[\]-~]*",(?=.{1,300}\n\n\Z)'
)
_TEXT = re.compile(rb'"(?:reasoning_)?content":\s*"((?:[^"\\]|\\.)*)"')
_CONTENT = b'"content":"'
_COUNTS = b'"choices":[],"usage":{'
# One piece of text, and those behind it with the same bytes around texts without quotes and escapes. Each
# step takes all that it can or nothing, so that it reads no byte twice.
_PIECES = re.compile(rb'((?>.*"content":"))[^"\\\n]++(".*+\n\n)(?:\1[^"\\\n]++\2)*+')
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
_PLAIN_CONTENT = ChatEvent("content")
_BROKEN = ChatEvent("broken")


class ChatEvents:
    """The reader of one stream of a chat completion, whose events differ in little.

    Of a piece of text the bytes before and after the text are remembered: what else consists of the same
    bytes around text that holds neither quotes nor escapes says the same, and is counted without a look at
    each. What is said of the stream before the choices is remembered, too: behind it events are like others',
    and so are the pieces of streams that begin alike.
    """

    def __init__(self) -> None:
        self._envelope: bytes | None = None
        """Of the first event; empty where it begins with none, None before it."""
        self._opening = b""
        """The first event from behind its envelope on."""
        self._frame = (b"", b"")
        """What is around the text of a plain piece."""

    def classify(self, event: bytes) -> ChatEvent:
        """Tell what an event is, as `classify` does; of a plain piece of text remember what is around it."""
        envelope = self._envelope
        if envelope is None:
            envelope = self._envelope = self._open(event)
        if envelope and event.startswith(envelope):
            behind = event[len(envelope) :]
            known = _KNOWN.get(behind)
            if known is not None:
                return known
            if behind.startswith(_COUNTS):
                return _told_by(event)
        said = classify(event)
        if said is _PLAIN_CONTENT:
            self._learn(event)
        return said

    def classify_parsed(self, event: bytes) -> ChatEvent:
        """Tell what an event is, reading all of it: also which choices it speaks of."""
        return classify_parsed(event)

    def content_size(self, event: bytes) -> int:
        """Return the bytes of text in a content event; see `content_size`."""
        return content_size(event)

    def skim(self, buffer: bytes, start: int) -> tuple[int, int, int]:
        """Return how many events from `start` on are like the piece remembered, their text's bytes, the end.

        `start` is where an event begins. For each of them `classify` says `content` and no more, and
        `content_size` what is added up here.
        """
        before, after = frame = self._frame
        if not before or not buffer.startswith(before, start):
            return 0, 0, start
        found = _PIECES.match(buffer, start)
        if found is None or found.groups() != frame:
            return 0, 0, start
        end = found.end()
        plain = buffer.count(after, start, end)
        return plain, end - start - plain * (len(before) + len(after)), end

    def _open(self, event: bytes) -> bytes:
        """Return the first event's envelope. How streams that began like this one went on is tried first."""
        found = _ENVELOPE.match(event)
        if found is None:
            return b""
        envelope, self._opening = found[0], event[found.end() :]
        frame = _FRAMES.get(self._opening)
        if frame is not None:
            self._frame = (envelope + frame[0], frame[1])
        return envelope

    def _learn(self, event: bytes) -> None:
        """Remember what is around the text of a plain piece."""
        at = event.find(_CONTENT) + len(_CONTENT)
        end = event.find(b'"', at)
        if (
            end > at
            and event.endswith(b"}\n\n")
            and b"\\" not in event
            and b"\r" not in event
            and event.count(b'content":') == 1
        ):
            self._frame = (event[:at], event[end:])
            self._tell_others()

    def _tell_others(self) -> None:
        envelope, opening, (before, after) = self._envelope, self._opening, self._frame
        if (
            envelope
            and opening in _KNOWN
            and before.startswith(envelope)
            and len(before) + len(after) <= FRAME_MAX_BYTES
            and (opening in _FRAMES or len(_FRAMES) < KNOWN_MAX)
        ):
            _FRAMES[opening] = (before[len(envelope) :], after)


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
        return ChatEvent("role" if told is None else "usage", NO_CHOICE, NO_CHOICE, usage)
    generated = False
    seen, ended = NO_CHOICE, NO_CHOICE
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


def _is_generated(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta and isinstance(delta, dict):
        for name, value in delta.items():
            if value and name in _GENERATED_FIELDS:
                return True
    # A token that adds no text yet (half a character) still shows in the log-probabilities.
    logprobs = choice.get("logprobs")
    return logprobs is not None and isinstance(logprobs, dict) and bool(logprobs.get("content"))
