"""Checking an OpenAI chat-completions body: enough to be safe, the rest is the engine's to judge."""

from collections.abc import Mapping
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest
from trivet.routing.hints import METADATA_KEYS, VALUE_LIMIT_CHARS, read_hints

AUTO = "auto"
MESSAGES_LIMIT = 2048
CHOICES_LIMIT = 16
DEPTH_LIMIT = 64


def parse_chat(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a decoded body and return it with its hints apart.

    What is not checked here passes untouched: tools, response_format, logprobs, seed, stop, temperature
    and whatever an engine adds. `body` itself is not changed.

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
    if nesting_depth(body) > DEPTH_LIMIT:
        raise RequestMalformed(f"The body is nested deeper than {DEPTH_LIMIT} levels.")
    _check_messages(body.get("messages"))
    metadata = _object(body, "metadata")
    return ChatRequest(
        body=_forwarded(body, metadata),
        body_bytes=body_bytes,
        model=_model(body.get("model")),
        stream=_flag(body, "stream"),
        include_usage=_flag(_object(body, "stream_options"), "include_usage", inside="stream_options."),
        max_tokens=_max_tokens(body),
        n=_choices(body.get("n")),
        hints=read_hints(headers, metadata),
    )


def nesting_depth(value: Any) -> int:
    """Return how many objects and lists lie within one another: 0 for a scalar, 1 for a flat object.

    Level by level, so that no depth can exhaust the stack; stops counting beyond DEPTH_LIMIT.
    """
    depth = 0
    level = [value] if isinstance(value, dict | list) else []
    while level and depth <= DEPTH_LIMIT:
        depth += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
    return depth


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise RequestMalformed(
            "messages must be a list with at least one message.",
            hint='For example [{"role": "user", "content": "Hello"}].',
            param="messages",
        )
    if len(messages) > MESSAGES_LIMIT:
        raise RequestMalformed(
            f"messages has {len(messages)} entries; {MESSAGES_LIMIT} are allowed.",
            hint="Drop or summarise the oldest turns.",
            param="messages",
        )
    for position, message in enumerate(messages):
        param = f"messages[{position}]"
        if not isinstance(message, dict):
            raise RequestMalformed(f"{param} must be an object.", param=param)
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise RequestMalformed(
                f"{param}.role must be a string.",
                hint="One of system, user, assistant, tool.",
                param=f"{param}.role",
            )
        _check_content(message.get("content"), f"{param}.content")


def _check_content(content: Any, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    ):
        return
    raise RequestMalformed(
        f"{param} must be a string, a list of content parts, or null.",
        hint='A part is an object such as {"type": "text", "text": "Hello"}.',
        param=param,
    )


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
