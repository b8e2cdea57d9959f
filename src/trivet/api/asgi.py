"""The little of ASGI that the inference routes need, without a framework in their way."""

import gc
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from trivet.domain.errors import BodyTooLarge, RequestMalformed
from trivet.domain.ids import new_id
from trivet.domain.time_limits import at_once_or_within

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_TIMEOUT_S = 30.0
HEADER_CHARS_MAX = 500
_NO_HEADERS: Mapping[str, str] = {}
_ALWAYS = ((b"cache-control", b"no-store"), (b"vary", b"Authorization"))
STREAM_FIELDS = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
"""Of a stream that no proxy should buffer."""

_BLANKS = " \t\r\n"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """What a body may be at most."""

    limit_bytes: int
    timeout_s: float = BODY_TIMEOUT_S
    """How long it may take to arrive."""


class ClientGone(Exception):
    """The client closed the connection."""


new_request_id = new_id
"""Return a name for a request; always Trivet's own, never the client's."""


def header_map(scope: Scope) -> dict[str, str]:
    """Return the request's headers, names in lower case; of repeated ones the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def read_body(
    receive: Receive,
    *,
    limit_bytes: int,
    hint: str = "Send less, or raise server.body_limit_bytes.",
    timeout_s: float = BODY_TIMEOUT_S,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> bytes:
    """Read the whole body within its bounds of size and time.

    Args:
        receive: gives the parts.
        limit_bytes: the most that it may hold; one that is announced to hold more is not waited for.
        hint: what to do about a body that holds more.
        timeout_s: how long it may take.
        headers: of the request.

    Raises:
        BodyTooLarge, RequestMalformed, ClientGone
    """
    if int(headers.get("content-length", 0)) > limit_bytes:
        raise BodyTooLarge(f"The body exceeds {limit_bytes} bytes.", hint=hint)
    parts: list[bytes] = []
    size = 0

    async def read() -> bytes:
        nonlocal size
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise BodyTooLarge(f"The body exceeds {limit_bytes} bytes.", hint=hint)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    try:
        return await at_once_or_within(timeout_s, read())
    except TimeoutError:
        raise RequestMalformed(f"The body did not arrive within {timeout_s:g} s.") from None


def parse_json(body: bytes) -> Any:
    """Parse a JSON body strictly: no NaN, no number beyond a double, no repeated keys, no lone surrogates.

    Raises:
        RequestMalformed: with the position of the fault.
    """
    if not body.strip():
        raise RequestMalformed(
            "The body is empty.", hint='Send JSON, for example {"model": "auto", "messages": [...]}.'
        )
    try:
        return _strict(body)
    except json.JSONDecodeError as error:
        raise RequestMalformed(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except UnicodeDecodeError:
        raise RequestMalformed("The body is not UTF-8.") from None
    except UnicodeEncodeError:
        raise RequestMalformed(
            "The body holds half a surrogate pair, which is no character.",
            hint="Escape what lies beyond U+FFFF as a pair, or send it as UTF-8.",
        ) from None
    except ValueError:
        # What is left is Python's bound on the digits that it converts; the work grows with their square.
        raise RequestMalformed("The body holds a whole number with thousands of digits.") from None
    except RecursionError:
        raise RequestMalformed("The body is nested too deeply.") from None


def _strict(body: bytes) -> Any:
    text = body.decode("utf-8")
    # The garbage collector is kept away from a document that is being read: all of it is alive. A body of
    # nothing but brackets would have it walk through all of them again and again, ten times as long as
    # reading them takes, and nobody else is served meanwhile.
    was_on = gc.isenabled()
    gc.disable()
    try:
        if text[0] in _BLANKS:
            document = _STRICT.decode(text)
        else:
            document, end = _STRICT.raw_decode(text)
            if end != len(text) and (rest := text[end:].lstrip(_BLANKS)):
                raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    finally:
        if was_on:
            gc.enable()
    # Decoded UTF-8 holds no surrogates, so only escapes can make them: most bodies skip this.
    if b"\\u" in body and _SURROGATE_ESCAPE.search(body):
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    return document


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise RequestMalformed(f"The body holds a number that is too large: {text[:40]}.")
    return value


def _refuse_constant(name: str) -> Any:
    raise RequestMalformed(f"The body is not JSON: {name} is not a JSON number.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestMalformed("The body repeats a key within one object; which value counts is not clear.")
    return found


_STRICT = json.JSONDecoder(
    parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
)


async def send_whole(
    send: Send,
    *,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    content_type: str = "application/json",
) -> None:
    """Send a response in one piece."""
    await send(_start(status, {"content-type": content_type, "content-length": str(len(body)), **headers}))
    await send({"type": "http.response.body", "body": body})


async def start_stream(send: Send, *, headers: Mapping[str, str]) -> None:
    """Begin a 200 SSE response that no proxy should buffer or keep."""
    await send(_start(200, {**STREAM_FIELDS, **headers}))


async def send_part(send: Send, data: bytes, *, more: bool = True) -> None:
    """Send a part of a streamed body; waits while the client reads slowly."""
    await send({"type": "http.response.body", "body": data, "more_body": more})


def _start(status: int, headers: Mapping[str, str]) -> Message:
    encoded = [
        *_ALWAYS,
        *((name.encode("latin-1"), clean_text(value).encode("ascii")) for name, value in headers.items()),
    ]
    return {"type": "http.response.start", "status": status, "headers": encoded}


def clean_text(value: str) -> str:
    """Make any text safe as a header value: ASCII, no control characters, at most 500 of them."""
    value = value[:HEADER_CHARS_MAX]
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value)
