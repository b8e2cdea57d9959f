"""Usage as engines report it, believed or not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.outcomes import Usage
from trivet.engines.usage import TOKENS_BELIEVABLE, parse_usage


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        (
            {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}},
            Usage(3, 4, cached_tokens=2),
        ),
        (
            {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(3, 4, cached_tokens=3),
        ),
        (
            {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": "2"}},
            Usage(3, 4),
        ),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(3, 4)),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": "3", "completion_tokens": 4}, None),
        ({"prompt_tokens": 3.0, "completion_tokens": 4}, None),
        ({"prompt_tokens": 3, "completion_tokens": TOKENS_BELIEVABLE + 1}, None),
        ({"prompt_tokens": 3}, None),
        ({}, None),
        (None, None),
        ([], None),
        ("usage", None),
    ],
)
def test_parse(reported: Any, expected: Usage | None) -> None:
    """Only whole, plausible counts are believed."""
    assert parse_usage(reported) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(prompt=JSON, completion=JSON, details=JSON)
def test_nothing_raises(prompt: Any, completion: Any, details: Any) -> None:
    """No JSON value makes the reader fail, and what it believes is never negative."""
    reported = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    usage = parse_usage(reported)
    if usage is not None:
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens <= TOKENS_BELIEVABLE
