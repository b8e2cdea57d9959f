"""Whole answers: read with a bound, checked to be what they claim to be."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.faults import fault_from_event
from trivet.engines.protocol import StreamChunk, Take
from trivet.engines.received import Received
from trivet.engines.usage import parse_usage

_scan: Callable[[str, int], tuple[Any, int]] = getattr(json.JSONDecoder(), "scan_once")  # noqa: B009 - typeshed leaves it out
"""Reads one JSON value from a place in a text; see `json.scanner`."""


@dataclass(slots=True)
class PlainReply:
    """A whole answer; nothing is left to read or to close."""

    body: bytes | None
    usage: Usage | None
    finished: bool
    content_events: int
    content_bytes: int

    async def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Yield nothing: the answer is `body`."""
        nothing: tuple[StreamChunk, ...] = ()
        for chunk in nothing:
            yield chunk

    async def aclose(self) -> None:
        """Do nothing: the body has been read to its end."""


def plain_reply(body: bytes) -> PlainReply:
    """Return a whole chat completion as a Reply after checking that it is one.

    Raises:
        EngineError: it is not a chat completion, or it is an error object in a 200 answer.
    """
    document = parse_document(body)
    choices = document.get("choices")
    if document.get("error") and not choices:
        raise fault_from_event(document["error"])
    if not isinstance(choices, list) or not choices:
        raise _no_choices()
    finished, content_events, content_bytes = True, 0, 0
    for choice in choices:
        if not isinstance(choice, dict):
            raise _no_choices()
        if choice.get("finish_reason") is None:
            finished = False
        message: Any = choice.get("message")
        content: Any = None
        if isinstance(message, dict):
            content = message.get("content")
            content_events += bool(content) or _says_something(message)
        # Of plain text the envelope is not counted.
        plain = isinstance(content, str) and len(message) <= 2
        if not plain:
            content_bytes += len(json.dumps(message))
        elif content.isascii():
            content_bytes += len(content)
        else:
            content_bytes += len(content.encode("utf-8", "surrogatepass"))
    usage = parse_usage(document.get("usage"))
    return PlainReply(body, usage, finished, content_events, content_bytes)


def _no_choices() -> EngineBroken:
    return EngineBroken("The engine's answer has no `choices`.", status=200)


def parse_document(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        EngineBroken: it holds something else.
    """
    try:
        document = _decoded(body)
    except (ValueError, RecursionError):
        what = "an HTML page" if body.lstrip().startswith(b"<") else "something that is not JSON"
        raise EngineBroken(f"The engine answered with {what}.", status=200) from None
    if not isinstance(document, dict):
        raise EngineBroken("The engine's answer is not a JSON object.", status=200)
    return document


def _decoded(body: bytes) -> Any:
    """Return what `json.loads` does, which looks at an encoding that is nearly always UTF-8 first."""
    try:
        text = body.decode()
        document, end = _scan(text, 0)
    except (ValueError, StopIteration):
        return json.loads(body)
    return document if end == len(text) else json.loads(body)


async def read_body(response: Received, limit_bytes: int) -> bytes | None:
    """Return the whole body, or None if it is larger than the limit; the connection is closed then."""
    parts: list[bytes] = []
    size = 0
    content = response.content
    while True:
        part = await content.readany()
        size += len(part)
        if size > limit_bytes:
            response.close()
            return None
        at_end = content.at_eof()
        if at_end and not parts:
            return part
        parts.append(part)
        if at_end:
            return b"".join(parts)


def _says_something(message: dict[str, Any]) -> bool:
    return any(value for name, value in message.items() if name != "role")
