"""Both transports against a real vLLM: what it says, refuses, queues and aborts."""

import asyncio

import pytest

from tests.vllm.calls import LONG_TOKENS, ask, read_plain, read_stream, text_of
from tests.vllm.server import QUEUE_LIMIT, VllmServer
from trivet.domain.errors import ContextOverflow, EngineBroken, EngineBusy
from trivet.domain.outcomes import Usage
from trivet.engines.protocol import EngineCall, Transport

ATTEMPTS = 5
"""Whether the queue fills between a request's admission and its start is a race, tried this often at most."""
CROWD_ARRIVES_S = 1.0
"""What a handful of requests take at most to reach a server on this machine."""


async def test_a_plain_answer_arrives_whole_with_its_usage(transport: Transport) -> None:
    """A plain call returns the engine's document and the usage that stands in it."""
    reply, document = await read_plain(transport, ask(max_tokens=12))
    prompt_tokens = document["usage"]["prompt_tokens"]
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["choices"][0]["message"]["content"] != ""
    assert reply.usage == Usage(prompt_tokens=prompt_tokens, completion_tokens=12)
    assert reply.finished


async def test_a_stream_says_what_the_plain_answer_says(transport: Transport) -> None:
    """At temperature 0 the deltas join to the plain answer's text, with the same usage."""
    plain, document = await read_plain(transport, ask(max_tokens=12, temperature=0))
    reply, events = await read_stream(transport, ask(max_tokens=12, temperature=0, stream=True))
    assert text_of(events) == document["choices"][0]["message"]["content"]
    assert reply.usage == plain.usage
    assert reply.finished
    assert 1 <= reply.content_events <= 12


async def test_every_stream_carries_one_usage_event_at_its_end(transport: Transport) -> None:
    """The event without choices comes last, once, and is marked so that it can be left out."""
    reply = await transport.chat(ask(max_tokens=5, stream=True))
    chunks = [chunk async for chunk in reply.chunks()]
    await reply.aclose()
    assert [chunk.usage_only for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_pass_through(transport: Transport, stream: bool) -> None:
    """Each generated token comes with its log-probability and the alternatives asked for."""
    call = ask(max_tokens=6, stream=stream, logprobs=True, top_logprobs=2)
    if stream:
        _, events = await read_stream(transport, call)
    else:
        _, document = await read_plain(transport, call)
        events = [document]
    found = [
        token
        for event in events
        for choice in event["choices"]
        for token in (choice.get("logprobs") or {}).get("content") or []
    ]
    assert [len(token["top_logprobs"]) for token in found] == [2] * 6
    assert all(token["logprob"] < 0 for token in found)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_the_context_is_an_overflow(transport: Transport, stream: bool) -> None:
    """A prompt longer than the context of 256 tokens is told apart from other bad requests."""
    with pytest.raises(ContextOverflow) as refusal:
        await transport.chat(ask("heavy model " * 300, stream=stream))
    assert refusal.value.status == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_is_not_served_is_no_fault_of_the_request(
    transport: Transport, stream: bool
) -> None:
    """Trivet chose the model's name: a model that the engine does not serve lets another engine try."""
    with pytest.raises(EngineBroken) as refusal:
        await transport.chat(ask(model="nope", stream=stream))
    assert (refusal.value.status, refusal.value.retryable) == (404, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_refuses_at_once(
    transport: Transport, vllm_server: VllmServer, stream: bool
) -> None:
    """While as many requests run and wait as the engine accepts, one more is refused as busy."""
    with vllm_server.paused():
        crowd = [
            asyncio.create_task(answered(transport, ask(max_tokens=5, stream=True)))
            for _ in range(QUEUE_LIMIT)
        ]
        await asyncio.sleep(CROWD_ARRIVES_S)
        with pytest.raises(EngineBusy) as refusal:
            await transport.chat(ask(max_tokens=5, stream=stream))
    assert refusal.value.status == 503
    assert await asyncio.gather(*crowd) == [True] * QUEUE_LIMIT


async def test_a_full_queue_inside_a_successful_stream_is_busy_too(
    transport: Transport, vllm_server: VllmServer
) -> None:
    """Requests that arrive in one instant are refused by an event in a stream with status 200: still busy."""
    burst = 2 * QUEUE_LIMIT
    for _ in range(ATTEMPTS):
        await asyncio.to_thread(vllm_server.wait_idle)
        before = await asyncio.to_thread(refusals, vllm_server)
        with vllm_server.frozen():
            calls = [
                asyncio.create_task(answered(transport, ask(max_tokens=40, stream=True)))
                for _ in range(burst)
            ]
            await asyncio.sleep(CROWD_ARRIVES_S)
        outcomes = await asyncio.gather(*calls)
        after = await asyncio.to_thread(refusals, vllm_server)
        counted, with_status = (late - early for late, early in zip(after, before, strict=True))
        assert outcomes.count(False) == counted
        if counted > with_status:
            return
    pytest.fail(f"no refusal came inside a stream in {ATTEMPTS} attempts")


async def test_leaving_a_stream_stops_generation(transport: Transport, vllm_server: VllmServer) -> None:
    """A reply that is closed after its first chunk is aborted: left alone, each would run to its cap."""
    before = await generated(vllm_server)
    for _ in range(ATTEMPTS):
        reply = await transport.chat(ask(max_tokens=LONG_TOKENS, stream=True))
        await anext(reply.chunks())
        await reply.aclose()
    assert await generated(vllm_server) - before < ATTEMPTS * LONG_TOKENS


async def test_cancelling_a_plain_call_stops_generation(
    transport: Transport, vllm_server: VllmServer
) -> None:
    """A caller that goes away before the first byte leaves no work behind at the engine."""
    before = await generated(vllm_server)
    with vllm_server.paused():
        call = asyncio.create_task(transport.chat(ask(max_tokens=LONG_TOKENS, n=4)))
        await asyncio.sleep(CROWD_ARRIVES_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(CROWD_ARRIVES_S)
    assert await generated(vllm_server) - before < 4 * LONG_TOKENS


async def answered(transport: Transport, call: EngineCall) -> bool:
    """Read an answer to its end; return False when the engine was busy instead."""
    try:
        await (read_stream if call.stream else read_plain)(transport, call)
    except EngineBusy:
        return False
    return True


def refusals(server: VllmServer) -> tuple[float, float]:
    """Return how many requests a full queue refused, and how many answers carried an error status."""
    return (
        server.counter("vllm:admission_rejections_total"),
        server.counter("http_requests_total", status="5xx"),
    )


async def generated(server: VllmServer) -> float:
    """Return how many tokens the engine has generated, once it is idle."""
    await asyncio.to_thread(server.wait_idle)
    return await asyncio.to_thread(server.counter, "vllm:generation_tokens_total")
