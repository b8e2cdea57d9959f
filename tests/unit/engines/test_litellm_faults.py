"""What LiteLLM's exceptions are taken for."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from trivet.engines.litellm import load_library
from trivet.engines.litellm_faults import connection_broke, engine_faults, fault_from_litellm

WHERE: dict[str, Any] = {"llm_provider": "openai", "model": "m"}
Raise = Callable[[Any], None]


@pytest.fixture(scope="module")
def litellm() -> Any:
    """Give LiteLLM itself, loaded as the transport loads it."""
    return load_library().litellm


def timed_out(litellm: Any) -> None:
    """LiteLLM's own time limit."""
    raise litellm.Timeout(message="Connection timed out after 3 s", **WHERE)


def limited(litellm: Any) -> None:
    """A provider's rate limit whose HTTP answer is nowhere in the chain."""
    error = litellm.RateLimitError(message="litellm.RateLimitError: slow down", **WHERE)
    error.litellm_response_headers = {"Retry-After": "7"}
    raise error


def overflow(litellm: Any) -> None:
    """A prompt that is too long, in the words of a provider that we do not know."""
    raise litellm.ContextWindowExceededError(message="prompt too big", **WHERE)


def unknown_field(litellm: Any) -> None:
    """A field that LiteLLM cannot say to the provider."""
    raise litellm.UnsupportedParamsError(message="does not support: ['n']", **WHERE)


def no_provider(litellm: Any) -> None:
    """A model string without a provider."""
    raise litellm.BadRequestError(message="LLM Provider NOT provided. You passed model=m", **WHERE)


def bad_request(litellm: Any) -> None:
    """A refusal."""
    raise litellm.BadRequestError(message="litellm.BadRequestError: XException - temperature is bad", **WHERE)


def denied(litellm: Any) -> None:
    """A wrong key."""
    raise litellm.AuthenticationError(message="no", **WHERE)


def full(litellm: Any) -> None:
    """A full queue said in a stream: LiteLLM wraps it twice."""
    original = litellm.ServiceUnavailableError(message="busy", **WHERE)
    raise litellm.exceptions.MidStreamFallbackError(
        message="busy", original_exception=original, is_pre_first_chunk=True, **WHERE
    )


def refused(litellm: Any) -> None:
    """A refused connection, which LiteLLM calls an internal server error."""
    key = ConnectionKey(
        "127.0.0.1", 9, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )
    cause = aiohttp.ClientConnectorError(
        key, ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")
    )
    raise litellm.InternalServerError(message="Connection error.", **WHERE) from cause


def cut(litellm: Any) -> None:
    """A connection that broke amid an answer."""
    cause = aiohttp.ClientPayloadError("Response payload is not completed")
    raise litellm.APIConnectionError(message="not completed", **WHERE) from cause


def ollama_error_line(litellm: Any) -> None:
    """An error line of Ollama's, which LiteLLM takes for a client's error."""
    said = "KeyError: 'message', Got unexpected response from Ollama: {'error': 'runner stopped'}"
    raise litellm.BadRequestError(message=f"Ollama_chatException - {said}", **WHERE)


def ollama_nonsense(litellm: Any) -> None:
    """A line that is not Ollama's."""
    said = "KeyError: 'message', Got unexpected response from Ollama: {'id': <1>}"
    raise litellm.BadRequestError(message=said, **WHERE)


def unreadable(litellm: Any) -> None:
    """A traceback that LiteLLM puts into its message."""
    cause = ValueError("Expecting value: line 1")
    raise litellm.APIConnectionError(message="Traceback (most recent call last): secret", **WHERE) from cause


def of_another_library(_litellm: Any) -> None:
    """An exception of a provider's own library."""
    raise RuntimeError("Traceback: secret")


@pytest.mark.parametrize(
    ("raised", "expected", "status"),
    [
        (timed_out, EngineTimeout, None),
        (limited, EngineBusy, 429),
        (overflow, ContextOverflow, 400),
        (unknown_field, EngineIncapable, None),
        (no_provider, EngineBroken, None),
        (bad_request, EngineRejected, 400),
        (denied, EngineBroken, 401),
        (full, EngineBusy, 503),
        (refused, EngineUnavailable, None),
        (cut, EngineBroken, None),
        (ollama_error_line, EngineBroken, 500),
        (ollama_nonsense, EngineBroken, 200),
        (unreadable, EngineBroken, 200),
        (of_another_library, EngineBroken, None),
    ],
)
def test_exceptions(litellm: Any, raised: Raise, expected: type[EngineError], status: int | None) -> None:
    """Every exception becomes the EngineError that it stands for, without its traceback."""
    with pytest.raises(EngineError) as caught, engine_faults(answered=False):
        raised(litellm)
    assert (type(caught.value), caught.value.status) == (expected, status)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (bad_request, "temperature is bad"),
        (ollama_error_line, "runner stopped"),
        (no_provider, "provider/model"),
        (unknown_field, "'n'"),
    ],
)
def test_words(litellm: Any, raised: Raise, words: str) -> None:
    """What an operator can act on is kept, LiteLLM's own prefixes are not."""
    with pytest.raises(EngineError, match=words) as caught, engine_faults(answered=False):
        raised(litellm)
    assert "Exception - " not in str(caught.value)


def test_retry_after(litellm: Any) -> None:
    """The seconds that a provider names are kept, however its header is written."""
    with pytest.raises(EngineBusy) as caught, engine_faults(answered=False):
        limited(litellm)
    assert caught.value.retry_after_s == 7.0


def test_engine_errors_pass() -> None:
    """An EngineError is let through as it is."""
    error = EngineBusy("full")
    with pytest.raises(EngineBusy) as caught, engine_faults(answered=True):
        raise error
    assert caught.value is error


def test_cancellation_passes() -> None:
    """A cancelled call stays cancelled."""
    with pytest.raises(asyncio.CancelledError), engine_faults(answered=True):
        raise asyncio.CancelledError


@pytest.mark.parametrize(("raised", "expected"), [(cut, True), (refused, True), (unreadable, False)])
def test_connection_broke(litellm: Any, raised: Raise, expected: bool) -> None:
    """A connection that ended is told apart from words that make no sense."""
    with pytest.raises(EngineError) as caught, engine_faults(answered=True):
        raised(litellm)
    assert connection_broke(caught.value) is expected


def test_a_circle_of_causes_ends() -> None:
    """Exceptions that cause each other are followed once."""
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert type(fault_from_litellm(first, answered=True)) is EngineBroken


def test_no_look_for_secrets(litellm: Any) -> None:
    """LiteLLM's own look for secrets takes the event loop three seconds for each megabyte of an error."""
    assert litellm
    assert os.environ["LITELLM_DISABLE_REDACT_SECRETS"] == "true"
