"""What may be answered from the cache, what may be kept in it, and how one becomes the other.

Kept are answers that another asking would get again: one choice, finished, of words alone, at temperature 0
unless the caller or the settings say otherwise. Never a request with tools, whose answer is an act; never one
whose answer was cut down to a budget, came from another model than the chosen one, or was broken off.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from trivet.cache import Entry, Place, ResponseCache
from trivet.config.cache_settings import CacheSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Decision
from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Attempt, Outcome, Usage
from trivet.domain.requests import ChatRequest
from trivet.domain.scopes import Scope
from trivet.domain.surfaces import Surface
from trivet.engines.joined import AnswerJoiner
from trivet.engines.protocol import Reply, StreamChunk, Take
from trivet.engines.sse import EventSplitter, chunk_document
from trivet.execution.answer import Answer
from trivet.execution.kept_reply import FromMemory, KeptReply
from trivet.execution.run import Run
from trivet.execution.upstream import upstream_body

STATE_HEADER = "x-trivet-cache"
LIKENESS_HEADER = "x-trivet-cache-likeness"

_NEVER = (
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "logprobs",
    "top_logprobs",
    "audio",
    "web_search_options",
)
_FINISHES = ("stop", "length")
_MESSAGE_FIELDS = frozenset({"role", "content", "reasoning_content", "reasoning", "refusal"})
_STREAM_OVERHEAD = 16
"""A stream's events are larger than the answer in them; at most so many times its bound are taken down."""


class AnswerMemory:
    """Recalls answers for runs, and learns those that runs end with."""

    def __init__(self, cache: ResponseCache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._recordings: dict[str, _Recording] = {}

    async def recall(self, run: Run) -> Answer | None:
        """Return the answer to a run's request if it is kept; else note what may be learnt of it.

        A run that was answered so has no hold: it is charged nothing.
        """
        request, decision = run.request, run.decision
        if not may_be_kept(request, decision, self._cache.settings):
            self._cache.tally.bypassed += 1
            run.cache_headers[STATE_HEADER] = "bypass"
            return None
        run.cache_headers[STATE_HEADER] = "miss"
        deployment = decision.deployment
        place = self._cache.place_of(
            run.principal.scope, deployment, upstream_body(request, decision, deployment)
        )
        found = await self._cache.find(place) if request.cache != "refresh" else None
        document = _parsed(found.body) if found is not None else None
        if found is None or document is None or not _is_fit(document):
            limit_bytes = self._cache.settings.max_entry_bytes
            self._recordings[run.request_id] = _Recording(place, run.principal.scope, decision, limit_bytes)
            return None
        run.cache_headers[STATE_HEADER] = "hit"
        if found.exact != place.exact:
            run.cache_headers[LIKENESS_HEADER] = f"{found.likeness:.3f}"
        run.saved_device_ns = found.device_ns
        reply = KeptReply(
            document,
            request_id=run.request_id,
            created_s=int(self._clock.now().timestamp()),
            stream=request.stream,
        )
        return Answer(run, reply, FromMemory.of(deployment))

    def watch(self, run: Run, reply: Reply) -> Reply:
        """Take down what an engine answers on its way to the client, if it may be kept."""
        recording = self._recordings.get(run.request_id)
        if recording is None:
            return reply
        if reply.body is not None:
            recording.take(reply.body)
            return reply
        return _WatchedReply(reply, recording)

    def learn(self, outcome: Outcome) -> None:
        """Keep the answer of a request that ended well. To be called with every outcome, once."""
        recording = self._recordings.pop(outcome.request_id, None)
        if recording is None or outcome.status != "ok" or not outcome.attempts or recording.overfull:
            return
        answered, decided = outcome.attempts[-1], recording.decision
        clamped = outcome.decision.max_output_tokens != decided.max_output_tokens
        if answered.deployment.known_as != decided.deployment.known_as or clamped:
            return
        expires_ns = self._cache.expiry_ns()
        self._cache.keep(lambda: recording.entry(answered, expires_ns))


def may_be_kept(request: ChatRequest, decision: Decision, settings: CacheSettings) -> bool:
    """Tell whether a request's answer may come from the cache and go into it."""
    if request.surface is not Surface.CHAT:
        return False
    if request.cache == "no-store" or request.decision_id is not None or request.n != 1:
        return False
    body = request.body
    if any(body.get(name) for name in _NEVER) or body.get("modalities") not in (None, ["text"]):
        return False
    if settings.temperature == "any" or request.cache == "allow":
        return True
    temperature = body.get("temperature")
    effective = decision.temperature if temperature is None else temperature
    return isinstance(effective, int | float) and not isinstance(effective, bool) and effective == 0


@dataclass(slots=True)
class _Recording:
    """An answer being taken down."""

    place: Place
    scope: Scope
    decision: Decision
    limit_bytes: int
    overfull: bool = False
    _parts: list[bytes] = field(default_factory=list)
    _streamed: bool = False
    _size: int = 0

    def take(self, part: bytes, *, streamed: bool = False) -> None:
        """Take the next part, or the whole of a plain answer."""
        self._streamed = streamed
        self._size += len(part)
        if self._size > self.limit_bytes * (_STREAM_OVERHEAD if streamed else 1):
            self.overfull = True
            self._parts.clear()
        if not self.overfull:
            self._parts.append(part)

    def entry(self, answered: Attempt, expires_ns: int) -> Entry | None:
        """Return what is to be kept; None if it is not fit to be. Reads all of it: not for the event loop."""
        document = _joined(self._parts) if self._streamed else _parsed(b"".join(self._parts))
        if document is None or not _is_fit(document):
            return None
        body = json.dumps(document, separators=(",", ":")).encode()
        if len(body) > self.limit_bytes:
            return None
        deployment = answered.deployment
        worth_ns = answered.device_ns or (answered.ended_ns or 0) - answered.dispatched_ns
        return Entry(
            place=self.place,
            scope=self.scope,
            tier=deployment.tier.name,
            deployment=deployment.known_as,
            body=body,
            device_ns=answered.device_ns,
            worth_ns=max(0, worth_ns),
            expires_ns=expires_ns,
        )


class _WatchedReply:
    """A stream that is taken down as it passes."""

    def __init__(self, reply: Reply, recording: _Recording) -> None:
        self.body: bytes | None = None
        self.usage: Usage | None = None
        self.finished = False
        self.content_events = 0
        self.content_bytes = 0
        self._reply = reply
        self._recording = recording
        self._look()

    async def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Yield the stream's events as they come."""

        def watched(data: bytes) -> bool:
            if take is None or not take(data):
                return False
            self._recording.take(data, streamed=True)
            return True

        try:
            async for chunk in self._reply.chunks(watched):
                self._recording.take(chunk.data, streamed=True)
                self._look()
                yield chunk
        finally:
            self._look()

    async def aclose(self) -> None:
        """Close the stream."""
        try:
            await self._reply.aclose()
        finally:
            self._look()

    def _look(self) -> None:
        """Tell what the stream itself tells."""
        reply = self._reply
        self.usage, self.finished = reply.usage, reply.finished
        self.content_events, self.content_bytes = reply.content_events, reply.content_bytes


def _joined(parts: list[bytes]) -> dict[str, Any] | None:
    joiner, splitter = AnswerJoiner(), EventSplitter()
    try:
        for part in parts:
            for event in splitter.feed(part):
                document = chunk_document(event)
                if document is not None:
                    joiner.add(document)
    except EngineBroken:
        return None
    return joiner.document()


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _is_fit(document: dict[str, Any]) -> bool:
    """Tell whether it is one finished answer of words alone, which can be told whole and as a stream."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict) or choice.get("finish_reason") not in _FINISHES or document.get("error"):
        return False
    message = choice.get("message")
    if not isinstance(message, dict) or any(
        value for name, value in message.items() if name not in _MESSAGE_FIELDS
    ):
        return False
    content = message.get("content")
    return isinstance(content, str) and bool(content)
