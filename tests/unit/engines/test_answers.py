"""Whole chat completions: what is read of them besides their bytes."""

import json
from typing import Any

import pytest

from trivet.engines.answers import plain_reply


def completion(*messages: Any) -> bytes:
    """Return an answer with these messages, each a choice."""
    return json.dumps({"choices": [{"message": one, "finish_reason": "stop"} for one in messages]}).encode()


@pytest.mark.parametrize(
    ("messages", "events", "size"),
    [
        ([{"role": "assistant", "content": "h\u00e9llo"}], 1, 6),
        ([{"role": "assistant", "content": ""}], 0, 0),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "bc"}], 2, 3),
        ([{"role": "assistant", "content": "half a pair: \ud83d"}], 1, 16),
        ([None], 0, 4),
    ],
)
def test_what_was_said(messages: list[Any], events: int, size: int) -> None:
    """Text counts by its bytes, also where it is no whole character; who says nothing generated nothing."""
    reply = plain_reply(completion(*messages))
    assert (reply.content_events, reply.content_bytes, reply.finished) == (events, size, True)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "assistant", "content": "", "refusal": "no"},
    ],
)
def test_what_is_no_text_counts_with_its_envelope(message: dict[str, Any]) -> None:
    """It is spread over fields: all of the message is a ceiling."""
    reply = plain_reply(completion(message))
    assert (reply.content_events, reply.content_bytes) == (1, len(json.dumps(message)))
