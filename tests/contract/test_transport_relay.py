"""What a transport does in front of a real llama.cpp server."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.contract.calls import call_for, read_stream, read_whole
from tests.contract.conftest import Connect
from trivet.domain.errors import ContextOverflow, EngineIncapable, EngineRejected, EngineUnavailable
from trivet.domain.tiers import TransportKind
from trivet.engines.protocol import Transport

MODEL = "tiny-light"
GREEDY: dict[str, Any] = {"temperature": 0.0}
ENDLESS: dict[str, Any] = {"logit_bias": [[2, -100]]}
"""Never end by itself: token 2 is the tiny models' end of turn."""


@pytest.fixture
def transport(connect: Connect, light_url: str) -> Transport:
    """Give the transport to a shared llama.cpp server with the light model."""
    return connect(light_url, MODEL, engine="llamacpp")


async def test_plain_answer(transport: Transport) -> None:
    """A plain answer arrives whole, with usage and finish."""
    reply, document = await read_whole(transport, call_for(MODEL, **ENDLESS))
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["choices"][0]["message"]["content"]
    assert reply.usage is not None
    assert (reply.usage.completion_tokens, reply.usage.source) == (8, "engine")
    assert reply.usage.prompt_tokens == document["usage"]["prompt_tokens"]
    assert reply.finished


async def test_stream_says_what_plain_says(transport: Transport) -> None:
    """A stream's deltas add up to the plain answer, and its usage is the same."""
    plain, document = await read_whole(transport, call_for(MODEL, **ENDLESS, **GREEDY))
    read = await read_stream(transport, call_for(MODEL, stream=True, **ENDLESS, **GREEDY))
    assert read.text == document["choices"][0]["message"]["content"]
    assert plain.usage is not None
    assert read.reply.usage is not None
    assert read.reply.usage.completion_tokens == plain.usage.completion_tokens
    assert read.reply.finished
    assert read.reply.body is None
    assert 0 < read.content_events <= 8
    assert read.content_events == read.reply.content_events


async def test_usage_comes_alone(transport: Transport) -> None:
    """The usage event of a stream comes once, flagged, so that a caller can strip it."""
    read = await read_stream(transport, call_for(MODEL, stream=True))
    assert read.usage_only == 1
    assert [bool(event["choices"]) for event in read.events].count(False) == 1


async def test_chat_returns_with_content_in_hand(transport: Transport) -> None:
    """When chat() returns a stream, the first content has been read already."""
    reply = await transport.chat(call_for(MODEL, stream=True, **ENDLESS))
    try:
        assert reply.content_events > 0
        assert not reply.finished or reply.content_events == 8
    finally:
        await reply.aclose()


async def test_logprobs(transport: Transport) -> None:
    """Log-probabilities pass through, plain and streamed."""
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 3, **ENDLESS}
    _, document = await read_whole(transport, call_for(MODEL, **fields))
    read = await read_stream(transport, call_for(MODEL, stream=True, **fields))
    plain = document["choices"][0]["logprobs"]["content"]
    streamed = [
        token
        for event in read.events
        for choice in event["choices"]
        for token in (choice.get("logprobs") or {}).get("content") or []
    ]
    assert [len(token["top_logprobs"]) for token in plain] == [2, 2, 2]
    assert [len(token["top_logprobs"]) for token in streamed] == [2, 2, 2]


async def test_json_schema(transport: Transport) -> None:
    """A response format constrains the answer."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    call = call_for(MODEL, response_format=response_format, max_tokens=200)
    _, document = await read_whole(transport, call)
    assert set(json.loads(document["choices"][0]["message"]["content"])) == {"ok"}


async def test_tools_pass(transport: Transport) -> None:
    """Tools reach the engine, which checks them: good ones are taken, malformed ones refused."""
    tool = {
        "type": "function",
        "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
    }
    reply, _ = await read_whole(transport, call_for(MODEL, tools=[tool], tool_choice="auto"))
    assert reply.finished
    with pytest.raises(EngineRejected) as caught:
        await read_whole(transport, call_for(MODEL, tools=[tool], tool_choice="sometimes"))
    assert caught.value.status == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices(transport: Transport, transport_kind: TransportKind, stream: bool) -> None:
    """`n` choices all arrive; LiteLLM, whose streams know only one finish, refuses to stream several."""
    call = call_for(MODEL, stream=stream, n=2, max_tokens=3, **ENDLESS)
    if stream and transport_kind == "litellm":
        with pytest.raises(EngineIncapable):
            await transport.chat(call)
        return
    if not stream:
        _, document = await read_whole(transport, call)
        assert [choice["index"] for choice in document["choices"]] == [0, 1]
        return
    read = await read_stream(transport, call)
    assert {choice["index"] for event in read.events for choice in event["choices"]} == {0, 1}
    assert read.reply.finished
    assert read.reply.usage is not None
    assert read.reply.usage.completion_tokens == 6


async def test_seed(transport: Transport) -> None:
    """The same seed gives the same answer."""
    call = call_for(MODEL, seed=11, max_tokens=20, temperature=1.0, **ENDLESS)
    answers = [(await read_whole(transport, call))[1]["choices"][0]["message"]["content"] for _ in range(3)]
    # The first run fills the prompt cache, which may shift rounding; from then on all is equal.
    assert answers[1] == answers[2]


async def test_stop(transport: Transport) -> None:
    """A stop sequence ends the answer before it appears."""
    call = call_for(MODEL, stop=["e"], max_tokens=200, **ENDLESS)
    _, document = await read_whole(transport, call)
    assert document["choices"][0]["finish_reason"] == "stop"
    assert "e" not in document["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
async def test_context_overflow(transport: Transport, stream: bool) -> None:
    """A prompt beyond the window is ContextOverflow, which a larger window may serve."""
    with pytest.raises(ContextOverflow) as caught:
        await transport.chat(call_for(MODEL, stream=stream, text="x" * 6000))
    assert (caught.value.status, caught.value.retryable) == (400, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_bad_field(transport: Transport, stream: bool) -> None:
    """A field that the engine refuses is EngineRejected with the engine's reason."""
    with pytest.raises(EngineRejected) as caught:
        await transport.chat(call_for(MODEL, stream=stream, response_format={"type": "nonsense"}))
    assert (caught.value.status, caught.value.retryable) == (400, False)
    assert "response_format" in str(caught.value)


async def predicted_tokens(session: aiohttp.ClientSession, url: str) -> int:
    """Return how many tokens a llama.cpp server has generated, once it works on nothing."""
    async with asyncio.timeout(30):
        while True:
            async with session.get(f"{url}/metrics") as response:
                lines = (await response.text()).splitlines()
            values = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
            if float(values["llamacpp:requests_processing"]) == 0:
                return round(float(values["llamacpp:tokens_predicted_total"]))
            await asyncio.sleep(0.02)


async def test_leaving_stops_the_engine(
    connect: Connect, session: aiohttp.ClientSession, heavy_url: str
) -> None:
    """Closing a stream makes the engine stop generating."""
    before = await predicted_tokens(session, heavy_url)
    transport = connect(heavy_url, "tiny-heavy", engine="llamacpp")
    reply = await transport.chat(call_for("tiny-heavy", stream=True, max_tokens=1900, **ENDLESS))
    await reply.aclose()
    assert await predicted_tokens(session, heavy_url) - before < 1500


async def test_nobody_there(connect: Connect) -> None:
    """A refused connection is EngineUnavailable."""
    transport = connect("http://127.0.0.1:9", MODEL, engine="llamacpp")
    with pytest.raises(EngineUnavailable):
        await transport.chat(call_for(MODEL))
