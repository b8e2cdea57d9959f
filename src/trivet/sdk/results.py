"""What the Python API returns; the same whether Trivet runs here or elsewhere."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from trivet.domain.errors import StreamIncomplete, TrivetError
from trivet.sdk.told import differs


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A decision: what would serve the request, and why. `raw` has every field of the HTTP answer."""

    decision_id: str
    tier: str
    model: str
    deployment: str
    complexity: float
    confidence: float
    reasons: tuple[str, ...]
    reservation_id: str | None = None
    """Of the hold, where one was asked for; with the next two."""
    expires_at: str | None = None
    max_tokens: int | None = None
    """Granted for each choice."""
    raw: dict[str, Any]

    @classmethod
    def read(cls, answer: dict[str, Any]) -> "Route":
        """Read the answer of `POST /api/v1/route`."""
        return cls(
            decision_id=answer["decision_id"],
            tier=answer["tier"],
            model=answer["model"],
            deployment=answer["deployment"],
            complexity=answer["complexity"]["score"],
            confidence=answer["confidence"],
            reasons=tuple(reason["text"] for reason in answer["reasons"]),
            reservation_id=answer.get("reservation_id"),
            expires_at=answer.get("expires_at"),
            max_tokens=answer.get("max_tokens"),
            raw=answer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the response headers say about who answered and why.

    Of a stream whose model was still being loaded when it began, `tier`, `model` and `attempts` are None: who
    answers was not known then.
    """

    request_id: str
    decision_id: str
    tier: str | None
    model: str | None
    complexity: float
    reason: str
    attempts: int | None
    budget_remaining: int | None
    """Tokens; None where nothing limits them, or nothing was charged: of a kept answer."""
    downgraded: str | None = None
    """FROM->TO, where a budget allowed a lower tier only."""
    max_tokens: int | None = None
    """The lower cap on the output that was granted, where little was left of a budget."""
    cache: str | None = None
    """`hit`, `miss` or `bypass`, where the response cache is on."""

    @classmethod
    def read(cls, headers: httpx.Headers) -> "Facts":
        """Read the `x-trivet-*` headers.

        Raises:
            ServerDiffers: one is missing that every answer has.
        """
        try:
            return cls._read(headers)
        except KeyError as error:
            raise differs(str(error.args[0])) from None

    @classmethod
    def _read(cls, headers: httpx.Headers) -> "Facts":
        remaining = headers.get("x-trivet-budget-remaining", "unlimited")
        return cls(
            request_id=headers["x-request-id"],
            decision_id=headers["x-trivet-decision-id"],
            tier=headers.get("x-trivet-tier"),
            model=headers.get("x-trivet-model"),
            complexity=float(headers["x-trivet-complexity"]),
            reason=headers["x-trivet-reason"],
            attempts=_number(headers.get("x-trivet-attempts")),
            budget_remaining=None if remaining == "unlimited" else int(remaining),
            downgraded=headers.get("x-trivet-downgraded"),
            max_tokens=_number(headers.get("x-trivet-max-tokens")),
            cache=headers.get("x-trivet-cache"),
        )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer. `raw` is the engine's OpenAI chat completion."""

    facts: Facts
    raw: dict[str, Any]

    @property
    def text(self) -> str:
        """Return the first choice's text; empty when it is a tool call."""
        message = self.raw["choices"][0].get("message") or {}
        return message.get("content") or ""

    @property
    def usage(self) -> dict[str, Any]:
        """Return the engine's usage object."""
        return self.raw.get("usage") or {}


class CompletionStream:
    """A streamed answer: iterate it for OpenAI chunks, or `texts()` for the first choice's text.

    Close it (`async with`, or `aclose()`) when leaving early: the work upstream is then cancelled.

    Raises while iterating:
        StreamIncomplete: the stream ended without `[DONE]`.
        TrivetError: the error that the server put into the stream.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.facts = Facts.read(response.headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks as parsed JSON."""
        try:
            async for line in self._response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    raise error_from(chunk)
                yield chunk
        except httpx.TransportError as error:
            raise StreamIncomplete(f"The stream broke: {type(error).__name__}.") from error
        finally:
            await self.aclose()
        raise StreamIncomplete("The stream ended without [DONE]: the answer is not whole.")

    async def texts(self) -> AsyncIterator[str]:
        """Yield the pieces of the first choice's text."""
        async for chunk in self:
            for choice in chunk.get("choices", ())[:1]:
                if piece := (choice.get("delta") or {}).get("content"):
                    yield piece

    async def aclose(self) -> None:
        """Stop reading; idempotent."""
        await self._response.aclose()


def error_from(document: Any, headers: Mapping[str, str] | None = None) -> TrivetError:
    """Turn an error in OpenAI's shape back into the TrivetError that it was."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return TrivetError("The server answered with something that is not Trivet's error.")
    kind = _classes().get(str(error.get("code")), TrivetError)
    retry_after = (headers or {}).get("retry-after", "")
    return kind(
        str(error.get("message")),
        param=error.get("param"),
        retry_after_s=float(retry_after) if retry_after.isdigit() else None,
        details=error.get("trivet") or {},
    )


def _classes() -> dict[str, type[TrivetError]]:
    found: dict[str, type[TrivetError]] = {}
    waiting: list[type[TrivetError]] = [TrivetError]
    while waiting:
        kind = waiting.pop(0)
        found.setdefault(kind.code, kind)
        waiting.extend(kind.__subclasses__())
    return found
