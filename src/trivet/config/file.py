"""The configuration file: YAML with line numbers, no duplicate keys, and `${VARIABLE}` inside strings."""

import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import yaml

from trivet.config.problems import Problem, config_error
from trivet.config.tree import Node, Path, dotted

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{")
_QUOTED = re.compile(r" '[^']{2,}'")


def read_file(path: FilePath, label: str, environ: Mapping[str, str], problems: list[Problem]) -> Node:
    """Read a YAML file into nodes whose origin is `file LABEL:LINE`.

    Problems inside a well-formed file are appended to `problems`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping.
    """
    where = f"file {label}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = f"cannot be read: {error.strerror}. Check the path given by --config or TRIVET_CONFIG."
        raise config_error([Problem("", where, reason)]) from None
    except UnicodeDecodeError:
        raise config_error([Problem("", where, "is not UTF-8 text.")]) from None
    try:
        return _Reader(text, label, environ, problems).read()
    except yaml.MarkedYAMLError as error:
        # Never the snippet that PyYAML shows, nor what it quotes: that may be a secret.
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        said = _QUOTED.sub("", error.problem or "cannot be parsed")
        message = f"is not valid YAML: {said}. Check quotes, colons and indentation there."
        raise config_error([Problem("", where + line, message)]) from None
    except yaml.YAMLError:
        raise config_error(
            [Problem("", where, "is not valid YAML: it holds characters YAML forbids.")]
        ) from None


class _Reader:
    """Turns one YAML document into nodes."""

    def __init__(self, text: str, label: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._loader = yaml.SafeLoader(text)
        self._label = label
        self._environ = environ
        self._problems = problems
        self._complaints: list[tuple[Path, str, str]] = []

    def read(self) -> Node:
        """Return the document's root, a mapping."""
        document = self._loader.get_single_node()
        if document is None:
            return Node({}, f"file {self._label}")
        root = self._node(document, (), document.start_mark.line, frozenset())
        if root.value is None:
            return Node({}, root.origin)
        if not isinstance(root.value, dict):
            message = "must be a mapping of sections, such as `server:` with `port: 8748` below it."
            raise config_error([Problem("", root.origin, message)])
        # Only now are the tiers' names known, by which keys are told.
        self._problems += [Problem(dotted(root, path), *rest) for path, *rest in self._complaints]
        return root

    def _node(self, node: yaml.Node, path: Path, line: int, above: frozenset[int]) -> Node:
        origin = self._origin(line)
        if id(node) in above:
            self._complain(path, origin, "an alias must not contain itself.")
            return Node(None, origin)
        above |= {id(node)}
        if isinstance(node, yaml.MappingNode):
            return Node(self._entries(node, path, above), origin)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return Node(
                [self._node(item, (*path, n), item.start_mark.line, above) for n, item in items], origin
            )
        return Node(self._scalar(node, path, origin), origin)

    def _entries(self, node: yaml.MappingNode, path: Path, above: frozenset[int]) -> dict[str, Node]:
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line
            if key in lines:
                message = f"is given twice, on lines {lines[key] + 1} and {line + 1}; remove one."
                self._complain((*path, key), self._origin(line), message)
            lines[key] = line
        self._loader.flatten_mapping(node)
        entries: dict[str, Node] = {}
        for key_node, item in node.value:
            key, line = str(key_node.value), key_node.start_mark.line
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(path, self._origin(line), "a key must be plain text.")
                continue
            entries[key] = self._node(item, (*path, key), line, above)
        return entries

    def _scalar(self, node: yaml.Node, path: Path, origin: str) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError):
            # Dates that no calendar has (2026-13-45) match YAML's pattern but not Python's type.
            value = node.value
        if not isinstance(value, str) or "${" not in value:
            return value
        expanded = self._expand(value, path, origin)
        return expanded or None

    def _expand(self, text: str, path: Path, origin: str) -> str:
        """Replace `${NAME}` and `${NAME:-default}` as a shell would; `$${` stands for a literal `${`."""

        def replacement(match: re.Match[str]) -> str:
            name, has_default, default = match.groups()
            if match.group() == "$${":
                return "${"
            if name is None:
                message = (
                    "`${` begins no reference; write ${NAME}, ${NAME:-default}, or $${ for a literal one."
                )
                self._complain(path, origin, message)
                return ""
            value = self._environ.get(name)
            if has_default:
                return value or str(default)
            if value is None:
                message = (
                    f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}."
                )
                self._complain(path, origin, message)
            return value or ""

        return _REFERENCE.sub(replacement, text)

    def _origin(self, line: int) -> str:
        return f"file {self._label}:{line + 1}"

    def _complain(self, path: Path, origin: str, message: str) -> None:
        self._complaints.append((path, origin, message))
