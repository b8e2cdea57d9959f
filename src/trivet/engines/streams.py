"""A streamed answer, read event by event."""

import contextlib
from collections.abc import AsyncIterator
from typing import NoReturn

import aiohttp

from trivet.domain.errors import EngineBroken, EngineError, EngineTimeout, StreamIncomplete
from trivet.domain.outcomes import Usage
from trivet.domain.time_limits import WaitLimit, at_once_or_within
from trivet.engines.chat_wire import ChatEvents
from trivet.engines.faults import fault_from_event
from trivet.engines.protocol import StreamChunk, Take
from trivet.engines.received import Received, WireAnswer
from trivet.engines.sse import (
    DONE,
    EVENT_LIMIT_BYTES,
    EventKind,
    EventReader,
    EventSplitter,
)
from trivet.engines.usage import shared_prompt

AFTER_FINISH_S = 2.0
"""How long usage and `[DONE]` are waited for once the answer is complete."""
AFTER_DONE_S = 0.1
"""How long the end of the HTTP answer is waited for after `[DONE]`, so that the connection can be kept."""


class StreamReply:
    """A stream being read. `open()` first, then `chunks()` once, then `aclose()` always."""

    def __init__(
        self,
        response: Received,
        *,
        deadline_s: float,
        idle_s: float,
        choices: int,
        reader: EventReader | None = None,
    ) -> None:
        """Take an answer whose head has arrived.

        Args:
            response: the answer; closed by `aclose`.
            deadline_s: the loop's time at which reading ends at the latest.
            idle_s: the longest silence between two events.
            choices: how many answers were asked for (`n`).
            reader: of the surface's events; by default a chat completion's.
        """
        self.body: bytes | None = None
        self.usage: Usage | None = None
        self.finished = False
        self.content_events = 0
        self.content_bytes = 0
        self._response = response
        self._deadline_s = deadline_s
        self._idle_s = idle_s
        self._choices = choices
        self._reader = reader or ChatEvents()
        self._classify = self._reader.classify if choices == 1 else self._reader.classify_parsed
        self._splitter = EventSplitter()
        self._held: list[StreamChunk] = []
        self._seen: set[int] = set()
        self._ended: set[int] = set()
        self._final_usage: Usage | None = None
        self._over = False
        self._fault: EngineError | None = None
        self._silent_at_s = deadline_s
        """When the engine has been silent for too long, by the loop's time."""
        self._limit: WaitLimit | None = None
        self._take: Take | None = None
        self._spoke = False
        """Whether the last wait brought events: silence is counted from when they have been taken."""

    async def open(self) -> None:
        """Read until the first content or finish; what comes before is held back for `chunks`.

        The caller limits the time.

        Raises:
            EngineError: the stream failed or ended before.
        """
        while True:
            self._held += self._digest(await self._receive())
            if self.content_events or self._ended:
                return
            if self._fault is not None:
                raise self._fault
            if self._over:
                raise self._incomplete()
            if sum(len(chunk.data) for chunk in self._held) > EVENT_LIMIT_BYTES:
                raise EngineBroken("The engine sends frames without content and without end.", status=200)

    def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Return the stream's events in order, several at once where they arrived together: itself.

        Comments (keep-alives) are dropped. `take` is offered pieces of text as they arrive: nothing is woken
        for those that it takes, and they are not yielded.

        Raises:
            StreamIncomplete: it ended without a finish reason.
            EngineTimeout: it fell silent, or the deadline came.
            EngineError: the engine reported an error, or sent something that is not such a stream.
        """
        self._take = take
        return self

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        """Return itself: an iterator, since the loop keeps account of each generator."""
        return self

    async def __anext__(self) -> StreamChunk:
        """Return the next events. It closes itself at the end, whatever that is."""
        try:
            while not self._held:
                if self._over or self._fault is not None:
                    await self._end()
                await self._read_on()
        except BaseException:
            await self.aclose()
            raise
        return self._held.pop(0)

    async def _read_on(self) -> None:
        """Wait for more."""
        limit = self._limit
        if limit is None:
            limit = self._listen()
        elif self._spoke:
            self._hear()
        try:
            with limit:
                self._held = self._digest(await self._receive())
        except TimeoutError:
            self._fall_silent()
        self._spoke = bool(self._held)

    async def _end(self) -> NoReturn:
        if self._fault is not None:
            raise self._fault
        if not self.finished:
            raise self._incomplete()
        if not self._response.content.at_eof():
            await self._read_to_end()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection unless the answer was read to its end; idempotent.

        Before the end this is what makes the engine stop generating.
        """
        if self._limit is not None:
            self._limit.close()
            if isinstance(self._response, WireAnswer):
                self._response.offer(None)
        self._response.close()

    def _listen(self) -> WaitLimit:
        """Begin to wait for more."""
        self._limit = limit = WaitLimit()
        self._hear()
        # aiohttp's answers offer nothing: all of them is read.
        if self._take is not None and isinstance(self._response, WireAnswer):
            self._response.offer(self._pass_on)
        return limit

    def _pass_on(self, data: bytes) -> bool:
        """Offer what has arrived if it is plain pieces of text, whole ones; False: it is to be read."""
        splitter = self._splitter
        if self._choices != 1 or self._ended or splitter.at < len(splitter.buffer) or self._take is None:
            return False
        plain, text_bytes, end = self._reader.skim(data, 0)
        if not plain or end < len(data) or not self._take(data):
            return False
        self.content_events += plain
        self.content_bytes += text_bytes
        self._hear()
        return True

    def _hear(self) -> None:
        # Silence is counted between events that say something: comments prove a live socket, not progress.
        limit = self._limit
        if limit is not None:
            self._silent_at_s = limit.loop.time() + (AFTER_FINISH_S if self.finished else self._idle_s)
            limit.until(min(self._silent_at_s, self._deadline_s))

    def _fall_silent(self) -> None:
        if self.finished:
            self._over = True
        elif self._deadline_s <= self._silent_at_s:
            self._fault = EngineTimeout("The engine did not finish its answer before the deadline.")
        else:
            self._fault = EngineTimeout(f"The engine fell silent amid its answer for {self._idle_s:g} s.")

    async def _receive(self) -> bytes:
        # A cut connection reads as the end: if the answer was complete before, nothing is missing.
        try:
            return await self._response.content.readany()
        except TimeoutError:
            raise  # the caller's time is up
        except (aiohttp.ClientError, OSError):
            return b""

    async def _read_to_end(self) -> None:
        with contextlib.suppress(TimeoutError):
            await at_once_or_within(AFTER_DONE_S, self._receive())

    def _digest(self, data: bytes) -> list[StreamChunk]:
        # Empty data is the end of the stream. A fault is kept until what came before it has been yielded.
        chunks: list[StreamChunk] = []
        splitter, skim = self._splitter, self._reader.skim
        splitter.add(data or self._ending())
        buffer, counted = splitter.buffer, self.content_events
        begun = at = splitter.at  # what is to be passed on next goes from here to there
        try:
            while (at := splitter.at) < len(buffer):
                if self._choices == 1 and not self._ended:
                    # Most of a stream is plain pieces of text.
                    plain, text_bytes, splitter.at = skim(buffer, at)
                    if plain:
                        self.content_events += plain
                        self.content_bytes += text_bytes
                        continue
                raw = splitter.following()
                if raw is None:
                    break
                if raw == DONE:
                    self._over = True
                    break
                kind = self._noted(raw)
                if self._over or self._fault is not None:
                    break
                if kind == "usage" or kind == "comment":
                    if begun < at:
                        chunks.append(StreamChunk(buffer[begun:at], self.content_events - counted))
                    if kind == "usage":
                        chunks.append(StreamChunk(raw, content_events=0, usage_only=True))
                    begun, counted = splitter.at, self.content_events
        except EngineBroken as error:
            self._fault = error
        if begun < at:
            chunks.append(StreamChunk(buffer[begun:at], self.content_events - counted))
        self._over = self._over or not data
        self.finished = self._fault is None and bool(self._ended) and self._is_finished()
        return chunks

    def _ending(self) -> bytes:
        # Some servers omit the last blank line. A half event is a sign of a cut, not a fault of its own.
        rest = [event.rstrip() + b"\n\n" for event in self._splitter.end()]
        return b"".join(event for event in rest if self._reader.classify_parsed(event).kind != "broken")

    def _noted(self, raw: bytes) -> EventKind:
        """Note what an event says, and return its kind."""
        event = self._classify(raw)
        kind = event.kind
        if event.seen:
            self._seen |= event.seen
            self._ended |= event.ended
        if event.usage is not None:
            self._note_usage(event.usage, final=kind == "usage")
        if kind == "content":
            self.content_events += 1
            self.content_bytes += self._reader.content_size(raw)
        elif kind == "done":
            self._over = True
        elif kind == "error":
            self._fault = fault_from_event(event.error)
        elif kind == "broken":
            self._fault = EngineBroken("The engine sent an event that is none of its protocol.", status=200)
        return kind

    def _note_usage(self, usage: Usage, *, final: bool) -> None:
        # With n > 1 llama.cpp sends one final usage per choice, others one for all; so finals are added up.
        if final and self._final_usage is not None:
            usage = shared_prompt((self._final_usage, usage))
        if final and self._choices > 1:
            self._final_usage = usage
        if final or self._final_usage is None:
            self.usage = usage

    def _is_finished(self) -> bool:
        # An engine that ignores `n` sends one choice; then only the stream's end shows that none is missing.
        if len(self._ended) >= self._choices:
            return True
        return self._over and bool(self._ended) and self._seen <= self._ended

    def _incomplete(self) -> StreamIncomplete:
        return StreamIncomplete("The engine's stream ended before the answer was complete.", status=200)
