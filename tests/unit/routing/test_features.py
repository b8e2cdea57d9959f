"""Describing a request: its text, its size, its needs."""

import json
from typing import Any

import pytest

from tests.unit.routing.parts import chat
from trivet.domain.requests import Needs
from trivet.routing import describe, parse_chat
from trivet.routing.features import prompt_ceiling_tokens
from trivet.routing.prompt_size import MEDIA_PART_BYTES

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "enum": ["Rome", "Oslo"]},
                "days": {"type": "integer"},
            },
            "required": ["place"],
        },
    },
}


def described(body: dict[str, Any], limit: int = 3000) -> Needs:
    """Parse and describe a body."""
    return describe(parse_chat(body, body_bytes=0, headers={}), text_limit_chars=limit)


def conversation(*messages: tuple[str, Any]) -> dict[str, Any]:
    """Return a body with messages of (role, content)."""
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def test_the_text_is_the_last_users() -> None:
    """The last user message is scored, whatever follows it."""
    body = conversation(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))
    assert described(body).text == "three"


def test_without_a_user_the_last_message_is_the_text() -> None:
    """A conversation of system and tool messages is scored by its last."""
    assert described(conversation(("system", "one"), ("tool", "two"))).text == "two"


def test_parts_are_joined_and_capped() -> None:
    """Text parts are joined by line ends and cut at the limit; other parts have no text."""
    parts = [{"type": "text", "text": "abc"}, IMAGE, {"type": "text", "text": "def"}]
    assert described(conversation(("user", parts))).text == "abc\ndef"
    assert described(conversation(("user", parts)), limit=5).text == "abc\nd"
    assert described(conversation(("user", parts)), limit=2).text == "ab"
    assert described(conversation(("user", "abcdef")), limit=4).text == "abcd"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat(), set()),
        (chat(tools=None), set()),
        (chat(tools=[TOOL]), {"tools"}),
        (chat(functions=[TOOL["function"]]), {"tools"}),
        (conversation(("user", [IMAGE]), ("user", "?")), {"vision"}),
        (conversation(("user", [{"type": "input_audio", "input_audio": {}}])), set()),
        (chat(response_format={"type": "json_object"}), {"json_schema"}),
        (chat(response_format={"type": "json_schema", "json_schema": {}}), {"json_schema"}),
        (chat(response_format={"type": "text"}), set()),
        (chat(logprobs=True), {"logprobs"}),
        (chat(logprobs=False), set()),
    ],
)
def test_capabilities_are_read_off_the_body(body: dict[str, Any], expected: set[str]) -> None:
    """Tools, images, schemas and log-probabilities each ask for a capability."""
    assert expected == described(body).capabilities


def test_prompt_bytes_of_plain_text_are_its_utf8_bytes() -> None:
    """Content and role are counted in UTF-8 bytes; parameters are not."""
    needs = described(chat("h\u00e4\U0001f600", temperature=0.5, stop=["END"], user="ana"))
    assert needs.prompt_bytes == len("user") + 7


def test_half_a_surrogate_pair_counts_three_bytes() -> None:
    """A lone surrogate is counted as the replacement character that it becomes."""
    assert described(chat("\ud800")).prompt_bytes == len("user") + 3


def test_an_image_has_a_fixed_allowance() -> None:
    """The size of an image's data says nothing about its tokens."""
    needs = described(
        conversation(("user", [IMAGE, {"type": "input_audio", "input_audio": {"data": "A" * 9}}]))
    )
    assert needs.prompt_bytes == len("user") + 2 * MEDIA_PART_BYTES


def test_an_unknown_part_counts_as_its_json() -> None:
    """A part of unknown kind is assumed to become prompt as a whole."""
    part = {"type": "odd", "data": "x" * 500}
    assert described(conversation(("user", [part]))).prompt_bytes >= len(json.dumps(part))


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [TOOL]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": TOOL}}},
        {"documents": [{"title": "t", "text": "x" * 300}]},
        {"guided_regex": "x" * 300},
    ],
)
def test_what_becomes_prompt_is_counted(field: dict[str, Any]) -> None:
    """Tools, schemas and fields that Trivet does not know add at least their JSON to the prompt."""
    added = described(chat(**field)).prompt_bytes - described(chat()).prompt_bytes
    value = next(iter(field.values()))
    assert added >= len(value if isinstance(value, str) else json.dumps(value))


def test_tool_calls_and_results_are_counted() -> None:
    """What an assistant called and what came back are part of the prompt."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Oslo"}'}}
    body = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ]
    }
    expected = len("user?assistanttoolc1sunny") + len(json.dumps([call]))
    assert described(body).prompt_bytes >= expected


def test_the_ceiling_adds_templates_to_bytes() -> None:
    """The ceiling is the bytes, 16 tokens for each message, and the template's own tokens."""
    needs = described(conversation(("system", "abc"), ("user", "de")))
    assert prompt_ceiling_tokens(needs, 64) == len("systemuser") + 5 + 2 * 16 + 64


def test_history_is_counted_or_told() -> None:
    """User messages before the last one are turns, unless the caller says how many there were."""
    body = conversation(("user", "1"), ("assistant", "2"), ("user", "3"), ("user", "4"))
    assert described(body).history_length == 2
    assert described({**body, "metadata": {"history_length": "9"}}).history_length == 9
    assert described({**body, "metadata": {"history_length": 0}}).history_length == 0


def test_context_is_told_or_guessed() -> None:
    """Without a hint, text beside the scored message counts as context at four characters a token."""
    assert described(chat("x" * 100)).context_tokens == 0
    body = conversation(("system", "x" * 400), ("user", "Why?"))
    assert described(body).context_tokens == 100
    assert described({**body, "metadata": {"context_tokens": 7}}).context_tokens == 7


def test_hints_are_handed_on() -> None:
    """Task type and the agent's capabilities reach the router."""
    needs = described(chat(metadata={"task_type": "fix_bug", "capabilities": ["code"]}))
    assert (needs.task_type, needs.agent_capabilities) == ("fix_bug", ("code",))
