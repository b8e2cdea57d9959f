"""The one protocol that every transport speaks.

A transport takes an EngineCall and either raises an EngineError *before anybody has seen any content*, or
returns a Reply. A streamed Reply is returned only once the first content event has been read: role-only
frames are held back and an error inside a 200 stream (vLLM's full queue) is raised as the error it is.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from trivet.domain.engine_states import EngineState
from trivet.domain.outcomes import Usage
from trivet.domain.surfaces import Surface
from trivet.domain.values import value

_READY = EngineState.READY


@value()
class CallLimits:
    """Time limits of one attempt, in seconds. `total_s` is what is left of the request's one deadline."""

    total_s: float
    connect_s: float = 5.0
    first_content_s: float = 120.0
    idle_s: float = 30.0


@value()
class EngineCall:
    """One request as it goes to one engine."""

    body: dict[str, Any]
    """A body in the surface's own shape: `model` is the engine's own name, the output cap is set, and for a
    stream that has them `stream_options.include_usage` is true. Never mutated by a transport."""
    stream: bool
    limits: CallLimits
    request_id: str
    surface: Surface = Surface.CHAT


@value()
class StreamChunk:
    """Bytes of whole SSE events, ready to be sent, blank line included."""

    data: bytes
    content_events: int = 1
    """Events in it that carry generated content: a lower bound on tokens when no usage arrives."""
    usage_only: bool = False
    """True for the `choices: []` event that only carries usage: stripped if the caller did not ask."""


Take = Callable[[bytes], bool]
"""Takes whole SSE events at once, as they arrive; False: it cannot take them now."""


class Reply(Protocol):
    """An engine's answer, being read.

    Plain: `body` is the whole JSON document, and nothing is left to close. Streamed: iterate `chunks()` once,
    and call `aclose()`, which before the end cancels the work upstream. In both cases `usage` and `finished`
    are valid when reading has ended. `chunks()` never yields the event that only ends a stream
    (`data: [DONE]`, Anthropic's `message_stop`): the caller sends it after `finished`. A stream that ends
    without a finish reason raises StreamIncomplete from `chunks()`; other EngineErrors mid-stream are raised
    there too.
    """

    @property
    def body(self) -> bytes | None:
        """Return the whole answer; None for a stream."""
        ...

    @property
    def usage(self) -> Usage | None:
        """Return what the engine reported, of whatever plausibility; None while or where it did not."""
        ...

    @property
    def finished(self) -> bool:
        """Tell whether the answer is complete."""
        ...

    @property
    def content_events(self) -> int:
        """Return the content events read so far."""
        ...

    @property
    def content_bytes(self) -> int:
        """Return the bytes of the content read so far, escapes included: a ceiling on its tokens."""
        ...

    def chunks(self, take: Take | None = None) -> AsyncIterator[StreamChunk]:
        """Yield the stream's events in order.

        `take` may be offered events that are text alone, as they arrive: what it takes is not yielded.
        """
        ...

    async def aclose(self) -> None:
        """Release the connection; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that an engine says it serves."""

    name: str
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """What a cheap probe found: `ready`, `loading`, `down`, with a sentence for the operator."""

    state: EngineState
    detail: str = ""
    models: tuple[ServedModel, ...] = ()
    broken: bool = False
    """The server itself says that its engine has died and will not come back."""
    model_missing: bool = False
    """The server answers, but does not have the model."""

    @property
    def ready(self) -> bool:
        """Tell whether requests may be sent."""
        return self.state is _READY


class Transport(Protocol):
    """The way to one endpoint."""

    async def chat(self, call: EngineCall) -> Reply:
        """Dispatch a request, of whatever surface.

        Raises:
            EngineError: nothing was generated that the caller could have seen; see `domain.errors`.
        """
        ...

    async def aclose(self) -> None:
        """Close pooled connections."""
        ...
