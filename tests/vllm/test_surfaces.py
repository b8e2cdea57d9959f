"""The surfaces beside chat on the real vLLM: its own words, read for their end, usage and tokens."""

import json
from typing import Any

import anthropic.types
import openai.types.responses
import pytest

from tests.vllm.calls import LIMITS
from tests.vllm.server import MODEL
from trivet.domain.errors import ContextOverflow
from trivet.domain.surfaces import Surface
from trivet.engines.protocol import EngineCall, Reply, Transport

TALK = [{"role": "user", "content": "hi there"}]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


def ask(surface: Surface, *, stream: bool = False, **body: Any) -> EngineCall:
    """Return a call as execution makes it."""
    body = {"model": MODEL, **body}
    if stream:
        body["stream"] = True
        if surface is Surface.COMPLETIONS:
            body["stream_options"] = {"include_usage": True}
    return EngineCall(body=body, stream=stream, limits=LIMITS, request_id="test", surface=surface)


async def plain(transport: Transport, call: EngineCall) -> tuple[Reply, dict[str, Any]]:
    """Return a whole answer and its document."""
    reply = await transport.chat(call)
    document: dict[str, Any] = json.loads(reply.body or b"")
    return reply, document


async def streamed(transport: Transport, call: EngineCall) -> tuple[Reply, list[dict[str, Any]]]:
    """Return a stream, read to its end, and its events."""
    reply = await transport.chat(call)
    text = b"".join([chunk.data async for chunk in reply.chunks()]).decode()
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
    assert reply.finished
    return reply, [json.loads(line) for line in lines]


@pytest.mark.parametrize("transport", ["relay"], indirect=True)
async def test_completions(transport: Transport) -> None:
    """Whole and streamed, one prompt and several with several choices: one usage counts all of them."""
    call = ask(Surface.COMPLETIONS, prompt="hi", max_tokens=5, ignore_eos=True)
    reply, document = await plain(transport, call)
    assert reply.usage is not None
    assert (reply.usage.completion_tokens, document["choices"][0]["finish_reason"]) == (5, "length")
    several: dict[str, Any] = {"prompt": ["hi", "there you"], "n": 2, "max_tokens": 3, "ignore_eos": True}
    reply, events = await streamed(transport, ask(Surface.COMPLETIONS, stream=True, **several))
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4 * 3
    assert {choice["index"] for event in events for choice in event["choices"]} == {0, 1, 2, 3}


async def test_messages(transport: Transport) -> None:
    """vLLM's own messages, and the same in translation: the protocol's types, and every token counted."""
    wanted: dict[str, Any] = {"messages": TALK, "system": "Be brief.", "max_tokens": 5, "ignore_eos": True}
    reply, document = await plain(transport, ask(Surface.MESSAGES, **wanted))
    message = anthropic.types.Message.model_validate(document)
    assert reply.usage is not None
    assert (message.stop_reason, reply.usage.completion_tokens) == ("max_tokens", 5)
    again, events = await streamed(transport, ask(Surface.MESSAGES, stream=True, **wanted))
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_delta"]
    assert again.usage is not None
    assert again.usage.completion_tokens == 5
    assert again.usage.prompt_tokens == reply.usage.prompt_tokens


async def test_responses(transport: Transport) -> None:
    """vLLM's own responses, and the same in translation."""
    wanted: dict[str, Any] = {"input": "hi there", "max_output_tokens": 6, "store": False}
    reply, document = await plain(transport, ask(Surface.RESPONSES, **wanted))
    response = openai.types.responses.Response.model_validate(document)
    assert response.status in ("completed", "incomplete")
    assert reply.usage is not None
    assert 0 < reply.usage.completion_tokens <= 6
    again, events = await streamed(transport, ask(Surface.RESPONSES, stream=True, **wanted))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    assert again.usage is not None
    assert again.usage.prompt_tokens == reply.usage.prompt_tokens


async def test_the_form_of_an_answer_is_kept(transport: Transport) -> None:
    """A schema constrains a model that writes nonsense, in both protocols; of blanks it may write many."""
    form = {"type": "json_schema", "name": "v", "schema": SCHEMA, "strict": True}
    call = ask(Surface.RESPONSES, input="hi", max_output_tokens=60, text={"format": form}, store=False)
    _, document = await plain(transport, call)
    said = [item for item in document["output"] if item["type"] == "message"]
    assert said[0]["content"][0]["text"].lstrip()[0] == "{"
    form = {"type": "json_schema", "schema": SCHEMA}
    call = ask(Surface.MESSAGES, messages=TALK, max_tokens=60, output_config={"format": form})
    _, document = await plain(transport, call)
    assert document["content"][-1]["text"].lstrip()[0] == "{"


@pytest.mark.parametrize("transport", ["relay"], indirect=True)
async def test_tokens(transport: Transport) -> None:
    """The count is what chat and messages are charged for the prompt."""
    _, told = await plain(transport, ask(Surface.TOKENIZE, messages=TALK))
    _, counted = await plain(transport, ask(Surface.COUNT_TOKENS, messages=TALK))
    reply, _ = await plain(transport, ask(Surface.MESSAGES, messages=TALK, max_tokens=1))
    assert reply.usage is not None
    assert told["count"] == len(told["tokens"]) == counted["input_tokens"] == reply.usage.prompt_tokens
    _, text = await plain(transport, ask(Surface.TOKENIZE, prompt="hi there"))
    assert 0 < text["count"] < told["count"]


@pytest.mark.parametrize(
    ("surface", "body"),
    [
        (Surface.RESPONSES, {"input": "word " * 400, "max_output_tokens": 4}),
        (Surface.MESSAGES, {"messages": [{"role": "user", "content": "word " * 400}], "max_tokens": 4}),
    ],
)
async def test_a_prompt_beyond_the_window(transport: Transport, surface: Surface, body: Any) -> None:
    """It is told as such in either protocol, so that a larger window is tried."""
    with pytest.raises(ContextOverflow):
        await transport.chat(ask(surface, **body))
