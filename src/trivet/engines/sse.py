"""Server-sent events: cut a byte stream into whole events, and tell what each one carries."""

import json
import re
from typing import Any, Literal, Protocol

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.domain.values import value

EVENT_LIMIT_BYTES = 1024 * 1024
DONE = b"data: [DONE]\n\n"
"""The event that ends a stream, as nearly all engines write it."""

EventKind = Literal["content", "role", "finish", "usage", "done", "error", "comment", "broken"]
"""content: carries generated output, whatever else; role: carries none and ends nothing; finish: ends a
choice without output; usage: `choices: []`, only counts; done: `[DONE]`; comment: keep-alive; broken."""

# A blank line ends an event. The match ends with the second newline, so no later byte can change it.
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
NO_CHOICE: frozenset[int] = frozenset()


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
        search_from = self._searched if self._searched > start else start
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
    seen: frozenset[int] = NO_CHOICE
    """Indexes of the choices that it speaks of; empty where that was not looked at."""
    ended: frozenset[int] = NO_CHOICE
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
_DONE = ChatEvent("done")
_COMMENT = ChatEvent("comment")
_BROKEN = ChatEvent("broken")


def read_event(event: bytes) -> dict[str, Any] | ChatEvent:
    """Return the document that an event of any surface carries, or what it is where it carries none."""
    if event == DONE:
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


def skim_nothing(buffer: bytes, start: int) -> tuple[int, int, int]:
    """Leave every event to `classify`."""
    return 0, 0, start


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
