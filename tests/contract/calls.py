"""Calls that contract tests make through a transport, and what comes back."""

import json
from dataclasses import dataclass
from typing import Any

from trivet.domain.tiers import Deployment, EngineKind, Tier, TransportKind
from trivet.engines.protocol import CallLimits, EngineCall, Reply, Transport

PATIENT = CallLimits(total_s=60.0, first_content_s=30.0, idle_s=20.0)
"""Never reached on a slow machine."""

LIGHT = Tier(name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0)


def deployment_of(
    url: str | None, model: str, *, engine: EngineKind = "openai", transport: TransportKind = "relay"
) -> Deployment:
    """Return a deployment of one model behind a URL."""
    return Deployment(
        name=f"{engine}/{model}",
        tier=LIGHT,
        engine=engine,
        model=model,
        transport=transport,
        url=url,
        context_tokens=2048,
        slots=4,
        devices=("host",),
    )


def call_for(
    model: str, *, stream: bool = False, limits: CallLimits = PATIENT, text: str = "Hello", **fields: Any
) -> EngineCall:
    """Return a call as execution makes it: output capped, usage asked for in streams."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return EngineCall(body=body, stream=stream, limits=limits, request_id="contract-test")


@dataclass(slots=True)
class Read:
    """A stream that was read to its end."""

    reply: Reply
    events: list[dict[str, Any]]
    usage_only: int
    content_events: int

    @property
    def text(self) -> str:
        """Return what the first choice's deltas say together."""
        choices = [choice for event in self.events for choice in event["choices"] if choice["index"] == 0]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


async def read_whole(transport: Transport, call: EngineCall) -> tuple[Reply, dict[str, Any]]:
    """Return a plain reply and its document."""
    reply = await transport.chat(call)
    await reply.aclose()
    document: dict[str, Any] = json.loads(reply.body or b"null")
    return reply, document


async def read_stream(transport: Transport, call: EngineCall) -> Read:
    """Read a stream to its end.

    Raises:
        EngineError: it failed on the way.
    """
    reply = await transport.chat(call)
    read = Read(reply, [], 0, 0)
    try:
        async for chunk in reply.chunks():
            read.usage_only += chunk.usage_only
            read.content_events += chunk.content_events
            read.events += events_in(chunk.data)
    finally:
        await reply.aclose()
    return read


def events_in(data: bytes) -> list[dict[str, Any]]:
    """Return the documents of whole events."""
    assert data.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n") if event]
