"""A model as it lies on disk: config.json and safetensors in a directory, a GGUF file, or a config alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet.catalog.architecture import Architecture
from trivet.catalog.gguf_header import read_gguf
from trivet.catalog.gguf_metadata import config_from_gguf
from trivet.catalog.ollama_card import config_from_show
from trivet.catalog.safetensors_header import checkpoint_sizes
from trivet.domain.errors import ConfigError

_CONFIG_BYTES_MAX = 16 * 1024 * 1024
_SAY_NOTHING = ("config", "arch", "architecture", "params")
"""Names of files that say nothing of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What can be known of a model from its files."""

    architecture: Architecture
    weights_bytes: int | None = None
    """Exact, from headers; None where only a config is there."""
    quant: str | None = None
    """A GGUF's main type, or the checkpoint's quantisation method; None for plain weights."""
    dtype: str | None = None


def read_model(path: Path) -> ModelFiles:
    """Read a model from a directory, a `.gguf` file or a JSON file.

    Raises:
        ConfigError: there is nothing there that describes a model, or it cannot be read.
    """
    if path.suffix.lower() == ".gguf":
        return _from_gguf(path)
    if path.is_dir():
        return _from_directory(path)
    return ModelFiles(architecture=read_architecture(path))


def read_architecture(path: Path, *, name: str | None = None) -> Architecture:
    """Read a (partial) config.json, or what Ollama's `POST /api/show` answered of a model.

    Of a file of JSON lines (`.jsonl`) the line counts whose `model` is this name. Where a config does not
    say whose it is, the name does, or the file's (`gemma-4-12b.json`): a name often tells the number of
    parameters.
    """
    if path.suffix.lower() == ".jsonl":
        return Architecture.from_config(_json_line(path, name))
    document = _json_object(path)
    if isinstance(document.get("model_info"), dict):
        return Architecture.from_config(config_from_show(document), name=name or path.stem)
    stem = "" if path.stem.lower() in _SAY_NOTHING else path.stem
    return Architecture.from_config(document, name="" if document.get("model") else name or stem)


def _from_gguf(path: Path) -> ModelFiles:
    header = read_gguf(path)
    config = config_from_gguf(header.metadata) | {
        "total_params": header.params,
        "tie_word_embeddings": not header.has_output,
    }
    if not config.get("num_hidden_layers"):
        raise ConfigError(f"{path} describes no language model: it names no block_count.", param="model")
    return ModelFiles(
        architecture=Architecture.from_config(config, name=str(config.get("model") or path.stem)),
        weights_bytes=header.weights_bytes,
        quant=header.main_type.lower(),
    )


def _from_directory(path: Path) -> ModelFiles:
    config_path = path / "config.json"
    if not config_path.is_file():
        files = sorted(path.glob("*.gguf"))
        if files:
            return _from_gguf(files[0])
        raise ConfigError(f"{path} holds neither config.json nor a GGUF file.", param="model")
    config = _json_object(config_path)
    architecture = Architecture.from_config(config, name=str(config.get("_name_or_path") or path.name))
    sizes = None
    if any(path.glob("*.safetensors")):
        sizes = checkpoint_sizes(path, layers=architecture.layers)
    method = architecture.quantization.get("quant_method") or architecture.quantization.get("quant_algo")
    return ModelFiles(
        architecture=architecture,
        weights_bytes=sizes.weights_bytes if sizes else None,
        quant=_method(str(method), architecture.quantization) if method else None,
        dtype=architecture.torch_dtype,
    )


def _method(method: str, quantization: Any) -> str:
    """Return a quantisation method as --quant takes it; what says nothing of bits is told by its details."""
    text = f"{method} {json.dumps(quantization, default=str)}".lower()
    for word in ("mxfp4", "nvfp4", "awq", "gptq", "bitsandbytes", "fp8"):
        if word in text:
            return word
    bits = [word for word in ('"num_bits": 4', '"bits": 4') if word in text]
    return "int4" if bits else "int8"


def _json_line(path: Path, name: str | None) -> dict[str, Any]:
    rows = [_object(line, path) for line in _text(path).splitlines() if line.strip()]
    found = [row for row in rows if row.get("model") == name] if name else rows
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"{path} holds {len(rows)} architectures, {len(found)} of them that of {name or 'any model'}.",
        hint="Say which with --model, as its `model` is written there.",
        param="arch",
    )


def _json_object(path: Path) -> dict[str, Any]:
    return _object(_text(path), path)


def _text(path: Path) -> str:
    try:
        large = path.stat().st_size > _CONFIG_BYTES_MAX
        text = "" if large else path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.", param="arch") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}.", param="arch") from error
    if large:
        raise ConfigError(f"{path} is too large for a configuration.", param="arch")
    return text


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}.", param="arch") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no JSON object.", param="arch")
    return document
