"""Joining the chunks of a chat completion into one document."""

import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.calls import call_for, read_whole
from tests.doubles.scripted import STREAM_HEAD, plain_answer, scripted
from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.joined import STREAM_LIMIT_BYTES, AnswerJoiner, joinable
from trivet.engines.relay import Relay

HEAD = {"id": "a", "created": 1, "model": "m", "system_fingerprint": "f", "object": "chat.completion.chunk"}


def chunk(*choices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a chunk of these choices."""
    return {**HEAD, "choices": list(choices), **fields}


def part(
    delta: dict[str, Any], *, index: int = 0, finish: str | None = None, **fields: Any
) -> dict[str, Any]:
    """Return what a chunk says of one choice."""
    return {"index": index, "delta": delta, "finish_reason": finish, **fields}


def join(*chunks: dict[str, Any]) -> dict[str, Any]:
    """Return the document that the chunks make."""
    joiner = AnswerJoiner()
    for each in chunks:
        joiner.add(each)
    return joiner.document()


def usage(completion_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    """Return the usage of one choice as llama.cpp says it."""
    return {
        "prompt_tokens": 5,
        "completion_tokens": completion_tokens,
        "total_tokens": 5 + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def test_text() -> None:
    """Deltas add up; envelope, finish, usage and the last chunk's extras are kept."""
    found = join(
        chunk(part({"role": "assistant", "content": None}), prompt_progress={"total": 5}),
        chunk(part({"content": "Hel"}), timings={"n": 1}),
        chunk(part({"content": "lo"})),
        chunk(part({}, finish="stop")),
        chunk(usage=usage(2), timings={"n": 2}),
    )
    message = {"role": "assistant", "content": "Hello"}
    assert found == {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage(2),
        "timings": {"n": 2},
    }


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "refusal"])
def test_other_texts(name: str) -> None:
    """Reasoning and refusals are joined like content, which is then an empty text."""
    found = join(chunk(part({name: "a"})), chunk(part({name: "b"}, finish="stop")))
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "", name: "ab"}


def test_tool_calls() -> None:
    """Tool calls are joined by their index; with them, silence is no content."""
    first = {"index": 0, "id": "x", "type": "function", "function": {"name": "now", "arguments": ""}}
    second = {"index": 1, "id": "y", "type": "function", "function": {"name": "then", "arguments": "{}"}}
    found = join(
        chunk(part({"role": "assistant", "content": None, "tool_calls": [first]})),
        chunk(part({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]})),
        chunk(part({"tool_calls": [second]})),
        chunk(part({"tool_calls": [{"index": 0, "id": "", "function": {"arguments": "1}"}}]})),
        chunk(part({}, finish="tool_calls")),
    )
    assert found["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "id": "x", "function": {"name": "now", "arguments": '{"a":1}'}},
            {"type": "function", "id": "y", "function": {"name": "then", "arguments": "{}"}},
        ],
    }


def test_function_call() -> None:
    """The older way to call a function is joined too."""
    found = join(
        chunk(part({"function_call": {"name": "now", "arguments": "{"}})),
        chunk(part({"function_call": {"arguments": "}"}}, finish="function_call")),
    )
    message = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}}
    assert found["choices"][0]["message"] == message


def test_logprobs() -> None:
    """Lists of tokens are strung together; chunks without any change nothing."""
    found = join(
        chunk(part({"content": "a"}, logprobs={"content": [1], "refusal": None})),
        chunk(part({"content": "b"}, logprobs={"content": [2, 3], "refusal": None})),
        chunk(part({}, finish="stop", logprobs=None)),
    )
    assert found["choices"][0]["logprobs"] == {"content": [1, 2, 3], "refusal": None}


def test_several_choices() -> None:
    """Choices are told apart and put in order; their counts are added, the prompt's is not."""
    found = join(
        chunk(part({"content": "b"}, index=1)),
        chunk(part({"content": "a"})),
        chunk(part({}, index=1, finish="length", stop_reason=None)),
        chunk(usage=usage(3, cached_tokens=4)),
        chunk(part({}, finish="stop", stop_reason="e")),
        chunk(usage=usage(2, cached_tokens=1)),
    )
    assert [choice["message"]["content"] for choice in found["choices"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["stop", "length"]
    assert [choice["stop_reason"] for choice in found["choices"]] == ["e", None]
    assert found["usage"] == usage(5, cached_tokens=1)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([chunk(part({"content": "a"}, finish="stop"))], None),
        ([chunk(part({"content": "a"}, finish="stop"), usage=usage(1))], usage(1)),
        ([chunk(part({"content": "a"}), usage=usage(1)), chunk(usage=usage(2))], usage(2)),
        ([chunk(part({"content": "a"})), chunk(usage=usage(1)), chunk(usage=usage(2))], usage(2)),
        ([chunk(part({"content": "a"})), chunk(usage="none")], "none"),
        ([chunk(part({}), part({}, index=1)), chunk(usage=usage(1)), chunk(usage={})], None),
        ([chunk(part({}), part({}, index=1)), chunk(usage=usage(4))], usage(4)),
    ],
)
def test_usage(chunks: list[dict[str, Any]], expected: Any) -> None:
    """One choice has its last count, several have their sum, or none where a part of it is unreadable."""
    assert join(*chunks).get("usage") == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "delta", "index", "content", "tool_calls", "function", "arguments"),
                    *("logprobs", "usage", "finish_reason", "function_call", "name", "id", "role"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)
OBJECT = st.dictionaries(st.sampled_from(("choices", "usage", "id")), JSON)
PART = st.dictionaries(st.sampled_from(("index", "delta", "logprobs", "finish_reason")), JSON)
CHUNK = OBJECT | st.builds(lambda parts: {"choices": parts}, st.lists(PART, max_size=3))


@given(st.lists(CHUNK, max_size=4))
def test_nothing_raises(chunks: list[dict[str, Any]]) -> None:
    """No JSON makes the joiner fail, and what it makes is JSON."""
    found = join(*chunks)
    assert found["object"] == "chat.completion"
    json.dumps(found)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"tools": [{}]}, True),
        ({"logprobs": True}, True),
        ({"logprobs": True, "tools": []}, True),
        ({"logprobs": True, "tools": [{}]}, False),
    ],
)
def test_joinable(fields: dict[str, Any], expected: bool) -> None:
    """llama.cpp does not stream log-probabilities beside tools."""
    assert joinable(fields) is expected


def sent(document: dict[str, Any]) -> bytes:
    """Return a chunk as an event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


async def test_a_character_in_two_halves(session: aiohttp.ClientSession) -> None:
    """Halves of a surrogate pair that came apart are one character in the document."""
    events = (
        b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n' % half
        for half in (b"\\ud83d", b"\\ude00")
    )
    stop = sent(chunk(part({}, finish="stop")))
    async with scripted(STREAM_HEAD, *events, stop, b": ping\n\ndata: [DONE]\n\n") as url:
        reply, document = await read_whole(Relay(url, session=session, join_plain=True), call_for("m"))
    assert document["choices"][0]["message"]["content"] == "\U0001f600"
    assert (reply.content_events, reply.usage, reply.finished) == (2, None, True)
    assert [each async for each in reply.chunks()] == []


async def test_usage_is_read(session: aiohttp.ClientSession) -> None:
    """The reply's usage is the document's."""
    events = (chunk(part({"content": "a"})), chunk(part({}, finish="stop")), chunk(usage=usage(1, 2)))
    async with scripted(STREAM_HEAD, *map(sent, events)) as url:
        reply, document = await read_whole(Relay(url, session=session, join_plain=True), call_for("m"))
    assert document["usage"] == usage(1, 2)
    assert reply.usage == Usage(5, 1, cached_tokens=2)


@pytest.mark.parametrize("body", [b'{"choices":[1]}', b'data: {"error":"x"}'])
async def test_answered_whole_all_the_same(session: aiohttp.ClientSession, body: bytes) -> None:
    """A server that does not stream is taken at its word, if that is a chat completion."""
    whole = b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    async with scripted(plain_answer(whole)) as url:
        reply, _ = await read_whole(Relay(url, session=session, join_plain=True), call_for("m"))
    assert reply.body == whole
    async with scripted(plain_answer(body)) as url:
        with pytest.raises(EngineBroken):
            await Relay(url, session=session, join_plain=True).chat(call_for("m"))


BROKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}] }}\n\n'


@pytest.mark.parametrize(
    "events",
    [
        (BROKEN,),
        (sent(chunk(part({"content": "x" * 500_000}))),) * (STREAM_LIMIT_BYTES // 500_000 + 1),
    ],
    ids=["not json", "too large"],
)
async def test_streams_that_cannot_be_joined(
    session: aiohttp.ClientSession, events: tuple[bytes, ...]
) -> None:
    """What is not JSON, or has no end, is the engine's failure."""
    async with scripted(STREAM_HEAD, *events, then_hold=True) as url:
        with pytest.raises(EngineBroken):
            await Relay(url, session=session, join_plain=True).chat(call_for("m"))
