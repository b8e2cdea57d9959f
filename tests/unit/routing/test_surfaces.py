"""Every surface beside chat: what is refused, how large a prompt can be, and who may serve it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.routing.parts import HEAVY, LIGHT, STANDARD, UNTIMED, codes, decide, deployment, order
from trivet.domain.decisions import Offer
from trivet.domain.errors import ContextTooLong, NoCandidate, RequestError, RequestMalformed
from trivet.domain.requests import ChatRequest, Needs
from trivet.domain.surfaces import Surface
from trivet.routing import describe, parse_request
from trivet.routing.features import MESSAGE_TOKENS
from trivet.routing.prompt_size import MEDIA_PART_BYTES
from trivet.routing.prompts import ANSWERS_LIMIT

TALK = [{"role": "user", "content": "Hello"}]
ADDRESS = "https://10.0.0.1/secret.png"
VECTORS = frozenset({"embeddings"})


def read(surface: Surface, **body: Any) -> tuple[ChatRequest, Needs]:
    """Return a body as it is understood."""
    request = parse_request(surface, body, body_bytes=0, headers={})
    return request, describe(request, text_limit_chars=100)


def maker(name: str, tier: Any, model: str, state: str = "ready") -> Offer:
    """Return a deployment that makes vectors."""
    return Offer(deployment(name, tier, model=model, capabilities=VECTORS), state=state)


def part(**fields: Any) -> list[Any]:
    """Return a conversation whose only message has one part."""
    return [{"role": "user", "content": [fields]}]


REFUSED: list[tuple[Surface, dict[str, Any], str]] = [
    (Surface.COMPLETIONS, {}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": []}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": [{"prompt_string": "a", "multimodal_data": []}]}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
    (Surface.COMPLETIONS, {"prompt": "a", "best_of": 9}, "best_of"),
    (Surface.COMPLETIONS, {"prompt": "a", "n_predict": 9}, "n_predict"),
    (Surface.COMPLETIONS, {"prompt": ["a"] * 8, "n": 16}, "n"),
    (Surface.COMPLETIONS, {"prompt": ["a"] * (ANSWERS_LIMIT + 1)}, "prompt"),
    (Surface.COMPLETIONS, {"prompt": "a", "max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    (Surface.COMPLETIONS, {"prompt": "", "prompt_embeds": "AAAA"}, "prompt_embeds"),
    (Surface.EMBEDDINGS, {"input": "a", "messages": TALK}, "messages"),
    (Surface.EMBEDDINGS, {}, "input"),
    (Surface.EMBEDDINGS, {"input": [{"image": ADDRESS}]}, "input"),
    (Surface.EMBEDDINGS, {"input": ["a"] * 2049}, "input"),
    (Surface.EMBEDDINGS, {"input": "a", "stream": True}, "stream"),
    (Surface.RESPONSES, {}, "input"),
    (Surface.RESPONSES, {"input": "a", "n": 2}, "n"),
    (Surface.RESPONSES, {"input": "a", "previous_response_id": "r"}, "previous_response_id"),
    (Surface.RESPONSES, {"input": "a", "background": True}, "background"),
    (Surface.RESPONSES, {"input": [{"type": "item_reference", "id": "i"}]}, "input[0]"),
    (Surface.RESPONSES, {"input": part(type="input_image", image_url=ADDRESS)}, "input[0].content[0]"),
    (Surface.RESPONSES, {"input": part(type="input_file", file_id="f")}, "input[0].content[0]"),
    (
        Surface.RESPONSES,
        {"input": [{"type": "computer_call_output", "output": {"image_url": ADDRESS}}]},
        "input[0]",
    ),
    (Surface.RESPONSES, {"input": "a", "tools": [{"type": "mcp", "server_url": ADDRESS}]}, "tools[0]"),
    (Surface.RESPONSES, {"input": "a", "tools": [{"type": "web_search"}]}, "tools[0]"),
    (Surface.RESPONSES, {"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
    (Surface.MESSAGES, {}, "messages"),
    (Surface.MESSAGES, {"messages": TALK, "n": 2}, "n"),
    (Surface.MESSAGES, {"messages": [{"role": "tool", "content": "a"}]}, "messages[0]"),
    (Surface.MESSAGES, {"messages": TALK, "system": [{"type": "image"}]}, "system"),
    (Surface.MESSAGES, {"messages": TALK, "mcp_servers": [{"url": ADDRESS}]}, "mcp_servers"),
    (Surface.MESSAGES, {"messages": TALK, "tools": [{"type": "web_search_1", "name": "w"}]}, "tools[0]"),
    (
        Surface.MESSAGES,
        {"messages": part(type="image", source={"type": "url", "url": ADDRESS})},
        "messages[0].content[0]",
    ),
    (
        Surface.MESSAGES,
        {"messages": part(type="tool_result", content=[{"type": "image", "source": {"url": ADDRESS}}])},
        "messages[0].content[0].content[0]",
    ),
    (Surface.TOKENIZE, {}, "prompt"),
    (Surface.TOKENIZE, {"prompt": "a", "messages": TALK}, "prompt"),
    (Surface.TOKENIZE, {"prompt": ["a"]}, "prompt"),
]


@pytest.mark.parametrize(("surface", "body", "param"), REFUSED)
def test_what_is_refused(surface: Surface, body: dict[str, Any], param: str) -> None:
    """A fault names its field; nothing generates behind the cap, and nobody fetches for a tenant."""
    with pytest.raises(RequestMalformed) as refused:
        read(surface, **body)
    assert refused.value.param == param


def test_what_a_tool_was_given_may_hold_an_address() -> None:
    """What a tool is given, and gives back as text, is the caller's own business: no engine fetches it."""
    read(
        Surface.RESPONSES,
        input=[
            {"type": "function_call", "call_id": "c", "name": "get", "arguments": f'{{"url": "{ADDRESS}"}}'},
            {"type": "function_call_output", "call_id": "c", "output": f"{ADDRESS} is gone"},
        ],
    )
    call = {"type": "tool_use", "id": "t", "name": "get", "input": {"url": ADDRESS}}
    read(Surface.MESSAGES, messages=[*TALK, {"role": "assistant", "content": [call]}])


def test_prompts_are_added_up_and_fit_one_by_one() -> None:
    """Every prompt is held and every answer capped; only the largest has to fit a window."""
    request, needs = read(Surface.COMPLETIONS, prompt=["a" * 10, [1, 2, 3]], n=3)
    assert (request.n, needs.prompt_bytes, needs.window_bytes) == (6, 13, 10)
    long = ["word " * 1600] * 20
    small = [Offer(deployment("v", LIGHT, model="v", context_tokens=2048, capabilities=VECTORS))]
    assert order(decide({"input": long}, small, surface=Surface.EMBEDDINGS)) == ["v"]
    with pytest.raises(ContextTooLong):
        decide({"input": ["word " * 4000]}, small, surface=Surface.EMBEDDINGS)


def test_what_becomes_prompt_is_counted() -> None:
    """System texts, tools, calls and what they gave back are prompt; a picture counts by its allowance."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 9000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [picture]}
    _, needs = read(
        Surface.MESSAGES,
        messages=[{"role": "user", "content": [result]}],
        system="Be brief.",
        tools=[{"name": "f", "input_schema": {}}],
        thinking={"type": "disabled"},
    )
    assert needs.capabilities == {"tools", "vision"}
    assert MEDIA_PART_BYTES + 9 < needs.prompt_bytes < MEDIA_PART_BYTES + 400
    assert needs.messages == 3
    _, needs = read(
        Surface.RESPONSES,
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "x" * 100},
            {"type": "function_call_output", "call_id": "c", "output": "y" * 100},
        ],
        instructions="Be brief.",
        text={"format": {"type": "json_schema", "name": "n", "schema": {}}},
    )
    assert needs.capabilities == {"json_schema"}
    assert needs.prompt_bytes > 2 + 100 + 100 + 9


def test_counting_tokens_holds_nothing() -> None:
    """It needs no window and no budget, whatever its length."""
    for surface, body in (
        (Surface.TOKENIZE, {"prompt": "word " * 100_000}),
        (Surface.COUNT_TOKENS, {"messages": [{"role": "user", "content": "word " * 100_000}]}),
    ):
        decision = decide(body, surface=surface)
        assert (decision.estimated.prompt_tokens, decision.max_output_tokens) == (0, 0)


def test_vectors_hold_their_prompt_only() -> None:
    """Nothing is generated, so nothing but the prompt's ceiling is held."""
    decision = decide({"input": "abc"}, [maker("v", LIGHT, "m")], surface=Surface.EMBEDDINGS)
    assert decision.max_output_tokens == 0
    assert decision.estimated.prompt_tokens == 3 + MESSAGE_TOKENS + 64


def test_vectors_are_of_one_model() -> None:
    """Neither the text nor an engine's state changes the model; its other deployment stands in."""
    offers = [
        Offer(deployment("chat", LIGHT)),
        maker("a", STANDARD, "m", "down"),
        maker("b", HEAVY, "other"),
        maker("c", HEAVY, "m"),
    ]
    for text in ("Hi", "Analyze the security architecture of distributed systems " * 40):
        decision = decide({"input": text}, offers, surface=Surface.EMBEDDINGS)
        assert order(decision) == ["c", "a"]
        assert "embedding_model" in codes(decision)
    rejected = {rejection.deployment.name: rejection.code for rejection in decision.rejected}
    assert rejected == {"chat": "surface_missing", "b": "other_embedding_model"}
    asked = decide({"input": "Hi", "model": "heavy"}, offers, surface=Surface.EMBEDDINGS)
    assert order(asked) == ["b"]


def test_what_cannot_serve_a_surface_says_why() -> None:
    """Vectors' makers answer no chat, LiteLLM has no plain completions, and not every engine tells tokens."""
    with pytest.raises(NoCandidate, match="makes embeddings only"):
        decide({"messages": TALK}, [maker("v", LIGHT, "m")])
    both = replace(deployment("w", LIGHT), capabilities=frozenset({"embeddings", "chat"}))
    assert order(decide({"messages": TALK}, [Offer(both)])) == ["w"]
    through = replace(deployment("x", LIGHT), transport="litellm")
    assert order(decide({"messages": TALK}, [Offer(through)], surface=Surface.MESSAGES)) == ["x"]
    with pytest.raises(NoCandidate, match="no plain completions"):
        decide({"prompt": "a"}, [Offer(through)], surface=Surface.COMPLETIONS)
    other = replace(deployment("y", LIGHT), engine="openai")
    with pytest.raises(NoCandidate, match="does not tell its model's tokens"):
        decide({"prompt": "a"}, [Offer(other)], surface=Surface.TOKENIZE)


SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "user", "message", "text"])
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "text", "name", "input", "output", "source", "image_url"]
            ),
            children,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(
    st.sampled_from(
        ["prompt", "input", "messages", "n", "system", "tools", "text", "include", "instructions", "content"]
    ),
    JSON,
    max_size=4,
)


@UNTIMED
@given(st.sampled_from(Surface), BODIES | JSON)
def test_any_json_is_decided_or_refused(surface: Surface, body: Any) -> None:
    """Arbitrary JSON leads to a decision or to an error that is the request's."""
    try:
        decision = decide(body, surface=surface)
    except RequestError:
        return
    assert decision.candidates
    assert (decision.max_output_tokens >= 1) is surface.generates
