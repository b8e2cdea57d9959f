"""Reading the catalog's YAML lists: fast, strict, and with errors that name the entry."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from trivet.domain.errors import ConfigError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Entry = TypeVar("_Entry", bound=BaseModel)


def read_entries(path: Path, kind: type[_Entry], key: str, *, setting: str | None = None) -> list[_Entry]:
    """Return the entries of a YAML list.

    Args:
        path: the file.
        kind: what each entry must be.
        key: the field by which an entry is known to its writer (`name`, `id`), for errors.
        setting: the configuration key that named the file, for errors.

    Raises:
        ConfigError: the file cannot be read, is not a list, or holds wrong entries; all of them are listed.
    """
    document = _document(path, setting)
    if not isinstance(document, list):
        raise _error(path, "must be a list: each entry begins with `- `.", setting)
    entries: list[_Entry] = []
    problems: list[str] = []
    for number, item in enumerate(document, start=1):
        try:
            entries.append(kind.model_validate(item))
        except ValidationError as error:
            shown = item.get(key) if isinstance(item, dict) else None
            problems += [f"entry {number} ({shown or f'without {key}'}): {fault}" for fault in _faults(error)]
    if problems:
        raise _error(path, "".join(f"\n- {problem}" for problem in problems), setting)
    return entries


def _document(path: Path, setting: str | None) -> Any:
    try:
        # The two lists are a few ten kilobytes and are read once, before anything serves.
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - the safe loader, in C where there is one
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}.", setting) from None
    except UnicodeDecodeError:
        raise _error(path, "is not UTF-8 text.", setting) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise _error(path, f"is not valid YAML{where}.", setting) from None


def _faults(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(str(step) for step in fault['loc']) or 'it'}: {fault['msg'].lower()}"
        for fault in error.errors(include_url=False)
    ]


def _error(path: Path, message: str, setting: str | None) -> ConfigError:
    return ConfigError(
        f"{path} {message}",
        hint="docs/reference/models.md shows entries.",
        param=setting,
        details={"path": str(path)},
    )
