"""The relay at its edges: answers that are odd, yet right or wrong in one definite way."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.contract.calls import call_for, read_stream, read_whole
from tests.doubles.scripted import STREAM_HEAD, plain_answer, scripted
from trivet.domain.errors import (
    ConfigError,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    StreamIncomplete,
)
from trivet.domain.outcomes import Usage
from trivet.engines.protocol import CallLimits
from trivet.engines.relay import Relay


def event(*choices: tuple[int, dict[str, Any], str | None], usage: Any = None) -> bytes:
    """Return one event with the choices (index, delta, finish reason)."""
    document: dict[str, Any] = {
        "choices": [{"index": index, "delta": delta, "finish_reason": end} for index, delta, end in choices]
    }
    if usage is not None:
        document["usage"] = usage
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


ROLE = event((0, {"role": "assistant", "content": ""}, None))
WORD = event((0, {"content": "a"}, None))
STOP = event((0, {}, "stop"))
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2}


async def stream_of(session: aiohttp.ClientSession, *events: bytes, **fields: Any) -> tuple[bytes, Any]:
    """Return the bytes that a stream of these events is relayed as, and the reply."""
    async with scripted(STREAM_HEAD, *events) as url:
        reply = await Relay(url, session=session).chat(call_for("m", stream=True, **fields))
        data = b"".join([chunk.data async for chunk in reply.chunks()])
        await reply.aclose()
        return data, reply


async def test_bytes_are_untouched(session: aiohttp.ClientSession) -> None:
    """Role frame first, then everything byte for byte; only [DONE] is kept back."""
    spaced = b'data:  {"choices": [ {"index": 0, "delta": {"content": "b"}, "finish_reason": null} ]}\r\n\r\n'
    usage = event(usage=USAGE)
    data, reply = await stream_of(session, ROLE, WORD, spaced, STOP, usage, DONE)
    assert data == ROLE + WORD + spaced + STOP + usage
    assert (reply.finished, reply.usage, reply.content_events) == (True, Usage(5, 2), 2)


async def test_comments_are_dropped(session: aiohttp.ClientSession) -> None:
    """Keep-alives are for the connection that they come on."""
    data, _ = await stream_of(session, b": ping\n\n", ROLE, b": ping\n\n", WORD, b": ping\n\n", STOP, DONE)
    assert data == ROLE + WORD + STOP


async def test_a_finish_without_done_is_an_end(session: aiohttp.ClientSession) -> None:
    """A stream that closes after its finish reason is whole, even without [DONE] or a last blank line."""
    data, reply = await stream_of(session, ROLE, WORD, STOP[:-2])
    assert (data, reply.finished) == (ROLE + WORD + STOP, True)


async def test_nothing_after_done_counts(session: aiohttp.ClientSession) -> None:
    """What follows [DONE] is ignored."""
    data, _ = await stream_of(session, WORD + STOP + DONE + WORD)
    assert data == WORD + STOP


@pytest.mark.parametrize("tail", [b"", DONE, WORD[:20]], ids=["end", "done", "half an event"])
async def test_no_finish_is_incomplete(session: aiohttp.ClientSession, tail: bytes) -> None:
    """A stream that ends without a finish reason is no answer, whatever it ends with."""
    with pytest.raises(StreamIncomplete):
        await stream_of(session, ROLE, WORD, tail)


@pytest.mark.parametrize("events", [(), (ROLE,), (ROLE, DONE)])
async def test_no_content_and_no_finish_is_raised_before(
    session: aiohttp.ClientSession, events: tuple[bytes, ...]
) -> None:
    """If nothing was generated the error comes from chat(), so that another engine may be tried."""
    async with scripted(STREAM_HEAD, *events) as url:
        with pytest.raises(StreamIncomplete):
            await Relay(url, session=session).chat(call_for("m", stream=True))


async def test_content_before_an_error_in_the_same_read(session: aiohttp.ClientSession) -> None:
    """Content that arrives together with an error is passed on first."""
    broken = WORD + b'data: {"error":{"message":"full","code":503}}\n\n'
    async with scripted(STREAM_HEAD + broken) as url:
        reply = await Relay(url, session=session).chat(call_for("m", stream=True))
        chunks = reply.chunks()
        assert (await anext(chunks)).data == WORD
        with pytest.raises(EngineBusy):
            await anext(chunks)


async def test_several_choices_must_all_end(session: aiohttp.ClientSession) -> None:
    """With n = 2 a stream is whole only when both choices have ended."""
    both = event((0, {"content": "a"}, None), (1, {"content": "b"}, None))
    with pytest.raises(StreamIncomplete):
        await stream_of(session, both, event((1, {}, "stop")), n=2)
    _, reply = await stream_of(session, both, event((1, {}, "stop")), event((0, {}, "stop")), n=2)
    assert reply.finished


async def test_engine_that_ignores_n(session: aiohttp.ClientSession) -> None:
    """An engine that sends one choice instead of two has answered once its stream ends well."""
    _, reply = await stream_of(session, WORD, STOP, DONE, n=2)
    assert reply.finished


async def test_usage_per_choice_is_added_up(session: aiohttp.ClientSession) -> None:
    """llama.cpp reports usage once per choice; together they are the request's."""
    finals = (event(usage=USAGE), event(usage=USAGE))
    ends = (event((1, {}, "stop")), STOP)
    _, reply = await stream_of(session, WORD, event((1, {"content": "b"}, None)), *ends, *finals, DONE, n=2)
    assert reply.usage == Usage(5, 4)


async def test_usage_on_the_last_choice_chunk(session: aiohttp.ClientSession) -> None:
    """Usage that rides on a chunk with choices is read, and the chunk is not flagged as usage alone."""
    last = event((0, {"content": "z"}, "stop"), usage=USAGE)
    async with scripted(STREAM_HEAD, WORD, last, DONE) as url:
        read = await read_stream(Relay(url, session=session), call_for("m", stream=True))
    assert (read.usage_only, read.reply.usage, read.content_events) == (0, Usage(5, 2), 2)


async def test_finish_then_silence(session: aiohttp.ClientSession) -> None:
    """A complete answer ends although the engine neither sends [DONE] nor closes."""
    async with scripted(STREAM_HEAD, WORD, STOP, then_hold=True) as url:
        limits = CallLimits(total_s=0.5)
        read = await read_stream(Relay(url, session=session), call_for("m", stream=True, limits=limits))
    assert read.reply.finished


async def test_comments_do_not_hide_silence(session: aiohttp.ClientSession) -> None:
    """A stream that only pings is silent."""
    pings = [b": ping\n\n"] * 100
    limits = CallLimits(total_s=30.0, idle_s=0.3)
    async with scripted(STREAM_HEAD, WORD, *pings, pause_s=0.02, then_hold=True) as url:
        reply = await Relay(url, session=session).chat(call_for("m", stream=True, limits=limits))
        with pytest.raises(EngineTimeout, match="silent"):
            _ = [chunk async for chunk in reply.chunks()]


async def test_endless_role_frames(session: aiohttp.ClientSession) -> None:
    """Frames without content are not held back without bound."""
    flood = ROLE * 20_000
    async with scripted(STREAM_HEAD, flood, then_hold=True) as url:
        with pytest.raises(EngineBroken, match="without end"):
            await Relay(url, session=session).chat(call_for("m", stream=True))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (plain_answer(b'{"error":{"message":"full","code":503}}'), EngineBusy),
        (plain_answer(b'{"choices":[{"index":0}]}'), EngineBroken),
        (plain_answer(b"<html>", kind="text/html"), EngineBroken),
        (plain_answer(b"[]"), EngineBroken),
        (b"SSH-2.0-OpenSSH_9.2\r\n", EngineBroken),
    ],
)
async def test_stream_answered_otherwise(
    session: aiohttp.ClientSession, answer: bytes, expected: type[EngineError]
) -> None:
    """A 200 that is no event stream is told as what it is."""
    async with scripted(answer) as url:
        with pytest.raises(EngineError) as caught:
            await Relay(url, session=session).chat(call_for("m", stream=True))
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"full","code":503}}', EngineBusy),
        (b'{"choices":[]}', EngineBroken),
        (b'{"choices":[1]}', EngineBroken),
        (b"[]", EngineBroken),
        (b"<html>", EngineBroken),
        (b"[" * 100_000, EngineBroken),
        (b'{"choices":' + b" " * (33 * 1024 * 1024), EngineBroken),
    ],
    ids=["error", "empty", "numbers", "list", "html", "deep", "large"],
)
async def test_plain_answers_that_are_none(
    session: aiohttp.ClientSession, body: bytes, expected: type[EngineError]
) -> None:
    """A plain 200 that is no chat completion is an error."""
    async with scripted(plain_answer(body)) as url:
        with pytest.raises(EngineError) as caught:
            await Relay(url, session=session).chat(call_for("m"))
    assert type(caught.value) is expected


async def test_plain_bytes_are_untouched(session: aiohttp.ClientSession) -> None:
    """A plain answer's body is the engine's, byte for byte, and iterating it yields nothing."""
    body = b'{ "choices": [ {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"} ] }'
    async with scripted(plain_answer(body)) as url:
        reply, _ = await read_whole(Relay(url, session=session), call_for("m"))
    assert reply.body == body
    assert (reply.finished, reply.content_events, reply.usage) == (True, 1, None)
    assert [chunk async for chunk in reply.chunks()] == []


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_what_goes_upstream(session: aiohttp.ClientSession, suffix: str) -> None:
    """The path has one /v1, the key is the deployment's, the call's body is sent and left as it was."""
    heads: list[str] = []
    bodies: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        heads.append(head)
        bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(plain_answer(b'{"choices":[{"message":{},"finish_reason":"stop"}]}'))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{suffix}"
        call = call_for("m", text="h\u00e9llo \U0001f600")
        before = json.dumps(call.body)
        await read_whole(Relay(url, session=session, api_key="secret"), call)
    head = heads[0].lower()
    assert head.startswith("post /v1/chat/completions http/1.1\r\n")
    assert "authorization: bearer secret\r\n" in head
    assert "x-request-id: contract-test\r\n" in head
    assert "cookie" not in head
    assert bodies[0] == call.body
    assert json.dumps(call.body) == before


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/", "http://", "http://host:port"])
async def test_bad_urls(session: aiohttp.ClientSession, url: str) -> None:
    """A URL that cannot be asked is refused when the relay is made."""
    with pytest.raises(ConfigError):
        Relay(url, session=session)


async def test_host_that_does_not_exist(session: aiohttp.ClientSession) -> None:
    """A name that cannot be resolved is EngineUnavailable."""
    with pytest.raises(EngineUnavailable):
        await Relay("http://engine.invalid:1", session=session).chat(call_for("m"))
