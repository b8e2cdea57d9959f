"""Reading the fields that bodies of every surface share, each with its bounds."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.routing.hints import METADATA_KEYS, VALUE_LIMIT_CHARS

AUTO = "auto"
CHOICES_LIMIT = 16
DEPTH_LIMIT = 64
CONTAINERS_LIMIT = 50_000
"""Objects and lists in one body; a long conversation with many tools has some thousands."""
_CONTAINERS = (dict, list)


def nesting_depth(value: Any) -> int:
    """Return how many objects and lists lie within one another: 0 for a scalar, 1 for a flat object.

    Stops counting beyond DEPTH_LIMIT.
    """
    return sum(1 for _ in islice(_levels(value), DEPTH_LIMIT + 1))


def _levels(value: Any) -> Iterator[list[Any]]:
    """Yield the objects and lists of each level, so that no depth can exhaust the stack."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    while level:
        yield level
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, _CONTAINERS)
        ]


def check_shape(body: dict[str, Any]) -> None:
    """Refuse what no chat needs: everything after this walks through all of it, while others wait."""
    containers, depth = 0, 0
    level: list[Any] = [body]
    while level:
        depth += 1
        containers += len(level)
        if depth > DEPTH_LIMIT:
            raise RequestMalformed(f"The body is nested deeper than {DEPTH_LIMIT} levels.")
        if containers > CONTAINERS_LIMIT:
            raise RequestMalformed(f"The body holds more than {CONTAINERS_LIMIT} objects and lists.")
        below: list[Any] = []
        for parent in level:
            for child in parent.values() if isinstance(parent, dict) else parent:
                if isinstance(child, _CONTAINERS):
                    below.append(child)  # noqa: PERF401 - a list for each parent costs more than these few
        level = below


def document_of(body: Any, *, example: str) -> dict[str, Any]:
    """Return the body as the object that it must be, of bearable shape.

    Raises:
        RequestMalformed: it is something else.
    """
    if not isinstance(body, dict):
        raise RequestMalformed("The body must be a JSON object.", hint=f"Send {example}.")
    check_shape(body)
    return body


def model_of(model: Any) -> str:
    """Return what `model` names, `auto` where it is missing."""
    if model is None:
        return AUTO
    if not isinstance(model, str) or not model or len(model) > VALUE_LIMIT_CHARS or not model.isprintable():
        raise RequestMalformed(
            f"model must be a name of at most {VALUE_LIMIT_CHARS} characters.",
            hint='Use "auto", a tier, or a deployment; GET /v1/models lists them.',
            param="model",
        )
    return model


def object_of(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key, an empty one where it is missing."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestMalformed(f"{key} must be an object.", param=key)
    return value


def flag_of(holder: Mapping[str, Any], key: str, *, inside: str = "") -> bool:
    """Return the truth under a key, False where it is missing; `inside` begins its name in an error."""
    value = holder.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestMalformed(f"{inside}{key} must be true or false.", param=inside + key)
    return value


def cap_of(body: Mapping[str, Any], *keys: str) -> int | None:
    """Return the smallest of the caps on the answer's tokens under these keys; None where there is none."""
    least: int | None = None
    for key in keys:
        value = body.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestMalformed(f"{key} must be a whole number of at least 1.", param=key)
        least = value if least is None else min(least, value)
    return least


def refuse_choices(body: Mapping[str, Any]) -> None:
    """Refuse more than one answer where the protocol has one; an engine might give as many all the same."""
    if body.get("n") not in (None, 1):
        raise RequestMalformed("n is not offered here: there is one answer.", param="n")


def choices_of(n: Any) -> int:
    """Return how many answers are asked for."""
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= CHOICES_LIMIT:
        raise RequestMalformed(f"n must be a whole number from 1 to {CHOICES_LIMIT}.", param="n")
    return n


def forwarded(body: dict[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body without Trivet's metadata keys; without `metadata` where nothing else is in it."""
    if body.get("metadata") is None:
        return body
    rest = {key: value for key, value in metadata.items() if key not in METADATA_KEYS}
    without = {key: value for key, value in body.items() if key != "metadata"}
    return {**without, "metadata": rest} if rest else without
