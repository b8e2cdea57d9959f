"""Checking an OpenAI chat-completions body: enough to be safe, the rest is the engine's to judge."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest
from trivet.routing.hints import METADATA_KEYS, VALUE_LIMIT_CHARS, read_hints
from trivet.routing.messages import check_messages
from trivet.routing.refused_fields import refuse_fields
from trivet.routing.tools import check_tools

AUTO = "auto"
CHOICES_LIMIT = 16
DEPTH_LIMIT = 64
CONTAINERS_LIMIT = 50_000
"""Objects and lists in one body; a long conversation with many tools has some thousands."""


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
    if not isinstance(body, dict):
        raise RequestMalformed(
            "The body must be a JSON object.",
            hint='Send {"messages": [{"role": "user", "content": "Hello"}]}.',
        )
    _check_shape(body)
    refuse_fields(body)
    check_messages(body.get("messages"))
    check_tools(body)
    metadata = _object(body, "metadata")
    max_tokens = _max_tokens(body)
    _check_min_tokens(body.get("min_tokens"), max_tokens)
    return ChatRequest(
        body=_forwarded(body, metadata),
        body_bytes=body_bytes,
        model=_model(body.get("model")),
        stream=_flag(body, "stream"),
        include_usage=_flag(_object(body, "stream_options"), "include_usage", inside="stream_options."),
        max_tokens=max_tokens,
        n=_choices(body.get("n")),
        hints=read_hints(headers, metadata),
    )


def nesting_depth(value: Any) -> int:
    """Return how many objects and lists lie within one another: 0 for a scalar, 1 for a flat object.

    Stops counting beyond DEPTH_LIMIT.
    """
    return sum(1 for _ in islice(_levels(value), DEPTH_LIMIT + 1))


def _levels(value: Any) -> Iterator[list[Any]]:
    """Yield the objects and lists of each level, so that no depth can exhaust the stack."""
    level = [value] if isinstance(value, dict | list) else []
    while level:
        yield level
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]


def _check_shape(body: dict[str, Any]) -> None:
    """Refuse what no chat needs: everything after this walks through all of it, while others wait."""
    containers = 0
    for depth, level in enumerate(_levels(body), start=1):
        containers += len(level)
        if depth > DEPTH_LIMIT:
            raise RequestMalformed(f"The body is nested deeper than {DEPTH_LIMIT} levels.")
        if containers > CONTAINERS_LIMIT:
            raise RequestMalformed(f"The body holds more than {CONTAINERS_LIMIT} objects and lists.")


def _model(model: Any) -> str:
    if model is None:
        return AUTO
    if not isinstance(model, str) or not model or len(model) > VALUE_LIMIT_CHARS or not model.isprintable():
        raise RequestMalformed(
            f"model must be a name of at most {VALUE_LIMIT_CHARS} characters.",
            hint='Use "auto", a tier, or a deployment; GET /v1/models lists them.',
            param="model",
        )
    return model


def _object(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestMalformed(f"{key} must be an object.", param=key)
    return value


def _flag(holder: Mapping[str, Any], key: str, *, inside: str = "") -> bool:
    value = holder.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestMalformed(f"{inside}{key} must be true or false.", param=inside + key)
    return value


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the smaller of the two fields: a bound that satisfies both."""
    told: list[int] = []
    for key in ("max_completion_tokens", "max_tokens"):
        value = body.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestMalformed(f"{key} must be a whole number of at least 1.", param=key)
        told.append(value)
    return min(told, default=None)


def _check_min_tokens(least: Any, most: int | None) -> None:
    if least is None:
        return
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        raise RequestMalformed("min_tokens must be a whole number of at least 0.", param="min_tokens")
    if most is not None and least > most:
        raise RequestMalformed(
            f"min_tokens is above the limit of {most} tokens that the request sets itself.",
            param="min_tokens",
        )


def _choices(n: Any) -> int:
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= CHOICES_LIMIT:
        raise RequestMalformed(f"n must be a whole number from 1 to {CHOICES_LIMIT}.", param="n")
    return n


def _forwarded(body: dict[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body without Trivet's metadata keys; without `metadata` where nothing else is in it."""
    if body.get("metadata") is None:
        return body
    rest = {key: value for key, value in metadata.items() if key not in METADATA_KEYS}
    forwarded = {key: value for key, value in body.items() if key != "metadata"}
    return {**forwarded, "metadata": rest} if rest else forwarded
