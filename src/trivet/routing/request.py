"""Checking an OpenAI chat-completions body: enough to be safe, the rest is the engine's to judge."""

from collections.abc import Mapping
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest
from trivet.routing.fields import (
    cap_of,
    choices_of,
    document_of,
    flag_of,
    forwarded,
    model_of,
    object_of,
)
from trivet.routing.hints import read_hints
from trivet.routing.messages import check_messages
from trivet.routing.refused_fields import refuse_fields
from trivet.routing.tools import check_tools

_OPTIONS = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "min_tokens",
        "n",
        "response_format",
        "stream_options",
        "tool_choice",
        "tools",
    }
)
"""What is looked at besides messages, `model` and `stream`; most bodies hold little of it, or nothing."""
_NO_METADATA: Mapping[str, Any] = {}
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'


def parse_chat(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a decoded body and return it with its hints apart.

    What is not checked here passes untouched: logprobs, seed, stop, temperature and whatever an engine
    adds, except for REFUSED_FIELDS. `body` itself is not changed.

    Args:
        body: what the JSON decoder gave.
        body_bytes: size of the body as received.
        headers: the request's headers; only `x-trivet-*` are read.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    body = document_of(body, example=EXAMPLE)
    refuse_fields(body)
    check_messages(body.get("messages"))
    if _OPTIONS.isdisjoint(body):
        return ChatRequest(
            body=body,
            body_bytes=body_bytes,
            model=model_of(body.get("model")),
            stream=flag_of(body, "stream"),
            hints=read_hints(headers, _NO_METADATA),
        )
    check_tools(body)
    metadata = object_of(body, "metadata")
    # The smaller of the two fields: a bound that satisfies both.
    max_tokens = cap_of(body, "max_completion_tokens", "max_tokens")
    check_min_tokens(body.get("min_tokens"), max_tokens)
    return ChatRequest(
        body=forwarded(body, metadata),
        body_bytes=body_bytes,
        model=model_of(body.get("model")),
        stream=flag_of(body, "stream"),
        include_usage=flag_of(object_of(body, "stream_options"), "include_usage", inside="stream_options."),
        max_tokens=max_tokens,
        n=choices_of(body.get("n")),
        hints=read_hints(headers, metadata),
    )


def check_min_tokens(least: Any, most: int | None) -> None:
    """Refuse a least length that the cap does not allow."""
    if least is None:
        return
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        raise RequestMalformed("min_tokens must be a whole number of at least 0.", param="min_tokens")
    if most is not None and least > most:
        raise RequestMalformed(
            f"min_tokens is above the limit of {most} tokens that the request sets itself.",
            param="min_tokens",
        )
