"""Each setting with its value and its origin, as `trivet config show` lists them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from trivet.config.keys import HIDDEN, leaves
from trivet.config.load import Loaded
from trivet.config.problems import without_password
from trivet.config.tree import DEFAULT


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `value` is plain JSON, secrets hidden."""

    key: str
    value: Any
    origin: str

    def as_json(self) -> dict[str, Any]:
        """Return the row as the API and the CLI show it."""
        return {"key": self.key, "value": self.value, "origin": self.origin}


def explain(loaded: Loaded) -> list[Row]:
    """Return one row per setting, in the order of the tree."""
    return [
        Row(key, _plain(value), loaded.origins.get(key, DEFAULT)) for key, _, value in leaves(loaded.settings)
    ]


def explain_json(loaded: Loaded) -> dict[str, Any]:
    """Return the same as one JSON object: the file that was read, and the rows."""
    return {
        "path": str(loaded.path) if loaded.path is not None else None,
        "settings": [row.as_json() for row in explain(loaded)],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return without_password(value) if isinstance(value, str) else value
