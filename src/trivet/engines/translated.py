"""Responses and messages for engines that speak chat completions only."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from trivet.domain.outcomes import Usage
from trivet.domain.surfaces import Surface
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.messages_as_chat import MessageWriter, chat_of_messages, message_of
from trivet.engines.protocol import EngineCall, Reply, StreamChunk, Take
from trivet.engines.response_writer import ResponseWriter
from trivet.engines.responses_as_chat import chat_of_responses, response_of
from trivet.engines.sse import EventSplitter, chunk_document

TRANSLATED = frozenset({Surface.RESPONSES, Surface.MESSAGES})


class Writer(Protocol):
    """Writes the events of one answer in another protocol."""

    def feed(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        """Yield the events that a chunk makes."""
        ...

    def finish(self, usage: Usage | None) -> Iterator[bytes]:
        """Yield the events that end the answer."""
        ...


async def translate(call: EngineCall, ask: Callable[[EngineCall], Awaitable[Reply]]) -> Reply:
    """Ask for a chat completion in place of a response or a message, and return what that would be.

    Args:
        call: of a surface in TRANSLATED.
        ask: dispatches a chat completion.

    Raises:
        EngineError: see `Transport.chat`; EngineIncapable where the request cannot be said so.
    """
    messages = call.surface is Surface.MESSAGES
    body = chat_of_messages(call.body) if messages else chat_of_responses(call.body)
    if call.stream:
        body["stream_options"] = {"include_usage": True}
    reply = await ask(replace(call, body=body, surface=Surface.CHAT))
    if not isinstance(reply, PlainReply) and reply.body is None:
        name = call.request_id
        writer: Writer = MessageWriter(f"msg_{name}") if messages else ResponseWriter(call.body, name)
        return TranslatedStream(reply, writer)
    chat = parse_document(reply.body or b"")
    whole = (
        message_of(chat, reply.usage, message_id=f"msg_{call.request_id}")
        if messages
        else response_of(chat, reply.usage, call.body, response_id=call.request_id)
    )
    return PlainReply(
        body=json.dumps(whole, separators=(",", ":")).encode(),
        usage=reply.usage,
        finished=reply.finished,
        content_events=reply.content_events,
        content_bytes=reply.content_bytes,
    )


class TranslatedStream:
    """A stream of a chat completion, told in another protocol. What is counted is what the engine sent."""

    body: bytes | None = None

    def __init__(self, reply: Reply, writer: Writer) -> None:
        """Take the stream, opened, and what tells it."""
        self._reply = reply
        self._writer = writer

    @property
    def usage(self) -> Usage | None:
        """Return the usage as the engine reported it."""
        return self._reply.usage

    @property
    def finished(self) -> bool:
        """Tell whether the answer is complete."""
        return self._reply.finished

    @property
    def content_events(self) -> int:
        """Return the content events read so far."""
        return self._reply.content_events

    @property
    def content_bytes(self) -> int:
        """Return the bytes of the content read so far."""
        return self._reply.content_bytes

    async def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Yield the events in order; the ending ones only once the engine's stream has ended well.

        Raises:
            EngineError: see `Reply`.
        """
        splitter = EventSplitter()
        async for chunk in self._reply.chunks():
            events: list[bytes] = []
            for raw in splitter.feed(chunk.data):
                document = chunk_document(raw)
                if document is not None:
                    events += self._writer.feed(document)
            if events:
                yield StreamChunk(b"".join(events), content_events=chunk.content_events)
        yield StreamChunk(b"".join(self._writer.finish(self._reply.usage)), content_events=0)

    async def aclose(self) -> None:
        """Close the engine's stream; idempotent."""
        await self._reply.aclose()
