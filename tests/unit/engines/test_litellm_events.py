"""LiteLLM's objects as OpenAI documents."""

import json
from typing import Any

import pytest

from trivet.engines.litellm import load_library
from trivet.engines.litellm_events import finish_event, plain_body, stream_event, usage_event, usage_in


@pytest.fixture(scope="module")
def types() -> Any:
    """Give LiteLLM's types, loaded as the transport loads them."""
    return load_library().litellm.types.utils


def chunk(types: Any, delta: dict[str, Any], **fields: Any) -> Any:
    """Return one of LiteLLM's chunks."""
    choice = types.StreamingChoices(index=0, delta=types.Delta(**delta))
    return types.ModelResponseStream(id="other", created=1, model="ollama_chat/m", choices=[choice], **fields)


def document_in(event: bytes) -> Any:
    """Return what an event says."""
    assert event.endswith(b"\n\n")
    return json.loads(event.removeprefix(b"data: "))


def test_plain_body(types: Any) -> None:
    """A whole answer loses LiteLLM's own fields and its made-up zeros, and gets the engine's own name."""
    message = types.Message(content=None, role="assistant", provider_specific_fields={"refusal": None})
    response = types.ModelResponse(
        id="1",
        created=1,
        model="ollama_chat/m",
        choices=[types.Choices(finish_reason="stop", index=0, message=message)],
        usage=types.Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
    )
    expected = {
        "id": "1",
        "created": 1,
        "model": "m",
        "object": "chat.completion",
        "choices": [{"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": None}}],
    }
    assert json.loads(plain_body(response, model="m")) == expected


def test_stream_event(types: Any) -> None:
    """A chunk gets the stream's id and a finish_reason, even if null, and carries no usage."""
    usage = types.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    event = stream_event(
        chunk(types, {"content": "ä", "role": "assistant"}, usage=usage), model="m", stream_id="s"
    )
    expected = {
        "id": "s",
        "created": 1,
        "model": "m",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "ä", "role": "assistant"}, "finish_reason": None}],
    }
    assert document_in(event) == expected


def test_last_events(types: Any) -> None:
    """Finish and usage are said in the stream's own frame."""
    event = stream_event(chunk(types, {"content": "a"}), model="m", stream_id="s")
    assert document_in(finish_event(event, "length"))["choices"] == [
        {"index": 0, "delta": {}, "finish_reason": "length"}
    ]
    said = document_in(usage_event(event, {"prompt_tokens": 1}))
    assert (said["id"], said["choices"], said["usage"]) == ("s", [], {"prompt_tokens": 1})


def test_usage_is_the_engines_own(types: Any) -> None:
    """The last usage that an engine's chunk carried counts; without any there is none."""
    bare = chunk(types, {"content": "a"})
    early = chunk(types, {}, usage=types.Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))
    late = chunk(types, {}, usage=types.Usage(prompt_tokens=1, completion_tokens=5, total_tokens=6))
    assert usage_in([bare, early, late, bare]) == {
        "prompt_tokens": 1,
        "completion_tokens": 5,
        "total_tokens": 6,
    }
    assert usage_in([bare]) is None
