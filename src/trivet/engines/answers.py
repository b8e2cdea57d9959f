"""Whole answers: read with a bound, checked to be what they claim to be."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.faults import fault_from_event
from trivet.engines.protocol import StreamChunk
from trivet.engines.usage import parse_usage
from trivet.engines.wire import Received


@dataclass(slots=True)
class PlainReply:
    """A whole answer; nothing is left to read or to close."""

    body: bytes | None
    usage: Usage | None
    finished: bool
    content_events: int
    content_bytes: int

    async def chunks(self) -> AsyncIterator[StreamChunk]:
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
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, dict) for choice in choices)
    ):
        raise EngineBroken("The engine's answer has no `choices`.", status=200)
    messages = [choice.get("message") for choice in choices]
    return PlainReply(
        body=body,
        usage=parse_usage(document.get("usage")),
        finished=all(choice.get("finish_reason") is not None for choice in choices),
        content_events=sum(
            1 for message in messages if isinstance(message, dict) and _says_something(message)
        ),
        content_bytes=sum(map(_size, messages)),
    )


def _size(message: Any) -> int:
    """Return the bytes of what a message says, without the envelope where it is plain text."""
    content = message.get("content") if isinstance(message, dict) and len(message) <= 2 else None
    return len(content.encode()) if isinstance(content, str) else len(json.dumps(message))


def parse_document(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        EngineBroken: it holds something else.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        what = "an HTML page" if body.lstrip().startswith(b"<") else "something that is not JSON"
        raise EngineBroken(f"The engine answered with {what}.", status=200) from None
    if not isinstance(document, dict):
        raise EngineBroken("The engine's answer is not a JSON object.", status=200)
    return document


async def read_body(response: Received, limit_bytes: int) -> bytes | None:
    """Return the whole body, or None if it is larger than the limit; the connection is closed then."""
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > limit_bytes:
            response.close()
            return None
    return b"".join(parts)


def _says_something(message: dict[str, Any]) -> bool:
    return any(value for name, value in message.items() if name != "role")
