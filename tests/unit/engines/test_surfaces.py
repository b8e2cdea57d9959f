"""The surfaces beside chat at their edges: what a stream's events say, and how its end is told."""

import json
from typing import Any

import aiohttp
import pytest

from tests.contract.calls import PATIENT
from tests.doubles.scripted import STREAM_HEAD, plain_answer, scripted
from trivet.domain.errors import EngineBroken, EngineBusy, EngineError, EngineIncapable, StreamIncomplete
from trivet.domain.outcomes import Usage
from trivet.domain.surfaces import Surface
from trivet.engines.messages_wire import message_usage
from trivet.engines.protocol import EngineCall, Reply
from trivet.engines.relay import Relay


def named(name: str, **fields: Any) -> bytes:
    """Return an event with its name and type."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def tight(name: str, **fields: Any) -> bytes:
    """Return the same as compactly as some servers write it."""
    text = json.dumps({"type": name, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()


PROMPT = {"input_tokens": 3, "cache_read_input_tokens": 4}
START = named("message_start", message={"role": "assistant", "content": [], "usage": PROMPT})
TEXT = tight("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"})
END = named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = named("message_stop")
OVERLOADED = named("error", error={"type": "overloaded_error", "message": "Overloaded"})

CREATED = named("response.created", response={"id": "r"})
DELTA = tight("response.output_text.delta", delta="hi")
USED = {"input_tokens": 7, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
COMPLETED = named("response.completed", response={"id": "r", "status": "completed", "usage": USED})
FAILED = named("response.failed", response={"error": {"code": "server_error", "message": "broke"}})

WORD = b'data: {"choices":[{"index":0,"text":"hi","finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
COUNTS = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
NULL, DONE = b"data: null\n\n", b"data: [DONE]\n\n"

WHOLE: list[tuple[Surface, list[bytes], bytes, Usage]] = [
    (Surface.MESSAGES, [START, TEXT, END, STOP], START + TEXT + END, Usage(7, 2, cached_tokens=4)),
    (
        Surface.RESPONSES,
        [CREATED, DELTA, COMPLETED, DONE],
        CREATED + DELTA + COMPLETED,
        Usage(7, 2, cached_tokens=4),
    ),
    (Surface.COMPLETIONS, [NULL, WORD, LAST, COUNTS, DONE], WORD + LAST + COUNTS, Usage(7, 2)),
]
CUT: list[tuple[Surface, list[bytes], type[EngineError]]] = [
    (Surface.MESSAGES, [START, TEXT], StreamIncomplete),
    (Surface.MESSAGES, [START, TEXT, STOP], StreamIncomplete),
    (Surface.MESSAGES, [START, TEXT, OVERLOADED], EngineBusy),
    (Surface.RESPONSES, [CREATED, DELTA], StreamIncomplete),
    (Surface.RESPONSES, [CREATED, DELTA, DONE], StreamIncomplete),
    (Surface.RESPONSES, [CREATED, DELTA, FAILED], EngineBroken),
    (Surface.COMPLETIONS, [WORD, DONE], StreamIncomplete),
    (Surface.COMPLETIONS, [WORD, b'data: {"error":{"message":"x","code":503}}\n\n'], EngineBusy),
    (Surface.MESSAGES, [START, TEXT, b"data: nonsense\n\n"], EngineBroken),
    (Surface.RESPONSES, [DELTA, b'data: {"no":"type"}\n\n'], EngineBroken),
]


def call(surface: Surface, *, stream: bool = False, **body: Any) -> EngineCall:
    """Return a call on a surface."""
    return EngineCall(body=body, stream=stream, limits=PATIENT, request_id="t", surface=surface)


async def relayed(
    session: aiohttp.ClientSession, surface: Surface, events: list[bytes]
) -> tuple[bytes, Reply]:
    """Return what a stream of these events is relayed as."""
    async with scripted(STREAM_HEAD, *events) as url:
        reply = await Relay(url, session=session).chat(call(surface, stream=True))
        return b"".join([chunk.data async for chunk in reply.chunks()]), reply


@pytest.mark.parametrize(("surface", "events", "shown", "usage"), WHOLE)
async def test_a_whole_stream(
    session: aiohttp.ClientSession, surface: Surface, events: list[bytes], shown: bytes, usage: Usage
) -> None:
    """Bytes are untouched but for the last event that says nothing; usage is read in the surface's shape."""
    data, reply = await relayed(session, surface, events)
    assert data == shown
    assert (reply.finished, reply.usage, reply.content_events, reply.content_bytes) == (True, usage, 1, 2)


@pytest.mark.parametrize(("surface", "events", "error"), CUT)
async def test_a_cut_stream_never_ends_well(
    session: aiohttp.ClientSession, surface: Surface, events: list[bytes], error: type[EngineError]
) -> None:
    """Whatever is missing or said in its place is raised, after what came before it."""
    with pytest.raises(error):
        await relayed(session, surface, events)


@pytest.mark.parametrize("surface", [Surface.MESSAGES, Surface.RESPONSES, Surface.COMPLETIONS])
async def test_nothing_is_committed_before_content(session: aiohttp.ClientSession, surface: Surface) -> None:
    """What breaks before the first content is raised before anything is relayed."""
    first = {Surface.MESSAGES: START, Surface.RESPONSES: CREATED, Surface.COMPLETIONS: NULL}[surface]
    async with scripted(STREAM_HEAD, first) as url:
        with pytest.raises(StreamIncomplete):
            await Relay(url, session=session).chat(call(surface, stream=True))


@pytest.mark.parametrize(
    ("surface", "body"),
    [
        (Surface.MESSAGES, b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}'),
        (Surface.RESPONSES, b'{"status":"failed","output":[],"error":{"code":503,"message":"x"}}'),
        (Surface.COMPLETIONS, b'{"error":{"code":503,"message":"x"}}'),
        (Surface.EMBEDDINGS, b'{"error":{"code":503,"message":"x"}}'),
    ],
)
async def test_an_error_inside_a_200(session: aiohttp.ClientSession, surface: Surface, body: bytes) -> None:
    """It is the error that it says, not an answer."""
    async with scripted(plain_answer(body)) as url:
        with pytest.raises(EngineBusy):
            await Relay(url, session=session).chat(call(surface))


@pytest.mark.parametrize("surface", Surface)
async def test_another_document_is_no_answer(session: aiohttp.ClientSession, surface: Surface) -> None:
    """JSON that is none of the surface's is a broken engine."""
    async with scripted(plain_answer(b'{"hello":"world"}')) as url:
        with pytest.raises(EngineBroken):
            await Relay(url, session=session).chat(call(surface, prompt="a"))


@pytest.mark.parametrize("status", ["404 Not Found", "501 Not Implemented"])
async def test_a_missing_path_is_no_broken_engine(session: aiohttp.ClientSession, status: str) -> None:
    """An engine without embeddings may do well otherwise."""
    async with scripted(plain_answer(b'{"error":{"message":"x"}}', status=status)) as url:
        with pytest.raises(EngineIncapable):
            await Relay(url, session=session).chat(call(Surface.EMBEDDINGS))


@pytest.mark.parametrize("usage", [None, [], {"input_tokens": "3", "output_tokens": 1}, {"output_tokens": 1}])
def test_senseless_usage_is_none(usage: Any) -> None:
    """What cannot be a count of tokens is not taken for one."""
    assert message_usage(usage) is None
