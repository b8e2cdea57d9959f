"""Responses and messages to an engine that speaks chat completions only: what is asked, and what is told."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import anthropic.types
import openai.types.responses
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.calls import PATIENT
from tests.unit.routing.parts import UNTIMED
from trivet.domain.errors import EngineBusy, EngineError, EngineIncapable, RequestMalformed, StreamIncomplete
from trivet.domain.outcomes import Usage
from trivet.domain.surfaces import Surface
from trivet.engines.messages_as_chat import chat_of_messages
from trivet.engines.protocol import EngineCall, Reply
from trivet.engines.relay import Relay
from trivet.engines.responses_as_chat import chat_of_responses
from trivet.routing import describe, parse_request
from trivet.routing.features import prompt_ceiling_tokens

PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Oslo"}'}}


@dataclass(slots=True)
class ChatOnly:
    """A server with one route: what it was asked, and what it says."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    deltas: list[tuple[dict[str, Any], str | None]] = field(default_factory=list)
    cut: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer the one route; others do not exist."""
        self.asked.append(request.path)
        if request.path != "/v1/chat/completions":
            return web.json_response({"error": {"message": "Not Found"}}, status=404)
        body = await request.json()
        self.bodies.append(body)
        if not body.get("stream"):
            message = {"role": "assistant", **self.deltas[0][0]}
            choice = {"index": 0, "message": message, "finish_reason": self.deltas[0][1]}
            return web.json_response({"model": "m", "choices": [choice], "usage": USAGE})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for delta, finish in self.deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await response.write(f"data: {json.dumps({'model': 'm', 'choices': [choice]})}\n\n".encode())
        if not self.cut:
            await response.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def engine() -> AsyncIterator[ChatOnly]:
    """A server that speaks chat completions only."""
    told = ChatOnly()
    application = web.Application()
    application.router.add_post("/{path:.*}", told.answer)
    async with TestServer(application) as server:
        told.url = str(server.make_url("/")).rstrip("/")
        yield told


def call(surface: Surface, *, stream: bool = False, **fields: Any) -> EngineCall:
    """Return a call as execution makes it: output capped."""
    talk = {"input": "Hello", "max_output_tokens": 8}
    if surface is Surface.MESSAGES:
        talk = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    body = {"model": "m", "stream": stream, **talk, **fields}
    return EngineCall(body=body, stream=stream, limits=PATIENT, request_id="r", surface=surface)


async def told_by(relay: Relay, wanted: EngineCall) -> tuple[list[dict[str, Any]], Reply]:
    """Return the events of a stream; each is named as its type says."""
    reply = await relay.chat(wanted)
    text = b"".join([chunk.data async for chunk in reply.chunks()]).decode()
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events, reply


def test_a_conversation_with_tools_and_pictures_is_said() -> None:
    """Every part of it has its place in a chat completion."""
    body = {
        "max_tokens": 8,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look"}, PICTURE]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "I ask."},
                    {"type": "tool_use", "id": "c1", "name": "get", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "5"}]},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [{"name": "get", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["x"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "seed": 3,
    }
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    function = {"name": "get", "description": "d", "parameters": {"type": "object"}}
    assert chat_of_messages(body) == {
        "max_tokens": 8,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look"}, image]},
            {
                "role": "assistant",
                "content": "I ask.",
                "tool_calls": [CALL | {"function": {"name": "get", "arguments": '{"city": "Oslo"}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "5"},
            {"role": "user", "content": "So?"},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stop": ["x"],
        "seed": 3,
    }


def test_items_of_a_response_are_said() -> None:
    """Calls that follow one another become one message; developers speak as the system does."""
    body = {
        "max_output_tokens": 8,
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Obey."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "get", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "get", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "5"},
        ],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        "tools": [{"type": "function", "name": "get", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "get"},
        "store": False,
    }
    said = chat_of_responses(body)
    assert [message["role"] for message in said["messages"]] == [
        "system",
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert [each["id"] for each in said["messages"][3]["tool_calls"]] == ["c1", "c2"]
    assert said["max_tokens"] == 8
    assert said["response_format"]["json_schema"] == {"name": "n", "schema": {}, "strict": True}
    assert said["tool_choice"] == {"type": "function", "function": {"name": "get"}}
    assert {"store", "input", "text", "max_output_tokens"} & set(said) == set()


@pytest.mark.parametrize(
    ("surface", "fields"),
    [
        (Surface.RESPONSES, {"tools": [{"type": "custom", "name": "c"}]}),
        (Surface.RESPONSES, {"tool_choice": {"type": "allowed_tools"}}),
        (Surface.RESPONSES, {"top_logprobs": 2}),
        (Surface.RESPONSES, {"input": [{"type": "computer_call"}]}),
        (
            Surface.MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text"}}]}]},
        ),
        (Surface.MESSAGES, {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]}),
    ],
)
async def test_what_cannot_be_said_is_no_silence(
    engine: ChatOnly, session: aiohttp.ClientSession, surface: Surface, fields: dict[str, Any]
) -> None:
    """The engine is incapable of it, so that another candidate is tried."""
    with pytest.raises(EngineIncapable):
        await Relay(engine.url, session=session).chat(call(surface, **fields))


async def test_a_whole_answer(engine: ChatOnly, session: aiohttp.ClientSession) -> None:
    """Thoughts, words and calls come back as the protocols' own types; the engine's usage is believed."""
    said = {"reasoning_content": "hm", "content": "I ask.", "tool_calls": [CALL]}
    engine.deltas = [(said, "tool_calls")]
    relay = Relay(engine.url, session=session)
    reply = await relay.chat(call(Surface.MESSAGES))
    message = anthropic.types.Message.model_validate_json(reply.body or b"")
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "tool_use",
        7,
        4,
    )
    assert (reply.usage, reply.finished) == (Usage(9, 4, cached_tokens=2), True)
    reply = await relay.chat(call(Surface.RESPONSES))
    response = openai.types.responses.Response.model_validate_json(reply.body or b"")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert (response.output_text, response.status) == ("I ask.", "completed")
    assert response.usage is not None
    assert response.usage.total_tokens == 13


async def test_a_cap_that_was_reached_is_told(engine: ChatOnly, session: aiohttp.ClientSession) -> None:
    """`length` is `max_tokens` to the one and incomplete to the other."""
    engine.deltas = [({"content": "a"}, "length")]
    relay = Relay(engine.url, session=session)
    message = json.loads((await relay.chat(call(Surface.MESSAGES))).body or b"")
    response = json.loads((await relay.chat(call(Surface.RESPONSES))).body or b"")
    assert message["stop_reason"] == "max_tokens"
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    events, _ = await told_by(relay, call(Surface.RESPONSES, stream=True))
    assert events[-1]["type"] == "response.incomplete"


STREAM: list[tuple[dict[str, Any], str | None]] = [
    ({"role": "assistant", "content": ""}, None),
    ({"reasoning_content": "hm"}, None),
    ({"content": "I "}, None),
    ({"content": "ask."}, None),
    ({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "get", "arguments": '{"city"'}}]}, None),
    ({"tool_calls": [{"index": 0, "function": {"arguments": ':"Oslo"}'}}]}, None),
    ({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "get", "arguments": "{}"}}]}, None),
    ({}, "tool_calls"),
]


async def test_a_stream_of_messages(engine: ChatOnly, session: aiohttp.ClientSession) -> None:
    """Blocks begin, grow and stop, in order and each once; the usage comes with the reason to stop."""
    engine.deltas = STREAM
    events, reply = await told_by(Relay(engine.url, session=session), call(Surface.MESSAGES, stream=True))
    assert [event["type"] for event in events][:2] == ["message_start", "content_block_start"]
    started = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert started == ["thinking", "text", "tool_use", "tool_use"]
    stopped = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stopped == [0, 1, 2, 3]
    pieces = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(piece.get("text", "") for piece in pieces) == "I ask."
    assert "".join(piece.get("partial_json", "") for piece in pieces) == '{"city":"Oslo"}{}'
    assert events[-1]["delta"]["stop_reason"] == "tool_use"
    assert events[-1]["usage"] == {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 4}
    assert (reply.usage, reply.finished) == (Usage(9, 4, cached_tokens=2), True)


async def test_a_stream_of_a_response(engine: ChatOnly, session: aiohttp.ClientSession) -> None:
    """Items are added, grow and are done; the last event carries what all of them say together."""
    engine.deltas = STREAM
    events, _ = await told_by(Relay(engine.url, session=session), call(Surface.RESPONSES, stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["item"]["type"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert added == ["reasoning", "message", "function_call", "function_call"]
    whole = openai.types.responses.Response.model_validate(events[-1]["response"])
    assert (events[-1]["type"], whole.output_text) == ("response.completed", "I ask.")
    assert [item["id"] for item in done] == [item.id for item in whole.output]
    assert [item["arguments"] for item in done[2:]] == ['{"city":"Oslo"}', "{}"]


@pytest.mark.parametrize("surface", [Surface.MESSAGES, Surface.RESPONSES])
async def test_a_cut_stream_is_never_told_as_whole(
    engine: ChatOnly, session: aiohttp.ClientSession, surface: Surface
) -> None:
    """What came is told, then the error is raised; no event says that it ended."""
    engine.deltas, engine.cut = STREAM[:3], True
    reply = await Relay(engine.url, session=session).chat(call(surface, stream=True))
    data = b""

    async def read() -> None:
        nonlocal data
        async for chunk in reply.chunks():
            data += chunk.data

    with pytest.raises(StreamIncomplete):
        await read()
    assert b"I " in data
    assert not any(end in data for end in (b"message_delta", b"response.completed", b"response.incomplete"))


async def test_what_an_engine_lacks_is_asked_once(engine: ChatOnly, session: aiohttp.ClientSession) -> None:
    """The first 404 is remembered; a chat completion shows that it was the route that is missing."""
    engine.deltas = [({"content": "a"}, "stop")]
    relay = Relay(engine.url, session=session)
    for _ in range(2):
        await relay.chat(call(Surface.MESSAGES))
    assert engine.asked == ["/v1/messages", *["/v1/chat/completions"] * 2]


async def test_another_fault_is_not_translated(session: aiohttp.ClientSession) -> None:
    """An engine that is busy has the route: nobody asks it again in other words."""

    async def busy(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "busy"}}, status=503)

    application = web.Application()
    application.router.add_post("/v1/messages", busy)
    async with TestServer(application) as server:
        with pytest.raises(EngineBusy):
            await Relay(str(server.make_url("/")), session=session).chat(call(Surface.MESSAGES))


NAMES = ["type", "role", "content", "text", "name", "input", "output", "source", "call_id", "arguments", "id"]
KINDS = ["text", "input_text", "message", "tool_use", "tool_result", "function_call", "function_call_output"]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([*KINDS, "user", "assistant"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(NAMES), children, max_size=4)
    ),
    max_leaves=10,
)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": JSON},
        optional={"type": JSON, "output": JSON},
    ),
    min_size=1,
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "input": ITEMS,
        "messages": ITEMS,
        "tools": JSON,
        "tool_choice": JSON,
        "text": JSON,
        "system": JSON,
    },
)


@UNTIMED
@given(st.sampled_from([Surface.MESSAGES, Surface.RESPONSES]), BODIES)
def test_whatever_passes_the_door_is_said_or_refused(surface: Surface, body: dict[str, Any]) -> None:
    """No body that was let in makes the translation stumble."""
    try:
        request = parse_request(surface, body, body_bytes=0, headers={})
        say = chat_of_messages if surface is Surface.MESSAGES else chat_of_responses
        said = say({**request.body, "max_output_tokens": 8, "max_tokens": 8})
    except (RequestMalformed, EngineError):
        return
    assert said["messages"]


WORDS = st.text(max_size=12)
OBJECTS = st.dictionaries(WORDS, WORDS | st.lists(WORDS, max_size=2), max_size=3)


def some(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with these fields, of which a strategy is drawn from."""
    return st.fixed_dictionaries(
        {n: v if isinstance(v, st.SearchStrategy) else st.just(v) for n, v in fields.items()}
    )


TEXTS = some(type="text", text=WORDS)
USES = some(type="tool_use", id="t1", name="get", input=OBJECTS)
RESULTS = some(type="tool_result", tool_use_id="t1", content=WORDS | st.lists(TEXTS, max_size=2))
SAID = some(role="assistant", content=st.lists(TEXTS | USES, max_size=3))
TOLD = some(role="user", content=WORDS | st.lists(TEXTS | RESULTS, max_size=3))
SPOKEN = st.fixed_dictionaries(
    {"messages": st.lists(SAID | TOLD, min_size=1, max_size=3)},
    optional={
        "system": WORDS,
        "tools": st.lists(some(name="get", description="d", input_schema=OBJECTS), max_size=2),
    },
)
CALLS = some(type="function_call", call_id="c", name="get", arguments=WORDS)
OUTPUTS = some(type="function_call_output", call_id="c", output=WORDS)
ANSWERED = st.fixed_dictionaries(
    {"input": st.lists(some(role="user", content=WORDS) | CALLS | OUTPUTS, min_size=1, max_size=3)},
    optional={
        "instructions": WORDS,
        "tools": st.lists(some(type="function", name="get", parameters=OBJECTS), max_size=2),
        "text": some(format=some(type="json_schema", name="n", schema=OBJECTS)),
    },
)


@UNTIMED
@given(SPOKEN | ANSWERED)
def test_what_is_held_covers_the_translation(body: dict[str, Any]) -> None:
    """The prompt's ceiling is one for the chat completion, too, that the request may be said as."""
    surface = Surface.MESSAGES if "messages" in body else Surface.RESPONSES
    say = chat_of_messages if surface is Surface.MESSAGES else chat_of_responses
    request = parse_request(surface, body, body_bytes=0, headers={})
    try:
        chat = say({**request.body, "max_output_tokens": 8, "max_tokens": 8})
    except EngineIncapable:
        return  # there is nothing to say
    needs = describe(request, text_limit_chars=9)
    said = describe(replace(request, body=chat, surface=Surface.CHAT), text_limit_chars=9)
    assert prompt_ceiling_tokens(said, 0) <= prompt_ceiling_tokens(needs, 0)
