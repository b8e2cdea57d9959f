"""What a caller says about its request beyond the messages: `x-trivet-*` headers and `metadata` keys."""

from collections.abc import Mapping
from typing import Any

from trivet.domain.budgets import PRIORITIES
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import Hints

HEADER_PREFIX = "x-trivet-"
VALUE_LIMIT_CHARS = 200
CAPABILITIES_LIMIT = 64
COUNT_LIMIT = 1_000_000_000

TEXT_KEYS = ("task_type", "task_id", "worker", "session", "priority", "min_tier", "max_tier")
HEADER_KEYS = (*TEXT_KEYS, "local_only")
"""Hints that may come as a header, `_` written as `-`; a header wins over the same metadata key."""

_HEADERS = {HEADER_PREFIX + name: key for key in HEADER_KEYS for name in (key, key.replace("_", "-"))}

METADATA_KEYS = frozenset({*HEADER_KEYS, "capabilities", "context_tokens", "history_length"})
"""Trivet's own keys of `metadata`; they are not sent upstream."""

NO_HINTS = Hints()

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no", ""})


def read_hints(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> Hints:
    """Return the hints of one request.

    OpenAI's metadata values are strings, so numbers and booleans are accepted as strings too. An empty
    string counts as not said.

    Args:
        headers: the request's headers, names in lower case.
        metadata: the body's `metadata`, still with Trivet's keys.

    Raises:
        RequestMalformed: a value is too long, holds control characters, or is of the wrong type.
    """
    if not metadata and _HEADERS.keys().isdisjoint(headers):
        return NO_HINTS
    told = _said(headers, metadata)
    if not told:
        return NO_HINTS
    texts = {key: _text(*told[key]) for key in TEXT_KEYS if key in told}
    if wanted := texts.get("priority"):
        texts["priority"] = _priority(told["priority"][0], wanted)
    history_length = _count(*told["history_length"]) if "history_length" in told else None
    return Hints(
        **texts,
        local_only=_truth(*told["local_only"]) if "local_only" in told else False,
        capabilities=_names(*told["capabilities"]) if "capabilities" in told else (),
        context_tokens=(_count(*told["context_tokens"]) or 0) if "context_tokens" in told else 0,
        history_length=history_length,
    )


def _said(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return, by hint, where it was said and what was said there."""
    told: dict[str, tuple[str, Any]] = {
        key: (f"metadata.{key}", metadata[key]) for key in METADATA_KEYS if metadata.get(key) is not None
    }
    for name, key in _HEADERS.items():
        if name in headers:
            told[key] = (name, headers[name])
    return told


def _text(param: str, value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= COUNT_LIMIT:
        value = str(value)
    if not isinstance(value, str):
        raise RequestMalformed(f"{param} must be a string.", param=param)
    if len(value) > VALUE_LIMIT_CHARS:
        raise RequestMalformed(
            f"{param} has {len(value)} characters; {VALUE_LIMIT_CHARS} are allowed.", param=param
        )
    if not value.isprintable():
        raise RequestMalformed(f"{param} holds control characters.", hint="Send plain text.", param=param)
    return value.strip() or None


def _priority(param: str, name: str) -> str:
    """Return the priority. Trivet's own header must name one; in `metadata` the word may be the caller's own.

    Raises:
        RequestMalformed: the header names none.
    """
    lowered = name.lower()
    if lowered in PRIORITIES or not param.startswith(HEADER_PREFIX):
        return lowered
    raise RequestMalformed(f"{param} must be one of {', '.join(PRIORITIES)}, not {name[:40]!r}.", param=param)


def _truth(param: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = (_text(param, value) or "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise RequestMalformed(f"{param} must be true or false.", param=param)


def _count(param: str, value: Any) -> int | None:
    if isinstance(value, str):
        text = _text(param, value)
        if text is None:
            return None
        # isdecimal also holds for other scripts' digits, which int() reads as well.
        value = int(text) if text.isdecimal() else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_LIMIT:
        raise RequestMalformed(f"{param} must be a whole number from 0 to {COUNT_LIMIT}.", param=param)
    return value


def _names(param: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list):
        raise RequestMalformed(
            f"{param} must be a list of names, or one string with commas.",
            hint='For example ["security_analysis", "architecture"].',
            param=param,
        )
    if len(value) > CAPABILITIES_LIMIT:
        raise RequestMalformed(
            f"{param} has {len(value)} names; {CAPABILITIES_LIMIT} are allowed.", param=param
        )
    return tuple(name for name in (_text(param, entry) for entry in value) if name is not None)
