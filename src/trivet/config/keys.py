"""The keys that exist, what each allows, and which one a misspelt key was meant to be."""

import difflib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from trivet.config.settings import Settings
from trivet.config.tree import Path

ENVIRONMENT_PREFIX = "TRIVET_"
HIDDEN = "********"

ShapeKind = Literal["section", "table", "list", "leaf"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What may stand at one place of the tree, read from the type annotation there."""

    kind: ShapeKind
    inner: Any
    optional: bool
    limits: tuple[Any, ...] = ()
    others: tuple[Any, ...] = ()
    """Further types that the value may have instead."""

    def names(self) -> tuple[str, ...]:
        """Return the keys of a section in their order; nothing for other kinds."""
        return tuple(self.inner.model_fields) if self.kind == "section" else ()

    def child(self, step: str | int) -> "Shape | None":
        """Return what may stand one step further down; None where nothing may."""
        if self.kind == "section":
            return shape_of(_hints(self.inner)[str(step)]) if step in self.inner.model_fields else None
        if self.kind == "table":
            return shape_of(get_args(self.inner)[1])
        if self.kind == "list" and isinstance(step, int):
            items = get_args(self.inner)
            if Ellipsis in items or get_origin(self.inner) is frozenset:
                return shape_of(items[0])
            return shape_of(items[step]) if step < len(items) else None
        below = (shape_of(other).child(step) for other in self.others)
        return next((shape for shape in below if shape is not None), None)

    def holds_secret(self) -> bool:
        """Tell whether the value, or a part of it, must never be shown."""
        if self.kind == "section":
            return any(shape_of(hint).holds_secret() for hint in _hints(self.inner).values())
        if self.kind in ("table", "list"):
            return any(shape_of(item).holds_secret() for item in get_args(self.inner) if item is not Ellipsis)
        return self.inner is SecretStr

    def allowed(self) -> str:
        """Return in words what may be written here."""
        others = "".join(f", or {shape_of(other).allowed()}" for other in self.others)
        return self._allowed() + others + (", or null" if self.optional else "")

    def _allowed(self) -> str:
        if self.kind == "section":
            return f"a mapping with the keys {', '.join(self.names())}"
        if self.kind == "table":
            return "a mapping of names to values"
        if self.kind == "list":
            items = get_args(self.inner)
            item = shape_of(items[0])
            of = " of mappings" if item.kind == "section" else f", each {item.allowed()}"
            if Ellipsis not in items and get_origin(self.inner) is tuple:
                return f"a list of {len(items)}, each {item.allowed()}"
            least = _limit(self.limits, "min_length")
            return f"a list{of}" + (f", at least {least}" if least else "")
        if get_origin(self.inner) is Literal:
            return "one of " + ", ".join(str(choice) for choice in get_args(self.inner))
        pattern = _limit(self.limits, "pattern")
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "text" + (f" that matches {pattern}" if pattern else ""),
            SecretStr: "text, ${VARIABLE} or file:/path",
            FilePath: "a path",
        }
        return words.get(self.inner, "another value") + _bounds(self.limits)


def shape_of(annotation: Any) -> Shape:
    """Read an annotation: take `Annotated` and `| None` apart, and say which kind the rest is."""
    limits: list[Any] = []
    optional = False
    others: list[Any] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *notes = get_args(annotation)
            for note in notes:
                limits.extend(note.metadata if isinstance(note, FieldInfo) else [note])
        elif origin in (Union, types.UnionType):
            choices = [choice for choice in get_args(annotation) if choice is not type(None)]
            optional = len(choices) < len(get_args(annotation))
            annotation = choices[0]
            others += choices[1:]
        else:
            break
    kind: ShapeKind = "leaf"
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        kind = "section"
    elif origin is dict:
        kind = "table"
    elif origin in (tuple, list, frozenset):
        kind = "list"
    return Shape(kind, annotation, optional, tuple(limits), tuple(others))


def root_shape() -> Shape:
    """Return the shape of the whole tree."""
    return shape_of(Settings)


def shape_at(path: Path) -> Shape | None:
    """Return the shape at a path; None where no key is."""
    shape: Shape | None = root_shape()
    for step in path:
        shape = shape.child(step) if shape is not None else None
    return shape


def all_keys() -> list[str]:
    """Return every key in its order; `N` stands for a position, `NAME` for a name of the user's choice."""
    return list(_walk(root_shape(), ""))


def nearest_key(path: Path) -> str | None:
    """Return the key that a key unknown at `path` was most likely meant to be."""
    *above, last = [str(step) for step in path]
    keys = all_keys()
    # `server_port` and `TRIVET_SERVER_PORT` mean `server.port`, whatever joins the parts.
    wanted = "_".join([*above, last])
    joined = {key.replace(".", "_"): key for key in reversed(keys)}
    if wanted in joined:
        return joined[wanted]
    parent = shape_at(path[:-1])
    close = difflib.get_close_matches(last, parent.names() if parent is not None else (), n=1, cutoff=0.7)
    if close:
        return ".".join([*above, close[0]])
    same_name = [key for key in keys if key.rpartition(".")[2] == last]
    if same_name:
        return same_name[0]
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    for candidates, word in ((joined, wanted), (by_name, last)):
        close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
        if close:
            return candidates[close[0]]
    return None


def environment_name(key: str) -> str | None:
    """Return the variable that sets a key; None for a part of a list, which is set as a whole."""
    parts = key.split(".")
    if "N" in parts or "NAME" in parts or (parts[0] == "tiers" and len(parts) > 1):
        return None
    return ENVIRONMENT_PREFIX + "__".join(parts).upper()


def leaves(value: Any, path: Path = (), key: str = "") -> Iterator[tuple[str, Path, Any]]:
    """Yield (dotted key, path, value) of each single setting, in the order of the tree; tiers by name."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), (*path, name), f"{key}.{name}" if key else name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, (*path, name), f"{key}.{name}")
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for position, item in enumerate(value):
            label = item.name if path == ("tiers",) else position
            yield from leaves(item, (*path, position), f"{key}.{label}")
    else:
        yield key, path, value


def _hints(section: type[BaseModel]) -> dict[str, Any]:
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section.model_fields}


def _walk(shape: Shape, key: str) -> Iterator[str]:
    if shape.kind == "section":
        for name in shape.names():
            child = shape.child(name)
            if child is not None:
                yield from _walk(child, f"{key}.{name}" if key else name)
        return
    item = shape.child(0) if shape.kind in ("table", "list") else None
    if item is not None and item.kind == "section":
        yield from _walk(item, f"{key}.{'N' if shape.kind == 'list' else 'NAME'}")
    else:
        yield key


def _limit(limits: tuple[Any, ...], name: str) -> Any:
    found = [getattr(limit, name) for limit in limits if getattr(limit, name, None) is not None]
    return found[0] if found else None


def _bounds(limits: tuple[Any, ...]) -> str:
    at_least, at_most = _limit(limits, "ge"), _limit(limits, "le")
    above = _limit(limits, "gt")
    if at_least is not None and at_most is not None:
        return f" from {at_least} to {at_most}"
    parts = [f"greater than {above}"] if above is not None else []
    parts += [f"at least {at_least}"] if at_least is not None else []
    parts += [f"at most {at_most}"] if at_most is not None else []
    return f" {' and '.join(parts)}" if parts else ""
