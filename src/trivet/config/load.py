"""One Settings from all sources: flags > TRIVET_* > file > names of other makers > defaults."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from trivet.config.environment import seed_values, trivet_values
from trivet.config.file import read_file
from trivet.config.keys import Shape, leaves, root_shape
from trivet.config.problems import Problem, config_error, from_validation, unknown_key
from trivet.config.settings import RoutingSettings, Settings
from trivet.config.tree import DEFAULT, Node, Path, dotted, merge, nested, node_of, origin_at

FILE_NAME = "trivet.yaml"
SECRET_FILE_PREFIX = "file:"  # noqa: S105 -- how a secret is referred to, not one


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and for each dotted key where its value came from."""

    settings: Settings
    origins: dict[str, str]
    """`flag`, `NAME (environment)`, `file trivet.yaml:12`, or `default`; tiers are keyed by name."""
    path: FilePath | None
    """The file that was read; None when there was none."""


def load_settings(
    *,
    config_path: FilePath | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: FilePath | None = None,
) -> Loaded:
    """Read all sources and put them into one checked tree.

    Args:
        config_path: the file to read; by default the first of $TRIVET_CONFIG, ./trivet.yaml and
            ~/.config/trivet/trivet.yaml, or none.
        flags: dotted keys to values, such as {"server.port": 9000}; a None is a flag not given.
        environ: the environment; by default the process's.
        directory: where `./trivet.yaml` is looked for; by default the working directory.

    Raises:
        ConfigError: with every problem found, each with its key, its place and what to do.
    """
    environ = os.environ if environ is None else environ
    directory = FilePath.cwd() if directory is None else directory
    path = find_file(environ, directory) if config_path is None else config_path
    problems: list[Problem] = []
    tree = _default_tables()
    tree = merge(tree, seed_values(environ, problems))
    if path is not None:
        label = path.relative_to(directory) if path.is_relative_to(directory) else path
        tree = merge(tree, read_file(path, str(label), environ, problems))
    tree = merge(tree, trivet_values(environ, problems))
    tree = merge(tree, _flag_values(flags or {}))
    _forget_absent_tiers(tree)
    data = _Plain(tree, environ, problems).data()
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        problems += from_validation(error, tree, problems)
        raise config_error(problems) from None  # its text would repeat the values, secrets included
    if problems:
        raise config_error(problems)
    return Loaded(settings, {key: origin_at(tree, at) for key, at, _ in leaves(settings)}, path)


def get_settings() -> Settings:
    """Return the settings of this process's environment and configuration file, read anew.

    Raises:
        ConfigError: as `load_settings`.
    """
    return load_settings().settings


def find_file(environ: Mapping[str, str], directory: FilePath) -> FilePath | None:
    """Return the file that $TRIVET_CONFIG names, else the first that exists of the usual two, else None."""
    home = environ.get("HOME")
    named = environ.get("TRIVET_CONFIG", "").strip()
    if named:
        return FilePath(home, named[2:]) if home and named.startswith("~/") else directory / named
    candidates = [directory / FILE_NAME]
    if home:
        candidates.append(FilePath(home, ".config", "trivet", FILE_NAME))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _default_tables() -> Node:
    """Return the tables that a source refines entry by entry instead of replacing them."""
    routing = RoutingSettings()
    policies = {name: policy.model_dump(exclude_unset=True) for name, policy in routing.policies.items()}
    return node_of({"routing": {"policies": policies, "task_types": routing.task_types}}, DEFAULT)


def _flag_values(flags: Mapping[str, Any]) -> Node:
    tree = Node({}, DEFAULT)
    for key, value in flags.items():
        if value is not None:
            tree = merge(tree, nested(key.split("."), node_of(value, "flag")))
    return tree


def _forget_absent_tiers(tree: Node) -> None:
    """Drop the bounds of default policies that name default tiers which the user's list does not have."""
    tiers, routing = tree.value.get("tiers"), tree.value["routing"].value
    policies = routing["policies"].value if isinstance(routing, dict) else None
    if tiers is None or not isinstance(tiers.value, list) or not isinstance(policies, dict):
        return
    given = [tier.value for tier in tiers.value if isinstance(tier.value, dict)]
    names = [tier["name"].value for tier in given if "name" in tier]
    for policy in policies.values():
        for bound in ("min_tier", "max_tier"):
            node = policy.value.get(bound) if isinstance(policy.value, dict) else None
            if node is not None and node.origin == DEFAULT and node.value not in names:
                del policy.value[bound]


class _Plain:
    """Turns nodes into what Settings is made from: unknown keys reported, secret files read."""

    def __init__(self, tree: Node, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._tree = tree
        self._environ = environ
        self._problems = problems

    def data(self) -> Any:
        return self._plain(self._tree, root_shape(), ())

    def _plain(self, node: Node, shape: Shape | None, path: Path) -> Any:
        if isinstance(node.value, dict):
            return self._mapping(node, shape, path)
        if isinstance(node.value, list):
            shapes = [shape.child(n) if shape is not None else None for n in range(len(node.value))]
            return [self._plain(item, shapes[n], (*path, n)) for n, item in enumerate(node.value)]
        if (
            shape is not None
            and shape.kind in ("section", "table")
            and node.value is None
            and not shape.optional
        ):
            return {}
        text = node.value
        is_secret = shape is not None and shape.kind == "leaf" and shape.holds_secret()
        if is_secret and isinstance(text, str) and text.startswith(SECRET_FILE_PREFIX):
            return self._secret(text.removeprefix(SECRET_FILE_PREFIX).strip(), node, path)
        return text

    def _mapping(self, node: Node, shape: Shape | None, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, item in node.value.items():
            below = shape.child(key) if shape is not None else None
            if below is None and shape is not None and shape.kind == "section":
                at = (*path, key)
                self._problems.append(unknown_key(dotted(self._tree, at), at, item.origin))
            else:
                data[key] = self._plain(item, below, (*path, key))
        return data

    def _secret(self, name: str, node: Node, path: Path) -> str:
        home = self._environ.get("HOME")
        file = FilePath(home, name[2:]) if home and name.startswith("~/") else FilePath(name)
        reason = "is empty"
        try:
            secret = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            secret, reason = "", f"cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            secret, reason = "", "is not UTF-8 text"
        if not secret:
            message = f"the secret's file {file} {reason}; put the secret into it, or correct the path."
            self._problems.append(Problem(dotted(self._tree, path), node.origin, message))
        return secret
