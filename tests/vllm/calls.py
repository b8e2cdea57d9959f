"""What the tests of this directory ask an engine, and how they read what it streams."""

import json
from typing import Any

from tests.vllm.server import MODEL, VllmServer
from trivet.domain.tiers import HOST_DEVICE, Deployment, Tier, TransportKind
from trivet.engines.protocol import CallLimits, EngineCall, Reply, Transport

LIMITS = CallLimits(total_s=60.0, first_content_s=30.0, idle_s=10.0)
LONG_TOKENS = 220
"""Length of an answer that takes vLLM some tenths of a second and fits a context of 256 tokens."""


def deployment(server: VllmServer, transport: TransportKind) -> Deployment:
    """Return the deployment that stands for a server's model, reached by one of the two transports."""
    return Deployment(
        name=f"vllm/{server.model}",
        tier=Tier(name="heavy", order=0, cost_weight=10.0, complexity_low=0.0, complexity_high=1.0),
        engine="vllm",
        model=server.model,
        transport=transport,
        url=server.url,
        context_tokens=server.context_tokens,
        slots=4,
        devices=(HOST_DEVICE,),
    )


def ask(
    prompt: str = "hi", *, max_tokens: int = 12, stream: bool = False, model: str = MODEL, **fields: Any
) -> EngineCall:
    """Return a call with one user message; `fields` go into the body."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        **fields,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return EngineCall(body=body, stream=stream, limits=LIMITS, request_id="test")


async def read_plain(transport: Transport, call: EngineCall) -> tuple[Reply, dict[str, Any]]:
    """Return a plain reply, closed, and its document."""
    reply = await transport.chat(call)
    await reply.aclose()
    document: dict[str, Any] = json.loads(reply.body or b"null")
    return reply, document


async def read_stream(transport: Transport, call: EngineCall) -> tuple[Reply, list[dict[str, Any]]]:
    """Return a streamed reply, read to its end and closed, and its events."""
    reply = await transport.chat(call)
    try:
        data = b"".join([chunk.data async for chunk in reply.chunks()])
    finally:
        await reply.aclose()
    lines = [line.removeprefix(b"data:") for line in data.splitlines() if line.startswith(b"data:")]
    return reply, [json.loads(line) for line in lines]


def text_of(events: list[dict[str, Any]]) -> str:
    """Return the text that a stream's deltas make."""
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
