"""What LiteLLM is asked for, given a request."""

from typing import Any

import pytest

from tests.contract.calls import call_for, deployment_of
from trivet.domain.errors import EngineIncapable, EngineRejected
from trivet.engines.litellm_request import KEEP_ALIVE, request_arguments

OLLAMA = deployment_of("http://127.0.0.1:11434/", "qwen2.5:7b", engine="ollama")
VLLM = deployment_of("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-72B", engine="vllm")
CLOUD = deployment_of(None, "anthropic/claude-x", engine="litellm")
MESSAGES = [{"role": "user", "content": "Hello"}]


def test_ollama() -> None:
    """Ollama is reached by its native API, with a window that depends on the deployment alone."""
    expected = {
        "model": "ollama_chat/qwen2.5:7b",
        "api_base": "http://127.0.0.1:11434",
        "messages": MESSAGES,
        "stream": False,
        "max_tokens": 8,
        "temperature": 0.2,
        "num_ctx": 2048,
        "keep_alive": KEEP_ALIVE,
        "extra_body": {"truncate": False, "shift": False},
    }
    asked = call_for("qwen2.5:7b", temperature=0.2, top_p=None, user="ana", num_ctx=9, metadata={"a": 1})
    assert request_arguments(OLLAMA, asked) == expected


def test_openai_speaking_engines() -> None:
    """Whatever the request holds goes into the body that the engine reads, never into LiteLLM's arguments."""
    asked = call_for(VLLM.model, stream=True, api_base="http://evil", guided_regex="a+", logprobs=True)
    expected = {
        "model": "openai/Qwen/Qwen2.5-72B",
        "api_base": "http://127.0.0.1:8000/v1",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": {
            "max_tokens": 8,
            "api_base": "http://evil",
            "guided_regex": "a+",
            "logprobs": True,
        },
    }
    assert request_arguments(VLLM, asked) == expected


def test_any_provider() -> None:
    """OpenAI's fields are passed by name; nothing else is."""
    asked = call_for(CLOUD.model, n=2, mock_response="x", api_base="http://evil", callbacks=["y"])
    expected = {
        "model": "anthropic/claude-x",
        "messages": MESSAGES,
        "stream": False,
        "max_tokens": 8,
        "n": 2,
    }
    assert request_arguments(CLOUD, asked) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("logit_bias", {"5": 1}),
        ("parallel_tool_calls", False),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "now"}}),
        ("functions", [{"name": "now"}]),
    ],
)
def test_beyond_ollama(field: str, value: Any) -> None:
    """What cannot be said to Ollama is refused by name, not dropped; another engine may be asked."""
    with pytest.raises(EngineIncapable, match="relay") as caught:
        request_arguments(OLLAMA, call_for(OLLAMA.model, **{field: value}))
    assert (caught.value.param, caught.value.retryable) == (field, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1),
        ("logprobs", False),
        ("presence_penalty", 0),
        ("frequency_penalty", 0.0),
        ("logit_bias", {}),
        ("parallel_tool_calls", True),
        ("tool_choice", "auto"),
    ],
)
def test_values_that_ask_for_nothing(field: str, value: Any) -> None:
    """A field at its neutral value is left out."""
    assert field not in request_arguments(OLLAMA, call_for(OLLAMA.model, **{field: value}))


@pytest.mark.parametrize("deployment", [OLLAMA, VLLM, CLOUD])
def test_several_answers_in_one_stream(deployment: Any) -> None:
    """LiteLLM's streams know one finish only, so several answers are refused for every engine."""
    with pytest.raises(EngineIncapable):
        request_arguments(deployment, call_for(deployment.model, stream=True, n=2))


@pytest.mark.parametrize(
    "messages",
    [
        "Hello",
        ["Hello"],
        [{"content": "no role"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": ["text"]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": "{bad"}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": "[]"}}]}],
        [{"role": "assistant", "tool_calls": ["now"]}],
    ],
)
@pytest.mark.parametrize("deployment", [OLLAMA, CLOUD])
def test_malformed_messages(deployment: Any, messages: Any) -> None:
    """Messages that LiteLLM would stumble over are the request's fault."""
    with pytest.raises(EngineRejected) as caught:
        request_arguments(deployment, call_for(deployment.model, messages=messages))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("image", [{"url": "http://10.0.0.1/a.png"}, "file:///etc/passwd"])
@pytest.mark.parametrize("deployment", [OLLAMA, CLOUD])
def test_images_by_address(deployment: Any, image: Any) -> None:
    """Images that LiteLLM would fetch are left to engines that are asked without it."""
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}]
    with pytest.raises(EngineIncapable) as caught:
        request_arguments(deployment, call_for(deployment.model, messages=messages))
    assert caught.value.param == "messages"


def test_images_and_tool_calls() -> None:
    """Images as data and well-formed tool calls pass, as copies."""
    messages = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
        },
        {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": '{"zone": "UTC"}'}}]},
    ]
    passed = request_arguments(OLLAMA, call_for(OLLAMA.model, messages=messages))["messages"]
    assert passed == messages
    assert passed is not messages
