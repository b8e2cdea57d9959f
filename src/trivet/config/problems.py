"""What is wrong with a configuration, in words that say what to do; secrets are never repeated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError

from trivet.config.keys import HIDDEN, Shape, environment_name, nearest_key, shape_at
from trivet.config.tree import DEFAULT, Node, Path, dotted, origin_at, path_of
from trivet.domain.errors import ConfigError

SHOWN_CHARS = 80
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct: which key, where it was given, what is wrong and what to do."""

    key: str
    origin: str
    message: str

    def __str__(self) -> str:
        where = self.origin.removesuffix(" (environment)")
        if not self.key:
            return f"{where}: {self.message}"
        return f"{self.key} ({where}): {self.message}" if where else f"{self.key}: {self.message}"


def config_error(problems: Sequence[Problem]) -> ConfigError:
    """Return one error that lists all problems."""
    if len(problems) == 1:
        message = str(problems[0])
    else:
        lines = "".join(f"\n- {problem}" for problem in problems)
        message = f"The configuration has {len(problems)} problems:{lines}"
    return ConfigError(
        message,
        param=problems[0].key or None,
        details={"problems": [{"key": p.key, "origin": p.origin, "message": p.message} for p in problems]},
    )


def shown(value: Any) -> str:
    """Return a value for an operator's eyes: passwords inside URLs hidden, long text cut."""
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = (
        "null" if value is None else "true" if value is True else "false" if value is False else repr(value)
    )
    text = without_password(text)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def without_password(text: str) -> str:
    """Hide the `user:password@` of every URL in a text."""
    return _USER_INFO.sub(f"{HIDDEN}@", text)


def unknown_key(key: str, path: Path, origin: str) -> Problem:
    """Say that a key does not exist, and which one was probably meant."""
    if "." in str(path[-1]):
        return Problem(key, origin, "a key has no dots; write one mapping inside the other.")
    nearest = nearest_key(path)
    if nearest is None:
        return Problem(key, origin, "there is no such setting; `trivet config show` lists all.")
    above = "".join(f"{step}." for step in path[:-1])
    if above and nearest.startswith(above):
        nearest = key.removesuffix(str(path[-1])) + nearest.removeprefix(above)
    variable = environment_name(nearest) if origin.endswith(" (environment)") else None
    also = f" ({variable})" if variable else ""
    return Problem(key, origin, f"there is no such setting; did you mean {nearest}{also}?")


def from_validation(error: ValidationError, tree: Node, known: Sequence[Problem]) -> list[Problem]:
    """Put what pydantic found into words; keys that already have a problem are left out."""
    reported = {problem.key for problem in known}
    problems: list[Problem] = []
    for fault in error.errors(include_url=False):
        if fault["type"] == "value_error" and not fault["loc"]:
            problems.extend(_of_the_whole(line, tree) for line in str(fault["ctx"]["error"]).split("\n"))
            continue
        path = tuple(step for step in fault["loc"] if not _is_alternative(step))
        if len(path) < len(fault["loc"]) and _is_of_another(fault["type"], fault["input"]):
            continue
        shape = shape_at(path)
        key = dotted(tree, path)
        # A list whose items are wrong is called too short as well: one reason is enough.
        hollow = fault["type"] == "too_short" and any(other.startswith(f"{key}.") for other in reported)
        if key in reported or hollow:
            continue
        reported.add(key)
        origin = origin_at(tree, path)
        if fault["type"] == "missing":
            origin = origin_at(tree, path[:-1])
            problems.append(Problem(key, origin, f"is missing; allowed: {_allowed(shape)}."))
        elif fault["type"] == "value_error":
            problems.append(Problem(key, origin, without_password(str(fault["ctx"]["error"]))))
        else:
            value = fault["input"]
            secret = not isinstance(value, dict | list) and (shape is None or shape.holds_secret())
            given = HIDDEN if secret else shown(value)
            problems.append(Problem(key, origin, f"got {given}; allowed: {_allowed(shape)}."))
    return problems


def _is_alternative(step: str | int) -> bool:
    """Tell whether a step is no key, but pydantic's name of one of several types that a key may have."""
    return isinstance(step, str) and "[" in step


def _is_of_another(kind: str, value: Any) -> bool:
    """Tell whether a fault is only that the value is of another one of the types: a list is no word."""
    return (kind == "literal_error" and isinstance(value, list | tuple)) or kind == "tuple_type"


def _allowed(shape: Shape | None) -> str:
    return shape.allowed() if shape is not None else "another value"


def _of_the_whole(line: str, tree: Node) -> Problem:
    """Take a sentence of Settings' own checks, which begins with its key, apart."""
    key, _, message = line.partition(": ")
    origin = origin_at(tree, path_of(tree, key))
    return Problem(key, "" if origin == DEFAULT else origin, message)
