"""What the LiteLLM transport does beyond the contract: Ollama's own protocol, any provider, no steering."""

import asyncio
import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.contract.calls import call_for, deployment_of, read_stream, read_whole
from tests.contract.conftest import StandIn
from tests.contract.test_transport_relay import predicted_tokens
from tests.doubles.scripted import scripted
from trivet.domain.errors import (
    ConfigError,
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineRejected,
    EngineUnavailable,
    StreamIncomplete,
)
from trivet.domain.outcomes import Usage
from trivet.engines.faults import fault_from_body
from trivet.engines.litellm import LiteLLMTransport
from trivet.engines.protocol import CallLimits

MODEL = "tiny"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def transport(ollama: StandIn) -> AsyncIterator[LiteLLMTransport]:
    """Give the transport to the stand-in's light model."""
    transport = LiteLLMTransport(deployment_of(ollama.url, MODEL, engine="ollama"), api_key=None)
    yield transport
    await transport.aclose()


async def test_plain_answer(transport: LiteLLMTransport) -> None:
    """A plain answer has Ollama's counts, an honest finish and the model's own name."""
    reply, document = await read_whole(transport, call_for(MODEL, temperature=0))
    choice = document["choices"][0]
    assert (document["model"], document["object"]) == (MODEL, "chat.completion")
    assert choice["finish_reason"] in ("stop", "length")
    assert reply.usage == Usage(document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"])
    assert (reply.finished, reply.content_events) == (True, 1)


async def test_stream_says_what_plain_says(transport: LiteLLMTransport) -> None:
    """A stream's deltas add up to the plain answer; one usage event comes last, marked."""
    plain, document = await read_whole(transport, call_for(MODEL, temperature=0, seed=1))
    read = await read_stream(transport, call_for(MODEL, stream=True, temperature=0, seed=1))
    assert read.text == document["choices"][0]["message"]["content"]
    assert read.reply.usage == plain.usage
    assert (read.usage_only, read.reply.finished) == (1, True)
    assert [bool(event["choices"]) for event in read.events][-1] is False
    assert {event["model"] for event in read.events} == {MODEL}


async def test_the_window_never_changes(transport: LiteLLMTransport, ollama: StandIn) -> None:
    """Whatever a request asks, num_ctx and keep_alive stay the same, so that Ollama never loads anew."""
    loads = []
    asked: list[dict[str, Any]] = [{"temperature": 0.1}, {"top_p": 0.5}, {"num_ctx": 99, "keep_alive": 0}]
    for fields in asked:
        await read_whole(transport, call_for(MODEL, **fields))
        stats = await ollama.stats()
        loads.append(stats["loads"]["tiny:latest"])
        assert (stats["last_chat"]["options"]["num_ctx"], stats["last_chat"]["keep_alive"]) == (2048, "30m")
    assert loads == [1, 1, 1]


async def test_only_the_chat_is_asked(transport: LiteLLMTransport, ollama: StandIn) -> None:
    """LiteLLM's look-up of unknown models, a blocking request of its own after each answer, never happens."""
    await read_whole(transport, call_for(MODEL))
    await read_stream(transport, call_for(MODEL, stream=True))
    await asyncio.sleep(0.2)
    requests = (await ollama.stats())["requests"]
    assert requests["/api/chat"] >= 2
    assert "/api/show" not in requests


async def test_options_arrive(transport: LiteLLMTransport, ollama: StandIn) -> None:
    """Sampling fields become Ollama's options; the cap becomes num_predict."""
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["zz"],
        "top_k": 5,
        "max_tokens": 3,
    }
    await read_whole(transport, call_for(MODEL, **fields))
    options = (await ollama.stats())["last_chat"]["options"]
    expected = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["zz"], "top_k": 5, "num_predict": 3}
    assert {name: options.get(name) for name in expected} == expected
    assert set(options) == {*expected, "num_ctx"}


async def test_json_schema(transport: LiteLLMTransport) -> None:
    """A response format constrains the answer through Ollama's `format`."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    _, document = await read_whole(
        transport, call_for(MODEL, response_format=response_format, max_tokens=200, temperature=0)
    )
    assert "ok" in json.loads(document["choices"][0]["message"]["content"])


async def test_tools_arrive(transport: LiteLLMTransport, ollama: StandIn) -> None:
    """Tools are passed in Ollama's own way; `tool_choice: none` leaves them out."""
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    await read_whole(transport, call_for(MODEL, tools=[tool], tool_choice="auto"))
    assert (await ollama.stats())["last_chat"]["tools"] == [tool]
    await read_whole(transport, call_for(MODEL, tools=[tool], tool_choice="none"))
    assert "tools" not in (await ollama.stats())["last_chat"]


@pytest.mark.parametrize("stream", [False, True])
async def test_full_queue(transport: LiteLLMTransport, ollama: StandIn, stream: bool) -> None:
    """Ollama's 503 is EngineBusy."""
    await ollama.fail_next(queue_full=1)
    with pytest.raises(EngineBusy) as caught:
        await transport.chat(call_for(MODEL, stream=stream))
    assert caught.value.status == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_absent_model(ollama: StandIn, stream: bool) -> None:
    """A model that is not installed is no fault of the request: another engine may be asked."""
    transport = LiteLLMTransport(deployment_of(ollama.url, "nope", engine="ollama"), api_key=None)
    with pytest.raises(EngineBroken, match="does not serve") as caught:
        await transport.chat(call_for("nope", stream=stream))
    assert caught.value.status == 404
    await transport.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_context_overflow(transport: LiteLLMTransport, stream: bool) -> None:
    """A prompt beyond the window, which Ollama would cut silently, is ContextOverflow."""
    with pytest.raises(ContextOverflow) as caught:
        await transport.chat(call_for(MODEL, stream=stream, text="x" * 6000))
    assert caught.value.status == 400


async def test_no_message_is_dropped(transport: LiteLLMTransport, ollama: StandIn) -> None:
    """A chat that is too long is refused as a whole, although its last message alone would fit."""
    messages = [
        {"role": "user", "content": "x" * 6000},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Hello"},
    ]
    with pytest.raises(ContextOverflow):
        await transport.chat(call_for(MODEL, messages=messages))
    asked = (await ollama.stats())["last_chat"]
    assert (asked["truncate"], asked["shift"]) == (False, False)
    async with ollama.session.post(
        f"{ollama.url}/api/chat", json={"model": MODEL, "messages": messages, "stream": False, "shift": False}
    ) as cut:
        # What would happen without: the stand-in drops messages, as Ollama does.
        assert (cut.status, (await cut.json())["done"]) == (200, True)


async def test_ollamas_own_words_for_an_overflow(ollama: StandIn) -> None:
    """Without shifting Ollama refuses a last message that is too long, which is ContextOverflow."""
    messages = [{"role": "user", "content": "x" * 6000}]
    async with ollama.session.post(
        f"{ollama.url}/api/chat", json={"model": MODEL, "messages": messages, "shift": False}
    ) as refused:
        fault = fault_from_body(refused.status, await refused.read())
    assert type(fault) is ContextOverflow


@pytest.mark.parametrize(("fault", "expected"), [("error_line", EngineBroken), ("cut", StreamIncomplete)])
async def test_broken_streams(
    transport: LiteLLMTransport, ollama: StandIn, fault: str, expected: type[EngineError]
) -> None:
    """An error line and a cut after content are raised from chunks(), after that content."""
    await ollama.fail_next(**{fault: 1})
    reply = await transport.chat(call_for(MODEL, stream=True, seed=1))
    with pytest.raises(EngineError) as caught:
        _ = [chunk async for chunk in reply.chunks()]
    await reply.aclose()
    assert type(caught.value) is expected
    assert (reply.finished, reply.content_events) == (False, 1)


async def test_leaving_stops_ollama(ollama: StandIn, session: aiohttp.ClientSession, heavy_url: str) -> None:
    """Closing a stream closes the connection, and the engine behind it stops generating."""
    transport = LiteLLMTransport(deployment_of(ollama.url, "tiny-heavy", engine="ollama"), api_key=None)
    tokens, aborted = await predicted_tokens(session, heavy_url), (await ollama.stats())["aborted"]
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 900}
    response_format = {"type": "json_schema", "json_schema": {"name": "long", "schema": schema}}
    reply = await transport.chat(
        call_for("tiny-heavy", stream=True, max_tokens=1900, response_format=response_format)
    )
    await reply.aclose()
    await reply.aclose()
    assert await predicted_tokens(session, heavy_url) - tokens < 1500
    await ollama.wait_aborted(aborted)
    await transport.aclose()


@pytest.mark.parametrize("engine", ["ollama", "llamacpp"])
async def test_a_request_cannot_steer_litellm(
    ollama: StandIn, transport: LiteLLMTransport, light_url: str, engine: str
) -> None:
    """Fields that are LiteLLM's own arguments reach neither its address nor its mocks."""
    steering: dict[str, Any] = {
        "mock_response": "hijacked",
        "api_base": "http://127.0.0.1:9",
        "custom_llm_provider": "x",
    }
    asked = transport
    if engine == "llamacpp":
        asked = LiteLLMTransport(deployment_of(light_url, "tiny-light", engine="llamacpp"), api_key=None)
    _, document = await read_whole(
        asked, call_for("tiny-light" if engine == "llamacpp" else MODEL, **steering)
    )
    assert document["choices"][0]["message"]["content"] != "hijacked"
    if asked is not transport:
        await asked.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
async def test_any_provider(light_url: str, provider: str, stream: bool) -> None:
    """Engine `litellm` takes a model string as it is, here to a llama.cpp server."""
    model = f"{provider}/tiny-light"
    deployment = deployment_of(f"{light_url}/v1", model, engine="litellm", transport="litellm")
    transport = LiteLLMTransport(deployment, api_key="some-key")
    if stream:
        reply = (await read_stream(transport, call_for(model, stream=True))).reply
    else:
        reply, document = await read_whole(transport, call_for(model))
        assert document["model"] == model
    assert reply.finished
    assert reply.usage is not None
    await transport.aclose()


async def test_unknown_provider() -> None:
    """A model string without a provider says how to write one."""
    transport = LiteLLMTransport(deployment_of(None, "nobodys-model", engine="litellm"), api_key=None)
    with pytest.raises(EngineBroken, match="provider/model"):
        await transport.chat(call_for("nobodys-model"))
    await transport.aclose()


async def test_field_that_a_provider_does_not_know(ollama: StandIn) -> None:
    """What LiteLLM cannot say to a provider is refused, not dropped."""
    deployment = deployment_of(ollama.url, f"ollama_chat/{MODEL}", engine="litellm")
    transport = LiteLLMTransport(deployment, api_key=None)
    with pytest.raises(EngineIncapable, match="field"):
        await transport.chat(call_for(deployment.model, logit_bias={"5": 1}))
    await transport.aclose()


async def test_a_url_is_needed() -> None:
    """An engine without an address is the configuration's fault."""
    with pytest.raises(ConfigError, match="url"):
        LiteLLMTransport(deployment_of(None, MODEL, engine="ollama"), api_key=None)


async def test_closed_and_used_again(ollama: StandIn) -> None:
    """Closing is idempotent, and a later call opens new connections."""
    transport = LiteLLMTransport(deployment_of(ollama.url, MODEL, engine="ollama"), api_key="key")
    await transport.aclose()
    await read_whole(transport, call_for(MODEL))
    await transport.aclose()
    reply, _ = await read_whole(transport, call_for(MODEL))
    assert reply.finished
    await transport.aclose()


async def test_a_reset_is_not_asked_again() -> None:
    """A connection that is reset after the request was read is dispatched once: it may have been heard."""
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        # Closing with a zero linger sends RST instead of FIN.
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = LiteLLMTransport(deployment_of(url, MODEL, engine="ollama"), api_key=None)
        with pytest.raises(EngineUnavailable):
            await transport.chat(call_for(MODEL))
        await transport.aclose()
    assert requests == 1


async def test_connecting_has_its_own_limit() -> None:
    """A host that does not take connections is noticed after connect_s, not after the deadline."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        transport = LiteLLMTransport(deployment_of(url, MODEL, engine="ollama"), api_key=None)
        with pytest.raises(EngineUnavailable):
            await transport.chat(call_for(MODEL, limits=CallLimits(total_s=60.0, connect_s=0.3)))
        await transport.aclose()


@pytest.mark.parametrize("engine", ["ollama", "openai"])
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_any_length(engine: Any, stream: bool) -> None:
    """LiteLLM sees the beginning of an error: of the whole it would make many copies, and search each."""
    body = b'{"error": {"message": "Out of memory. ' + b"x" * 2_000_000 + b'"}}'
    head = b"HTTP/1.1 500 Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with scripted(head, body) as url:
        transport = LiteLLMTransport(deployment_of(url, MODEL, engine=engine), api_key=None)
        with pytest.raises(EngineBroken, match="Out of memory") as caught:
            await transport.chat(call_for(MODEL, stream=stream))
        await transport.aclose()
    link: BaseException | None = caught.value
    while link is not None:
        assert len(str(link)) < 100_000
        link = link.__cause__ or link.__context__


async def test_silence_after_the_finish() -> None:
    """A stream that has said how it ended, and then neither ends nor closes, is complete."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        deltas: list[tuple[dict[str, Any], str | None]] = [({"content": "one"}, None), ({}, "stop")]
        for delta, finish in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            event = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [choice],
            }
            writer.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await writer.drain()
        await done.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = LiteLLMTransport(deployment_of(url, "m"), api_key=None)
        read = await read_stream(
            transport, call_for("m", stream=True, limits=CallLimits(total_s=30.0, idle_s=0.5))
        )
        done.set()
        await transport.aclose()
    assert (read.text, read.reply.finished, read.reply.usage) == ("one", True, None)
    assert read.events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_no_key_of_the_environment_goes_to_an_engine(light_url: str) -> None:
    """Where a deployment has no key, the operator's OPENAI_API_KEY is not sent in its place."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = LiteLLMTransport(deployment_of(url, "m"), api_key=None)
        with pytest.raises(EngineBroken):
            await transport.chat(call_for("m"))
        await transport.aclose()
    sent = next(line for line in seen[0].split(b"\r\n") if line.lower().startswith(b"authorization"))
    assert sent.lower() == b"authorization: bearer none"


def test_litellm_is_imported_by_the_first_call_only() -> None:
    """Importing the transport and building one costs nothing of LiteLLM."""
    program = "import sys, trivet.engines.litellm, trivet.engines.connect; print('litellm' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


async def test_the_body_is_not_touched(transport: LiteLLMTransport) -> None:
    """LiteLLM works on a copy."""
    call = call_for(MODEL, tools=[{"type": "function", "function": {"name": "now", "parameters": {}}}])
    before = json.dumps(call.body)
    await read_whole(transport, replace(call, request_id="other"))
    assert json.dumps(call.body) == before


UNSAYABLE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "hologram", "hologram": "x"}]},
    {"role": "user", "content": [{"type": "image_url"}]},
    {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
]


@pytest.mark.parametrize("message", UNSAYABLE)
async def test_what_litellm_cannot_say(
    transport: LiteLLMTransport, light_url: str, ollama: StandIn, message: dict[str, Any]
) -> None:
    """A request that LiteLLM stumbles over is the request's fault, not that of an engine never asked."""
    before = (await ollama.stats())["requests"].get("/api/chat", 0)
    to_openai = LiteLLMTransport(deployment_of(light_url, MODEL), api_key=None)
    for way in (transport, to_openai):
        with pytest.raises((EngineIncapable, EngineRejected)):
            await way.chat(call_for(MODEL, messages=[message]))
    assert (await ollama.stats())["requests"].get("/api/chat", 0) == before
    await to_openai.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_ollama_gets_all_or_nothing(transport: LiteLLMTransport, stream: bool) -> None:
    """Content that LiteLLM would leave out of what it sends to Ollama is refused instead."""
    sound = {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is said?"}, sound]}
    with pytest.raises(EngineIncapable, match="input_audio"):
        await transport.chat(call_for(MODEL, stream=stream, messages=[message]))
