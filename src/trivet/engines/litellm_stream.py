"""A stream that LiteLLM reads, handed on as OpenAI events, and never called whole when it is not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from trivet.domain.errors import EngineBroken, EngineError, EngineTimeout, StreamIncomplete
from trivet.domain.outcomes import Usage
from trivet.engines.chat_wire import classify_parsed, content_size
from trivet.engines.litellm_events import finish_event, stream_event, usage_event, usage_in
from trivet.engines.litellm_faults import connection_broke, engine_faults
from trivet.engines.protocol import StreamChunk, Take
from trivet.engines.sse import EVENT_LIMIT_BYTES
from trivet.engines.usage import parse_usage


class LiteLLMStream:
    """A stream being read. `open()` first, then `chunks()` once, then `aclose()` always."""

    body: bytes | None = None

    def __init__(self, wrapper: Any, *, model: str, deadline_s: float, idle_s: float) -> None:
        """Take LiteLLM's stream.

        Args:
            wrapper: LiteLLM's CustomStreamWrapper; closed by `aclose`.
            model: the name to show, the engine's own.
            deadline_s: the loop's time at which reading ends at the latest.
            idle_s: the longest silence between two chunks.
        """
        self.usage: Usage | None = None
        self.finished = False
        self.content_events = 0
        self.content_bytes = 0
        self._wrapper = wrapper
        self._model = model
        self._deadline_s = deadline_s
        self._idle_s = idle_s
        self._held: list[StreamChunk] = []
        self._stream_id = ""
        self._last_event = b""

    async def open(self) -> None:
        """Read until the first content or the finish; what comes before is held back for `chunks`.

        The caller limits the time.

        Raises:
            EngineError: the stream failed or ended before.
        """
        held_bytes = 0
        while not (self.content_events or self.finished):
            chunk = await self._next()
            if chunk is None:
                raise self._incomplete()
            self._held.append(chunk)
            held_bytes += len(chunk.data)
            if held_bytes > EVENT_LIMIT_BYTES and not self.content_events:
                raise EngineBroken("The engine sends frames without content and without end.", status=200)

    async def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Yield the stream's events in order.

        Raises:
            StreamIncomplete: it ended without a finish reason.
            EngineTimeout: it fell silent, or the deadline came.
            EngineError: the engine reported an error, or sent something that is not a chat stream.
        """
        try:
            held, self._held = self._held, []
            for chunk in held:
                yield chunk
            while (following := await self._next_in_time()) is not None:
                yield following
            if not self.finished:
                raise self._incomplete()
            usage = usage_in(self._wrapper.chunks)
            self.usage = parse_usage(usage)
            if usage is not None:
                yield StreamChunk(usage_event(self._last_event, usage), content_events=0, usage_only=True)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; idempotent. Before the end this is what makes the engine stop generating."""
        await self._wrapper.aclose()

    async def _next_in_time(self) -> StreamChunk | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(loop.time() + self._idle_s, self._deadline_s)):
                return await self._next()
        except TimeoutError:
            if self.finished:
                return None
            if self._wrapper.received_finish_reason is not None:
                # LiteLLM keeps the finish back until the connection ends; the answer is whole all the same.
                return self._finish(self._wrapper.received_finish_reason)
            if loop.time() >= self._deadline_s:
                raise EngineTimeout("The engine did not finish its answer before the deadline.") from None
            raise EngineTimeout(f"The engine fell silent amid its answer for {self._idle_s:g} s.") from None
        except EngineError as fault:
            # What fails after the finish takes nothing from the answer.
            if self.finished:
                return None
            if connection_broke(fault):
                raise self._incomplete() from fault
            raise

    async def _next(self) -> StreamChunk | None:
        # Chunks that say nothing are LiteLLM's own: its estimate of the usage, its copy of the finish.
        while True:
            with engine_faults(answered=True):
                chunk = await anext(self._wrapper, None)
            if chunk is None:
                return None
            self._stream_id = self._stream_id or str(chunk.id)
            event = stream_event(chunk, model=self._model, stream_id=self._stream_id)
            said = classify_parsed(event)
            if said.kind == "finish" and self._wrapper.received_finish_reason is None:
                # LiteLLM says "stop" where a stream just ends.
                raise self._incomplete()
            if said.kind == "role" and (self.finished or not said.seen or not chunk.choices[0].delta.role):
                continue
            if said.kind == "content":
                self.content_events += 1
                self.content_bytes += content_size(event)
            self.finished = self.finished or bool(said.ended)
            self._last_event = event
            return StreamChunk(event, content_events=int(said.kind == "content"))

    def _finish(self, reason: str) -> StreamChunk:
        self.finished = True
        self._last_event = finish_event(self._last_event, reason)
        return StreamChunk(self._last_event, content_events=0)

    def _incomplete(self) -> StreamIncomplete:
        return StreamIncomplete("The engine's stream ended before the answer was complete.", status=200)
