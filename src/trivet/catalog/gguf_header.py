"""A GGUF file's header: its metadata and the sizes of its tensors. No tensor is read.

The format is that of ggml's docs/gguf.md, versions 2 and 3. Type sizes are those of ggml's block formats. A
model in several files (`-00001-of-00003.gguf`) is read as one.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trivet.domain.errors import ConfigError

_MAGIC = b"GGUF"
_SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")
_LIST_KEPT_MAX = 4096
"""Longer arrays (a tokenizer's) are skipped; their length is kept."""
_STRING_BYTES_MAX = 1 << 24
_COUNT_MAX = 1 << 24
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_TYPES: dict[int, tuple[str, int, int]] = {
    # id: (name, weights in a block, bytes of a block)
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What the header says, over all parts of a split model."""

    metadata: Mapping[str, Any]
    """Long arrays are given as their length."""
    weights_bytes: int
    params: int
    bytes_by_type: Mapping[str, int]
    has_output: bool
    """False: the output matrix is the token embedding."""

    @property
    def main_type(self) -> str:
        """The type that holds most bytes, as `Q4_K`."""
        return max(self.bytes_by_type, key=lambda name: self.bytes_by_type[name], default="F16")


def read_gguf(path: Path) -> GgufHeader:
    """Read a GGUF file's header, and those of its other parts.

    Raises:
        ConfigError: a file is missing, cut off, or not GGUF.
    """
    metadata: dict[str, Any] = {}
    weights = params = 0
    by_type: dict[str, int] = {}
    has_output = False
    for part in _parts(path):
        own, tensors = _read(part)
        metadata = own | metadata
        for name, count, kind, size in tensors:
            weights += size
            params += count
            by_type[kind] = by_type.get(kind, 0) + size
            has_output = has_output or name == "output.weight"
    return GgufHeader(
        metadata=metadata, weights_bytes=weights, params=params, bytes_by_type=by_type, has_output=has_output
    )


def _parts(path: Path) -> list[Path]:
    split = _SPLIT.match(path.name)
    if not split:
        return [path]
    count = int(split[3])
    return [path.with_name(f"{split[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def _read(path: Path) -> tuple[dict[str, Any], list[tuple[str, int, str, int]]]:
    try:
        with path.open("rb") as stream:
            return _Reader(stream).header()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.", param="model") from error
    except (struct.error, ValueError, KeyError, RecursionError) as error:
        hint = "A Git LFS pointer, or a download that broke off? Fetch the file again."
        raise ConfigError(
            f"{path} is not a GGUF file of version 2 or 3.", hint=hint, param="model"
        ) from error


class _Reader:
    """Reads a header front to back. Lengths are bounded, since a broken file may say anything."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def header(self) -> tuple[dict[str, Any], list[tuple[str, int, str, int]]]:
        if self._stream.read(4) != _MAGIC:
            raise ValueError("magic")
        if self._number("<I") not in (2, 3):
            raise ValueError("version")
        tensor_count, value_count = self._bounded(), self._bounded()
        metadata = {}
        for _ in range(value_count):
            key = self._string()
            metadata[key] = self._value(self._number("<I"))
        return metadata, [self._tensor() for _ in range(tensor_count)]

    def _tensor(self) -> tuple[str, int, str, int]:
        name = self._string()
        count = 1
        for _ in range(min(self._number("<I"), 8)):
            count *= self._number("<Q")
        kind, block, size = _TYPES[self._number("<I")]
        self._number("<Q")
        return name, count, kind, count // block * size

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        inner, length = self._number("<I"), self._bounded()
        if length <= _LIST_KEPT_MAX:
            return [self._value(inner) for _ in range(length)]
        if inner in _SCALARS:
            self._stream.seek(length * struct.calcsize(_SCALARS[inner]), 1)
        else:
            for _ in range(length):
                self._value(inner)
        return length

    def _string(self) -> str:
        length = int(self._number("<Q"))
        if length > _STRING_BYTES_MAX:
            raise ValueError("length")
        text = self._stream.read(length)
        if len(text) != length:
            raise ValueError("cut off")
        return text.decode("utf-8", "replace")

    def _bounded(self) -> int:
        count = int(self._number("<Q"))
        if count > _COUNT_MAX:
            raise ValueError("count")
        return count

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._stream.read(struct.calcsize(form)))[0]
