"""Values as they were given, each with its origin, before they become Settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
"""The way from the root to a value: keys of mappings, positions in lists."""

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Node:
    """A given value. `value` is a dict of nodes, a list of nodes, or a scalar."""

    value: Any
    origin: str


def node_of(value: Any, origin: str) -> Node:
    """Wrap a plain value; every part of it gets the same origin."""
    if isinstance(value, Mapping):
        return Node({str(key): node_of(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, Sequence | frozenset | set) and not isinstance(value, str | bytes):
        return Node([node_of(item, origin) for item in value], origin)
    return Node(value, origin)


def nested(path: Sequence[str], node: Node) -> Node:
    """Return the mapping that holds `node` at `path` and nothing else."""
    for key in reversed(path):
        node = Node({key: node}, node.origin)
    return node


def merge(lower: Node, higher: Node) -> Node:
    """Lay one source over another: mappings join key by key, anything else is replaced whole.

    An empty section (`server:` with every line below it commented out) gives nothing and hides nothing.
    """
    if higher.value is None and isinstance(lower.value, dict | list):
        return lower
    if not isinstance(lower.value, dict) or not isinstance(higher.value, dict):
        return higher
    joined: dict[str, Node] = dict(lower.value)
    for key, node in higher.value.items():
        joined[key] = merge(joined[key], node) if key in joined else node
    return Node(joined, higher.origin)


def origin_at(tree: Node, path: Path) -> str:
    """Return where the value at `path` came from; `default` where no source gave it."""
    node = tree
    for step in path:
        if isinstance(node.value, dict):
            if step not in node.value:
                return DEFAULT
            node = node.value[step]
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        elif node.value is None:
            return DEFAULT
        else:
            break
    return node.origin


def dotted(tree: Node, path: Path) -> str:
    """Return the key as people write it; a tier is called by its name, if it has one."""
    parts = [str(step) for step in path]
    if len(path) > 1 and path[0] == "tiers" and isinstance(path[1], int):
        tiers = tree.value.get("tiers")
        items = tiers.value if tiers is not None and isinstance(tiers.value, list) else []
        tier = items[path[1]].value if path[1] < len(items) else None
        if isinstance(tier, dict) and "name" in tier and isinstance(tier["name"].value, str):
            parts[1] = tier["name"].value
    return ".".join(parts)


def path_of(tree: Node, key: str) -> Path:
    """Return the path that a dotted key stands for, as far as the tree has it."""
    path: list[str | int] = []
    node = tree
    for part in key.split("."):
        if isinstance(node.value, dict) and part in node.value:
            path.append(part)
            node = node.value[part]
            continue
        if not isinstance(node.value, list):
            break
        names = [_name_of(item) for item in node.value]
        position = names.index(part) if part in names else int(part) if part.isdecimal() else len(names)
        if position >= len(names):
            break
        path.append(position)
        node = node.value[position]
    return tuple(path)


def _name_of(node: Node) -> Any:
    name = node.value.get("name") if isinstance(node.value, dict) else None
    return name.value if name is not None else None
