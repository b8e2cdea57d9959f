"""The sizes of a checkpoint's tensors, read from the headers of its safetensors files.

The format: eight bytes with the header's length, little-endian, then JSON that gives each tensor's dtype,
shape and place (github.com/huggingface/safetensors). No tensor is read.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet.domain.errors import ConfigError

_HEADER_BYTES_MAX = 100_000_000
"""What the format's own reader accepts."""
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_DRAFT = re.compile(r"(?:^|\.)(?:mtp|nextn)(?:\.|_)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSizes:
    """What a directory of safetensors files holds, in bytes."""

    weights_bytes: int
    """Of the model itself."""
    draft_bytes: int
    """Of layers that only draft tokens ahead (MTP); engines load them on request."""
    params: int
    """Elements of the model's tensors as stored; packed 4-bit weights count as the bytes that hold them."""
    bytes_by_dtype: dict[str, int]


def checkpoint_sizes(directory: Path, *, layers: int | None = None) -> CheckpointSizes:
    """Add up the tensors of all safetensors files in a directory.

    Args:
        directory: holds `*.safetensors`.
        layers: how many layers the model has; tensors of layers beyond are the drafter's.

    Raises:
        ConfigError: there is no such file, or one is not what its name says.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{directory} holds no safetensors files.", param="model")
    # Mistral ships the same weights twice: consolidated and in parts.
    parts = [file for file in files if not file.name.startswith("consolidated")]
    weights = draft = params = 0
    by_dtype: dict[str, int] = {}
    for name, dtype, size, count in _tensors(parts or files):
        if _is_draft(name, layers):
            draft += size
            continue
        weights += size
        params += count
        by_dtype[dtype] = by_dtype.get(dtype, 0) + size
    return CheckpointSizes(weights_bytes=weights, draft_bytes=draft, params=params, bytes_by_dtype=by_dtype)


def _is_draft(name: str, layers: int | None) -> bool:
    layer = _LAYER.search(name)
    beyond = layer is not None and layers is not None and int(layer[1]) >= layers and "vision" not in name
    return beyond or _DRAFT.search(name) is not None


def _tensors(files: list[Path]) -> Iterator[tuple[str, str, int, int]]:
    """Yield (name, dtype, bytes, elements) of every tensor."""
    for file in files:
        for name, entry in _header(file).items():
            if name == "__metadata__":
                continue
            try:
                begin, end = entry["data_offsets"]
                count = 1
                for extent in entry["shape"]:
                    count *= int(extent)
                yield name, str(entry["dtype"]), int(end) - int(begin), count
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{file}: the header's entry for {name!r} is not understood.") from error


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= _HEADER_BYTES_MAX else b""
        header = json.loads(text)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.", param="model") from error
    except (ValueError, RecursionError) as error:
        raise _not_safetensors(file) from error
    if not isinstance(header, dict):
        raise _not_safetensors(file)
    return header


def _not_safetensors(file: Path) -> ConfigError:
    hint = "A Git LFS pointer, or a download that broke off? Fetch the file again."
    return ConfigError(f"{file} is not a safetensors file.", hint=hint, param="model")
