"""The table from engines' statuses and words to Trivet's errors."""

import errno
import json
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineLoading,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from trivet.engines.faults import (
    MESSAGE_LIMIT_CHARS,
    clean_message,
    fault_from_body,
    fault_from_event,
    fault_from_exception,
    fault_from_status,
    message_in,
    retry_after_s,
)

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (302, "", EngineBroken),
        (400, "temperature must be non-negative", EngineRejected),
        (400, "This model's maximum context length is 256 tokens. However, ...", ContextOverflow),
        (400, "max_tokens=4000 cannot be greater than max_model_len=256", ContextOverflow),
        (400, "request (5017 tokens) exceeds the available context size (512 tokens)", ContextOverflow),
        (
            400,
            "the prompt is longer than the context length currently available to the model",
            ContextOverflow,
        ),
        (400, "the input length exceeds the context length", ContextOverflow),
        (401, "", EngineBroken),
        (403, "", EngineBroken),
        (404, "model 'x' not found", EngineBroken),
        (408, "", EngineTimeout),
        (413, "", EngineRejected),
        (422, "", EngineRejected),
        (425, "", EngineBusy),
        (429, "Loading model", EngineBusy),
        (500, "context", EngineBroken),
        (
            500,
            "Failed to parse messages: [json.exception.type_error.302] type must be string",
            EngineRejected,
        ),
        (500, "Failed to parse messages: Missing tool call type: {}", EngineRejected),
        (500, "Failed to parse tools: Unsupported tool type: {}; tools = []", EngineIncapable),
        (500, "audio input is not supported - hint: if this is unexpected, ...", EngineIncapable),
        (501, "", EngineBroken),
        (502, "", EngineBroken),
        (503, "The engine is currently busy", EngineBusy),
        (503, "Loading model", EngineLoading),
        (503, "server busy, please try again.  maximum pending requests exceeded", EngineBusy),
        (504, "", EngineTimeout),
        (529, "overloaded", EngineBusy),
        (204, "", EngineBroken),
    ],
)
def test_status(status: int, message: str, expected: type[EngineError]) -> None:
    """Every status is one error, and keeps its number."""
    fault = fault_from_status(status, message)
    assert (type(fault), fault.status) == (expected, status)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 12:00:30 -0000", 30.0),
        ("Fri, 20 Nov 2099 12:00:00 GMT", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("nan", None),
        ("9" * 400, None),
        ("", None),
    ],
)
@pytest.mark.parametrize("name", ["Retry-After", "retry-after"])
def test_retry_after(name: str, value: str, expected: float | None) -> None:
    """Seconds and HTTP dates are read; nonsense and far futures are not."""
    assert retry_after_s({name: value}, now=NOW) == expected
    assert fault_from_status(429, "", {name: value}, now=NOW).retry_after_s == expected


def test_no_headers() -> None:
    """Without headers there is no time to wait."""
    assert retry_after_s(None) is None


@pytest.mark.parametrize(
    ("error", "expected", "status"),
    [
        ({"message": "busy", "code": 503}, EngineBusy, 503),
        ({"message": "busy", "code": "503"}, EngineBusy, 503),
        ({"message": "no", "status": 400}, EngineRejected, 400),
        ({"message": "no", "type": "invalid_request_error", "code": None}, EngineRejected, 400),
        ({"message": "no", "type": "BadRequestError"}, EngineRejected, 400),
        ({"message": "no", "code": "context_length_exceeded"}, ContextOverflow, 400),
        ({"message": "too long", "type": "exceed_context_size_error"}, ContextOverflow, 400),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, EngineBusy, 429),
        ({"message": "died", "type": "server_error", "code": True}, EngineBroken, 500),
        ({"message": "odd", "code": 200}, EngineBroken, 500),
        ("it broke", EngineBroken, 500),
        (None, EngineBroken, 500),
        (7, EngineBroken, 500),
    ],
)
def test_error_objects_inside_a_200(error: Any, expected: type[EngineError], status: int) -> None:
    """An error object is the error that its code or type names."""
    fault = fault_from_event(error)
    assert (type(fault), fault.status) == (expected, status)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"a","code":400}}', "a"),
        (b'{"error":"b"}', "b"),
        (b'{"object":"error","message":"c"}', "c"),
        (b'{"detail":"d"}', "d"),
        (b'{"detail":[{"loc":["body"]}]}', '[{"loc": ["body"]}]'),
        (b'{"error":{"code":1}}', '{"code": 1}'),
        (b'"text"', "text"),
        (b"plain words\n", "plain words"),
        (b"<html><body>502</body></html>", ""),
        (b"[1]", ""),
        (b"{}", ""),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_words_in_bodies(body: bytes, expected: str) -> None:
    """The engine's words are found in every known shape."""
    assert message_in(body) == expected


def test_a_model_that_is_not_served() -> None:
    """A 404 is the operator's to mend, and another engine may be tried."""
    fault = fault_from_status(404, "The model `x` does not exist.")
    assert fault.retryable
    assert "`x`" in fault.message
    assert "does not serve that model now" in str(fault)


def test_a_prompt_that_does_not_fit() -> None:
    """The caller is told what it can do, and not what only the operator could."""
    words = "request (60 tokens) exceeds the available context size (20 tokens), try increasing it"
    fault = fault_from_status(400, words)
    assert str(fault) == (
        "The prompt does not fit the engine's context: request (60 tokens) exceeds the available context size"
        " (20 tokens). Shorten the prompt or drop old turns."
    )
    assert fault.param == "messages"


def test_messages_are_fit_for_tenants() -> None:
    """Addresses are removed, control characters too, and length is capped."""
    told = clean_message("see http://10.0.0.7:8000/docs\r\nor 192.168.1.4:80 or localhost:11434")
    assert told == "see (address) or (address) or (address)"
    assert len(clean_message("x" * 10_000)) == MESSAGE_LIMIT_CHARS


@pytest.mark.parametrize("text", ["x", "7", "中", "://", "1.", " ", "http:"])
def test_endless_words(text: str) -> None:
    """An engine may repeat a whole prompt: its size does not decide how long others wait for the event loop.

    Looking for addresses took half an hour when the time grew with the square of the length.
    """
    body = json.dumps({"error": {"message": "Bad request: " + text * (1_000_000 // len(text))}}).encode()
    fault = fault_from_body(400, body)
    assert isinstance(fault, EngineRejected)
    assert len(str(fault)) < 2 * MESSAGE_LIMIT_CHARS


def test_body() -> None:
    """A body's words decide like a status's message."""
    body = b'{"error":{"message":"too long","type":"exceed_context_size_error","code":400}}'
    assert isinstance(fault_from_body(400, body), ContextOverflow)
    assert "api_key" in str(fault_from_body(401, b""))


@pytest.mark.parametrize(
    ("error", "answered", "expected"),
    [
        (aiohttp.ConnectionTimeoutError(), False, EngineUnavailable),
        (TimeoutError(), False, EngineTimeout),
        (aiohttp.ServerDisconnectedError(), False, EngineBroken),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), False, EngineUnavailable),
        (aiohttp.ClientPayloadError(), True, EngineBroken),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), True, EngineBroken),
        (aiohttp.ClientError(), False, EngineBroken),
    ],
)
def test_exceptions(error: Exception, answered: bool, expected: type[EngineError]) -> None:
    """The HTTP client's exceptions are told apart by what they prove."""
    assert type(fault_from_exception(error, answered=answered)) is expected
