"""Reading a batch: a file of requests in the lines of OpenAI's Batch API, each checked before any is taken.

`{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}`
(platform.openai.com/docs/guides/batch).
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trivet.api.asgi import parse_json
from trivet.batches import LineOrder
from trivet.domain.errors import BodyTooLarge, RequestError, RequestMalformed
from trivet.domain.requests import ChatRequest
from trivet.domain.surfaces import Surface
from trivet.execution.batch_errand import SURFACES
from trivet.routing import parse_request

CUSTOM_ID_CHARS_MAX = 200
FIELDS = frozenset({"custom_id", "method", "url", "body"})
BREATH_BYTES = 128 * 1024
"""After so much, others' requests have their turn."""
_SHAPE = 'A line is {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}.'


@dataclass(frozen=True, slots=True)
class BatchFile:
    """What was read."""

    lines: tuple[LineOrder, ...]
    first_of_model: dict[str, tuple[int, ChatRequest]]
    """By what stands in `model`: the first line that has it, with its number."""


async def read_batch(body: bytes, *, max_lines: int, line_limit_bytes: int) -> BatchFile:
    """Check every line of a file; blank ones do not count.

    Raises:
        RequestMalformed, BodyTooLarge: the first fault; `details["line"]` is the line's number, from 1.
    """
    lines: list[LineOrder] = []
    seen: dict[str, int] = {}
    models: dict[str, tuple[int, ChatRequest]] = {}
    since_breath = 0
    for number, raw in _lines(body):
        if len(lines) == max_lines:
            raise RequestMalformed(
                f"The batch holds more than {max_lines} requests.",
                hint="Split it, or raise batch.max_lines.",
                details={"line": number},
            )
        try:
            line, request = _checked(number, raw, line_limit_bytes)
            _check_new(line, seen)
        except RequestError as error:
            error.message = f"Line {number}: {error.message}"
            error.args = (error.message,)
            error.details["line"] = number
            raise
        lines.append(line)
        models.setdefault(request.model, (number, request))
        since_breath += len(raw)
        if since_breath > BREATH_BYTES:
            since_breath = 0
            await asyncio.sleep(0)
    if not lines:
        raise RequestMalformed("The batch is empty.", hint=_SHAPE)
    return BatchFile(tuple(lines), models)


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers, one copy at a time."""
    start, number = 0, 0
    while start < len(body):
        number += 1
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        line = body[start:end].strip()
        if line:
            yield number, line
        start = end + 1


def _checked(number: int, raw: bytes, limit_bytes: int) -> tuple[LineOrder, ChatRequest]:
    if len(raw) > limit_bytes:
        raise BodyTooLarge(
            f"it exceeds {limit_bytes} bytes.", hint="Send less, or raise server.body_limit_bytes."
        )
    document = parse_json(raw)
    if not isinstance(document, dict):
        raise RequestMalformed("it is no JSON object.", hint=_SHAPE)
    strange = sorted(set(document) - FIELDS)
    if strange:
        raise RequestMalformed(f"it holds {strange[0][:40]!a}.", hint=_SHAPE, param=strange[0][:40])
    custom_id = document.get("custom_id")
    if (
        not isinstance(custom_id, str)
        or not 1 <= len(custom_id) <= CUSTOM_ID_CHARS_MAX
        or not custom_id.isprintable()
    ):
        raise RequestMalformed(
            f"custom_id must be a string of 1 to {CUSTOM_ID_CHARS_MAX} printable characters.",
            param="custom_id",
        )
    if document.get("method", "POST") != "POST":
        raise RequestMalformed("method must be POST.", param="method")
    url = document.get("url")
    if not isinstance(url, str) or url not in SURFACES:
        raise RequestMalformed(f"url must be one of {', '.join(SURFACES)}.", param="url")
    request = _request(SURFACES[url], document.get("body"), len(raw))
    # As it was checked, on one line; the engine gets it as any other.
    text = json.dumps(document["body"], ensure_ascii=False, separators=(",", ":"))
    return LineOrder(number=number, custom_id=custom_id, url=url, body=text), request


def _request(surface: Surface, body: Any, body_bytes: int) -> ChatRequest:
    request = parse_request(surface, body, body_bytes=body_bytes, headers={})
    if request.stream:
        raise RequestMalformed("a batch answers whole: leave stream out.", param="stream")
    return request


def _check_new(line: LineOrder, seen: dict[str, int]) -> None:
    before = seen.setdefault(line.custom_id, line.number)
    if before != line.number:
        raise RequestMalformed(
            f"custom_id {line.custom_id[:40]!a} stands on line {before} already.", param="custom_id"
        )
