"""Say in Trivet's words what went wrong at an engine: the one table of statuses, texts and exceptions."""

import errno
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

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

MESSAGE_LIMIT_CHARS = 400
WORDS_READ_CHARS = 4 * MESSAGE_LIMIT_CHARS
"""What is looked at of an engine's words to show them: they may repeat a whole prompt."""
RETRY_AFTER_LIMIT_S = 24 * 3600.0
API_KEY_HINT = "Check the deployment's `api_key`."
SHORTEN_HINT = "Shorten the prompt or drop old turns."
SERVED_HINT = "The engine does not serve that model now: check the deployment's `model` and `url`."

_CONTEXT_OVERFLOW = re.compile(
    r"maximum context length"  # vLLM, OpenAI
    r"|cannot be greater than max_model_len"  # vLLM, an output cap beyond the window
    r"|exceeds the available context size|exceed_context_size_error"  # llama.cpp
    r"|is too large to process"  # llama.cpp, a text for a vector; with status 500
    r"|context_length_exceeded"  # OpenAI's code
    r"|longer than the context length|input length exceeds the context length",  # Ollama
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"maximum context length is (\d{1,9})"  # vLLM, OpenAI
    r"|max_model_len=(\d{1,9})"  # vLLM
    r"|available context size \((\d{1,9})",  # llama.cpp
    re.IGNORECASE,
)
"""The window's size in tokens, where an engine names it."""
# llama.cpp answers a request that it cannot read, or has no means for, with 500, as if it had failed itself.
_REQUESTS_FAULT = re.compile(
    r"Failed to parse (?:messages|tools)|\[json\.exception\.|Unknown reasoning format"
)
_BEYOND_ENGINE = re.compile(r"\binput is not supported\b|Unsupported tool(?: call)? type")
_ADVICE = re.compile(
    r",? try increasing it\b|\. increase the physical batch size.*"
    r"| - hint: if this is unexpected, you may need to provide the mmproj"
)
_TOO_LARGE = re.compile(r"\binput \(\d+ tokens\) is too large to process")
_LOADING = re.compile(r"loading model", re.IGNORECASE)
_ADDRESS = re.compile(r"\w{1,32}://\S+|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\blocalhost:\d+\b", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]+")
_OVERFLOW_MARKS = ("exceed_context_size_error", "context_length_exceeded")
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "bad request": 400,
    "exceed_context_size_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "notfounderror": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 503,
    "service unavailable": 503,
    "unavailable_error": 503,
}


def fault_from_status(
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    now: datetime | None = None,
) -> EngineError:
    """Return the error that an engine's HTTP status and message stand for.

    Args:
        status: the HTTP status, or the `code` of an error event inside a stream.
        message: the engine's own words; shown capped and without addresses.
        headers: of the answer; `Retry-After` is read as seconds or as an HTTP date.
        now: the wall time that an HTTP date is compared with, by default this machine's.
    """
    words = clean_message(
        _ADVICE.sub("", message[:WORDS_READ_CHARS])
    )  # what the operator might do is no advice for a tenant
    said = f": {words}" if words else "."
    if status == 429 or (status in (425, 503, 529) and not _LOADING.search(message)):
        wait_s = retry_after_s(headers, now=now)
        return EngineBusy(f"The engine is busy ({status}){said}", status=status, retry_after_s=wait_s)
    if status in (425, 503, 529):
        wait_s = retry_after_s(headers, now=now)
        return EngineLoading("The engine is still loading its model.", status=status, retry_after_s=wait_s)
    if status in (401, 403):
        return EngineBroken(
            f"The engine refused Trivet's credentials ({status}).", status=status, hint=API_KEY_HINT
        )
    if status in (408, 504):
        return EngineTimeout(f"The engine timed out ({status}){said}", status=status)
    if status == 404:
        # Trivet chose the model's name and the path, so this is never the caller's fault.
        return EngineBroken(
            f"The engine does not know what it was asked for (404){_stop(said)}",
            status=status,
            hint=SERVED_HINT,
        )
    if 400 <= status < 500 or (status == 500 and _TOO_LARGE.search(message)):
        if _CONTEXT_OVERFLOW.search(message):
            return ContextOverflow(
                f"The prompt does not fit the engine's context{_stop(said)}",
                status=status,
                hint=SHORTEN_HINT,
                param="messages",
                details=_window_in(message),
            )
        return EngineRejected(f"The engine refused the request ({status}){said}", status=status)
    if 300 <= status < 400:
        hint = "Set the deployment's `url` to where it leads."
        return EngineBroken(f"The engine answered with a redirect ({status}).", status=status, hint=hint)
    if _BEYOND_ENGINE.search(message):
        return EngineIncapable(f"The engine cannot do what the request asks ({status}){said}", status=status)
    if _REQUESTS_FAULT.search(message):
        return EngineRejected(f"The engine cannot read the request ({status}){said}", status=status)
    return EngineBroken(f"The engine failed ({status}){said}", status=status)


def fault_from_body(
    status: int, body: bytes, headers: Mapping[str, str] | None = None, *, now: datetime | None = None
) -> EngineError:
    """Return the error that an HTTP answer other than 200 stands for."""
    return fault_from_status(status, message_in(body), headers, now=now)


def fault_from_event(error: Any) -> EngineError:
    """Return the error that an `error` object inside a 200 answer stands for, such as vLLM's full queue."""
    return fault_from_status(_status_in(error), _words(error))


def fault_from_exception(error: Exception, *, answered: bool) -> EngineError:
    """Return the error that an aiohttp exception stands for.

    Args:
        error: an aiohttp.ClientError, a TimeoutError or an OSError.
        answered: whether the answer's head had arrived.
    """
    if isinstance(error, aiohttp.ServerTimeoutError):
        return EngineUnavailable("The engine does not accept connections in time.")
    if isinstance(error, TimeoutError):
        return EngineTimeout("The engine did not answer in time.")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return EngineUnavailable("The engine's host name cannot be resolved.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return EngineUnavailable("No trusted TLS connection to the engine could be made.")
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = error.errno == errno.ECONNREFUSED
        return EngineUnavailable(f"The engine {'refuses connections' if refused else 'cannot be reached'}.")
    if answered or isinstance(error, aiohttp.ServerDisconnectedError):
        return EngineBroken(
            f"The engine closed the connection {'amid its' if answered else 'without an'} answer."
        )
    if isinstance(error, OSError):
        return EngineUnavailable("The engine reset the connection before it answered.")
    return EngineBroken("The engine's answer is not HTTP.")


def message_in(body: bytes) -> str:
    """Return the engine's own words in an error body of any known shape; empty for an HTML page."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        text = body[:WORDS_READ_CHARS].decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text
    return _words(document)


def clean_message(message: str) -> str:
    """Return an engine's words fit for a tenant: one line, capped, no addresses of internal machines."""
    line = _UNPRINTABLE.sub(" ", _ADDRESS.sub("(address)", message[:WORDS_READ_CHARS])).strip()
    return line if len(line) <= MESSAGE_LIMIT_CHARS else line[: MESSAGE_LIMIT_CHARS - 1].rstrip() + "…"


def retry_after_s(headers: Mapping[str, str] | None, *, now: datetime | None = None) -> float | None:
    """Return the `Retry-After` header in seconds, or None where it is absent or makes no sense."""
    value = next(
        (headers[name] for name in ("Retry-After", "retry-after") if headers and name in headers), ""
    )
    if value.strip().isascii() and value.strip().isdigit():
        wait_s = float(value[:20])
    else:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        wait_s = max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds())
    return wait_s if wait_s <= RETRY_AFTER_LIMIT_S else None


def _window_in(message: str) -> dict[str, int]:
    found = _WINDOW.search(message)
    return {"context_tokens": int(next(filter(None, found.groups())))} if found else {}


def _stop(said: str) -> str:
    """End an engine's words as a sentence, because a hint follows."""
    return said if said.endswith((".", "!", "?", "…")) else f"{said}."


def _words(document: Any) -> str:
    # {"error": {"message"}} OpenAI, {"error": "text"} Ollama, {"message"} old vLLM, {"detail"} FastAPI
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        return ""
    for key in ("error", "message", "detail"):
        inner = document.get(key)
        if inner:
            words = inner if isinstance(inner, str) else _words(inner) or json.dumps(inner)
            # A type or code alone may mark an overflow; it is put where the table looks.
            marks = [document.get(name) for name in ("type", "code")]
            return next((f"{words} ({mark})" for mark in marks if mark in _OVERFLOW_MARKS), words)
    return ""


def _status_in(error: Any) -> int:
    if not isinstance(error, dict):
        return 500
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:4])
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    names = (error.get("type"), error.get("code"))
    found = [
        _STATUS_OF_TYPE[name.lower()]
        for name in names
        if isinstance(name, str) and name.lower() in _STATUS_OF_TYPE
    ]
    return found[0] if found else 500
