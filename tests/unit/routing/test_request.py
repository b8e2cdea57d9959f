"""Parsing a chat body: what passes untouched, what is refused and how, and the hints."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.routing.parts import TOOL, UNTIMED, chat, decide
from trivet.domain.errors import RequestError, RequestMalformed
from trivet.domain.requests import ChatRequest, Hints
from trivet.routing import describe, parse_chat
from trivet.routing.fields import nesting_depth
from trivet.routing.hints import METADATA_KEYS
from trivet.routing.refused_fields import REFUSED_FIELDS


def parsed(body: Any, **headers: str) -> ChatRequest:
    """Parse a body; keyword arguments are `x-trivet-` headers."""
    return parse_chat(
        body,
        body_bytes=99,
        headers={f"x-trivet-{name.replace('_', '-')}": value for name, value in headers.items()},
    )


def test_the_least_body_gets_defaults() -> None:
    """One message is enough: model auto, no stream, one choice, no limit, no hints."""
    request = parsed(chat())
    assert request == ChatRequest(body=chat(), body_bytes=99, model="auto")


def test_engine_fields_pass_untouched() -> None:
    """Tools, schemas, log-probabilities, seeds and what is unknown go upstream as they came."""
    body = chat(
        model="heavy",
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        response_format={"type": "json_object"},
        logprobs=True,
        n=2,
        seed=7,
        stop=["END"],
        temperature=0.3,
        top_k=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    before = copy.deepcopy(body)
    request = parsed(body)
    assert before == request.body
    assert (request.model, request.n, request.stream, request.include_usage) == ("heavy", 2, True, True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 7),
    ],
)
def test_max_tokens_is_the_smaller_of_both_fields(fields: dict[str, Any], expected: int | None) -> None:
    """Both names of the output limit are read; the smaller one satisfies both."""
    assert expected == parsed(chat(**fields)).max_tokens


def assistant(tool_calls: Any) -> dict[str, Any]:
    """Return a body with one assistant message that calls tools."""
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": tool_calls}]}


DEEP: list[Any] = []
for _ in range(64):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (None, None),
        ([], None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user", "content": ""}] * 2049}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": 3}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hello"]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": "Hello", "name": 3}]}, "messages[0].name"),
        ({"messages": [{"role": "tool", "content": "42", "tool_call_id": 3}]}, "messages[0].tool_call_id"),
        (chat(model=3), "model"),
        (chat(model=""), "model"),
        (chat(model="m" * 201), "model"),
        (chat(model="a\nb"), "model"),
        (chat(stream="yes"), "stream"),
        (chat(stream_options=[]), "stream_options"),
        (chat(stream_options={"include_usage": 1}), "stream_options.include_usage"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_tokens=True), "max_tokens"),
        (chat(max_completion_tokens=1.5), "max_completion_tokens"),
        (chat(n=0), "n"),
        (chat(n=17), "n"),
        (chat(n=True), "n"),
        (chat(metadata="x"), "metadata"),
        (chat(metadata={"task_type": ["x"]}), "metadata.task_type"),
        (chat(metadata={"session": "x" * 201}), "metadata.session"),
        (chat(metadata={"worker": "a\x00b"}), "metadata.worker"),
        (chat(metadata={"worker": "a\ud800b"}), "metadata.worker"),
        (chat(metadata={"local_only": "maybe"}), "metadata.local_only"),
        (chat(metadata={"context_tokens": "many"}), "metadata.context_tokens"),
        (chat(metadata={"context_tokens": -1}), "metadata.context_tokens"),
        (chat(metadata={"history_length": True}), "metadata.history_length"),
        (chat(metadata={"capabilities": {"a": 1}}), "metadata.capabilities"),
        (chat(metadata={"capabilities": [{}]}), "metadata.capabilities"),
        (chat(metadata={"capabilities": ["a"] * 65}), "metadata.capabilities"),
        (chat(extra=DEEP), None),
        (chat(tools={}), "tools"),
        (chat(tools=[]), "tools"),
        (chat(tools=["f"]), "tools[0]"),
        (chat(tools=[{}]), "tools[0]"),
        (chat(tools=[TOOL, {"type": "function"}]), "tools[1].function"),
        (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function"),
        (chat(tools=[{"type": "function", "function": {"name": 3}}]), "tools[0].function"),
        (
            chat(tools=[{"type": "function", "function": {"name": "f", "parameters": "x"}}]),
            "tools[0].function.parameters",
        ),
        (chat(tool_choice=["auto"]), "tool_choice"),
        (chat(tool_choice=True), "tool_choice"),
        (chat(response_format="json"), "response_format"),
        (chat(response_format={}), "response_format"),
        (chat(response_format={"type": 3}), "response_format"),
        (assistant({}), "messages[0].tool_calls"),
        (assistant(["f"]), "messages[0].tool_calls[0]"),
        (assistant([{"type": "function"}]), "messages[0].tool_calls[0].function"),
        (assistant([{"function": {"arguments": "{}"}}]), "messages[0].tool_calls[0].function"),
        (chat(min_tokens=-1), "min_tokens"),
        (chat(min_tokens="1"), "min_tokens"),
        (chat(min_tokens=9, max_tokens=8), "min_tokens"),
    ],
)
def test_a_malformed_body_is_refused_and_the_field_named(body: Any, param: str | None) -> None:
    """The error names the field at fault."""
    with pytest.raises(RequestMalformed) as caught:
        parsed(body)
    assert param == caught.value.param


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_a_field_that_goes_behind_trivet_is_refused_by_name(name: str) -> None:
    """It is not dropped silently: the error names it, and null is as good as absent."""
    with pytest.raises(RequestMalformed, match=f"^{name} is not accepted") as caught:
        parsed(chat() | {name: 1})
    assert caught.value.param == name
    parsed(chat() | {name: None})


def test_fields_of_one_engine_that_harm_nobody_pass() -> None:
    """A minimum within the limit, the prompt cache and sampling are the caller's business."""
    body = chat(min_tokens=8, max_tokens=8, cache_prompt=False, ignore_eos=True, tool_choice=None)
    assert parsed(body).body == body


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": " data:image/png;base64,AA"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": ["https://example.com/a.png"]},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "audio_url", "audio_url": {"url": "https://example.com/a.wav"}},
        {"type": "input_image", "image_url": "https://example.com/a.png"},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "file", "file": {"file_id": "gs://bucket/a.pdf"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "https://example.com/a.wav", "format": "wav"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "image", "image": "/etc/passwd"},
        {"type": "text", "text": "Hello", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "odd", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "odd", "where": "https://example.com/a.png"},
    ],
)
def test_a_part_that_would_be_fetched_is_refused(part: dict[str, Any]) -> None:
    """No engine is sent to an address of the caller's choice; the hint tells to send the data itself."""
    text = {"type": "text", "text": "See https://example.com/a.png"}
    with pytest.raises(RequestMalformed, match="data: URL") as caught:
        parsed({"messages": [{"role": "user", "content": [text, part]}]})
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "image_url", "image_url": "data:image/png;base64,AA"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a: b.pdf"}},
        {"type": "text", "text": "http://example.com", "cache_control": {"type": "ephemeral"}},
        {"type": "refusal", "refusal": "https://example.com"},
        {"type": "tool_result", "content": [{"type": "text", "text": "https://example.com"}]},
    ],
)
def test_a_part_that_holds_its_data_passes(part: dict[str, Any]) -> None:
    """Inline data goes upstream as it came, and so does an address within prose."""
    body = {"messages": [{"role": "user", "content": [part]}]}
    assert parsed(body).body == body


def test_nulls_count_as_absent() -> None:
    """A field that is null is as good as not there."""
    nulls = ("model", "stream", "stream_options", "n", "metadata", "max_tokens", "min_tokens", "tools")
    body = chat() | dict.fromkeys((*nulls, "tool_choice", "response_format"))
    request = parsed(body)
    assert (request.model, request.stream, request.n, request.max_tokens) == ("auto", False, 1, None)
    assert request.hints == Hints()


def test_hints_come_from_metadata() -> None:
    """Every hint can be given in `metadata`, as OpenAI's strings or in its own type."""
    metadata = {
        "task_type": "fix_bug",
        "task_id": "t-1",
        "worker": "w-1",
        "session": " s-1 ",
        "priority": 5,
        "min_tier": "standard",
        "max_tier": "heavy",
        "local_only": "true",
        "capabilities": "security_analysis, code,",
        "context_tokens": "512",
        "history_length": 3,
    }
    expected = Hints(
        task_type="fix_bug",
        task_id="t-1",
        worker="w-1",
        session="s-1",
        priority="5",
        min_tier="standard",
        max_tier="heavy",
        local_only=True,
        capabilities=("security_analysis", "code"),
        context_tokens=512,
        history_length=3,
    )
    assert expected == parsed(chat(metadata=metadata)).hints
    assert metadata.keys() == METADATA_KEYS


def test_a_header_wins_over_metadata() -> None:
    """Where both speak, the header counts; a header that is no hint does not."""
    body = chat(metadata={"task_type": "fix_bug", "local_only": True, "worker": "w-1"})
    request = parse_chat(
        body,
        body_bytes=0,
        headers={"x-trivet-task-type": "ops", "x-trivet-local-only": "0", "x-trivet-else": "?"},
    )
    assert request.hints == Hints(task_type="ops", local_only=False, worker="w-1")


def test_a_priority_that_is_none_is_refused_where_it_can_only_be_a_slip() -> None:
    """Trivet's header names a priority, in either case; in `metadata` the word may be the caller's own."""
    assert parsed(chat(), priority="Batch").hints.priority == "batch"
    assert parsed(chat(metadata={"priority": "P1"})).hints.priority == "p1"
    with pytest.raises(RequestMalformed, match="one of batch, interactive, critical, not 'bach'") as refused:
        parsed(chat(), priority="bach")
    assert refused.value.param == "x-trivet-priority"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"task_type": "ops"}, None),
        ({}, None),
        ({"task_type": "ops", "tenant": "acme"}, {"tenant": "acme"}),
        ({"tenant": "acme"}, {"tenant": "acme"}),
    ],
)
def test_own_metadata_keys_do_not_go_upstream(
    metadata: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """Trivet's keys are taken out of what is forwarded, the others stay, and the caller's body is intact."""
    body = chat(metadata=dict(metadata))
    request = parsed(body)
    assert expected == request.body.get("metadata")
    assert metadata == body["metadata"]


def test_empty_hints_count_as_not_said() -> None:
    """An empty header or value is no hint."""
    request = parsed(
        chat(metadata={"context_tokens": "", "history_length": " "}), task_type="", local_only=""
    )
    assert request.hints == Hints()


@pytest.mark.parametrize(("value", "expected"), [(1, 0), ("x", 0), ({}, 1), ([[]], 2), ({"a": [{}]}, 3)])
def test_nesting_depth_counts_containers(value: Any, expected: int) -> None:
    """Depth is the number of containers within one another."""
    assert expected == nesting_depth(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "odd"])},
    optional={"text": st.text() | JSON, "image_url": JSON},
)
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES},
    optional={
        "content": st.text(st.characters()) | st.lists(PARTS, max_size=3) | JSON,
        "tool_calls": JSON,
        "name": JSON,
    },
)
BODIES = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=4) | JSON},
    optional={
        "model": st.sampled_from(["auto", "light", "heavy-1", "nope"]) | JSON,
        "n": st.integers(-1, 20) | JSON,
        "stream": st.booleans() | JSON,
        "stream_options": JSON,
        "max_tokens": st.integers() | JSON,
        "metadata": st.dictionaries(st.sampled_from(sorted(METADATA_KEYS)), JSON) | JSON,
        "tools": JSON,
        "response_format": JSON,
        "logprobs": JSON,
        "documents": JSON,
    },
)


@UNTIMED
@given(JSON | BODIES)
def test_any_json_is_parsed_or_refused(body: Any) -> None:
    """Arbitrary JSON either becomes a request that can be described, or is RequestMalformed."""
    try:
        request = parsed(body)
    except RequestMalformed:
        return
    needs = describe(request, text_limit_chars=100)
    assert len(needs.text) <= 100
    assert needs.prompt_bytes >= 0


@UNTIMED
@given(BODIES)
def test_any_json_is_decided_or_refused(body: Any) -> None:
    """Arbitrary JSON leads to a decision with candidates or to an error that is the request's."""
    try:
        decision = decide(body)
    except RequestError:
        return
    assert decision.candidates
    assert decision.max_output_tokens >= 1


@pytest.mark.parametrize("extra", [{"x": [[]] * 50_000}, {"x": [{"y": []}] * 25_000}])
def test_a_body_of_nothing_but_brackets_is_refused(extra: dict[str, Any]) -> None:
    """What every later step would have to walk through has a bound."""
    body = {"messages": [{"role": "user", "content": "Hello"}], **extra}
    with pytest.raises(RequestMalformed, match="50000 objects and lists"):
        parse_chat(body, body_bytes=9, headers={})
