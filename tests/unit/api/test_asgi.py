"""Reading JSON bodies strictly: what no engine could be sent is refused as the caller's fault."""

import contextlib
import gc
import json
from typing import Any

import pytest

from trivet.api.asgi import parse_json
from trivet.domain.errors import RequestMalformed


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large: 1e999"),
        (b'{"a": -1.5E+400}', "too large"),
        (b'{"a": ' + b"9" * 400 + b".0}", "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": 1, "a": 2}', "repeats a key"),
        (rb'{"a": "\ud800"}', "surrogate"),
        (rb'{"a": "\uDFFF\uD83D"}', "surrogate"),
        (rb'{"\udc00": 1}', "surrogate"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes, complaint: str) -> None:
    """Each fault is the request's, and named."""
    with pytest.raises(RequestMalformed, match=complaint):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}),
        (rb'["\\ud800"]', [r"\ud800"]),
        ('["\U0001f600"]'.encode(), ["\U0001f600"]),
        (b"[1.5, 1e3, -0.0, 1e-999]", [1.5, 1000.0, -0.0, 0.0]),
        (b"[" + b"9" * 4000 + b"]", [int("9" * 4000)]),
    ],
)
def test_sound_values_are_read(body: bytes, expected: Any) -> None:
    """Pairs of surrogates, escaped backslashes, small and long numbers are JSON like any other."""
    assert expected == parse_json(body)


def test_what_json_writes_is_read_back() -> None:
    """The usual body comes back as it was."""
    body = {"messages": [{"role": "user", "content": "Grüße, 你好 \U0001f600"}], "temperature": 0.25}
    assert body == parse_json(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"{}", b"{"])
@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(body: bytes, on: bool) -> None:
    """Whatever came of the body, and whoever had switched it off before."""
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with contextlib.suppress(RequestMalformed):
            parse_json(body)
        assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()
