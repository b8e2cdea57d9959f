"""Memory that engines really took, as published, and the request that each case amounts to.

A case is one JSON line: engine, model, precision, GPU, load, and what was measured. Architectures lie in a
second file, one JSON line each, with Hugging Face's names.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet.catalog.architecture import Architecture
from trivet.catalog.config_fields import parse_count
from trivet.catalog.engine_constants import vllm_version
from trivet.catalog.footprint import EngineKind, FootprintRequest, GpuMemory, default_context_tokens
from trivet.catalog.gpu_table import GpuTable
from trivet.domain.errors import ConfigError

_FAMILY = re.compile(
    r"(qwen\d?(?:\.\d)?-?(?:next|coder)?|qwq|llama-?\d?(?:[._]\d)?|gemma-?\d?n?|mistral-small-?[\d.]*|mixtral"
    r"|gpt-oss|phi-\d|deepseek-coder-v\d(?:-lite)?|deepseek-(?:r1-distill-qwen|[rv]\d(?:\.\d)?(?:-lite)?)|kimi-\w+|glm-[\w.]+|opt|minimax"
    r"|nemotron-(?:3-)?(?:super|nano|ultra|h)|granite-\w+)"
)
_SIZE = re.compile(r"(?<![a-z])((?:\d+x)?\d+(?:\.\d+)?)b(?![a-z])")
_SAME_STRUCTURE = {"qwen3.6": "qwen3.5", "qwen3.8": "qwen3.5", "llama3": "llama3.1"}
"""Families whose models of one size have the same dimensions."""
_NOTED_VERSION = re.compile(r"states (\d+\.\d+(?:\.\d+)?)")
_OTHER_THINGS = (
    (r"gfx906", "a fork that repacks weights and has no sliding-window kernel"),
    (r"drafter", "with a draft model of unknown size"),
    (r"ENGINE ESTIMATE|reported by ollama|reported_gb", "an engine's own estimate, not a measurement"),
    (r"FAILED", "did not start"),
    (r"partial offload", "partly in host memory"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCase:
    """One published measurement and the request it amounts to."""

    id: int
    model: str
    request: FootprintRequest
    measured: Mapping[str, Any]
    gpu_known: bool
    """Whether the table knows the GPU that was written; pools are compared only then."""
    fork_keeps_all: bool
    """ik_llama.cpp keeps the whole context in sliding layers too."""
    remark: str | None = None
    """Why it measures something else than what is predicted; None: it does not."""

    @property
    def family(self) -> str:
        """For leaving out: models of one maker's kind."""
        return _key(self.model)[0].rstrip("0123456789.")


def read_cases(
    cases: Path, architectures: Path, table: GpuTable
) -> tuple[list[MemoryCase], list[tuple[int, str, str]]]:
    """Return the cases, and (id, model, reason) of those that cannot be asked about.

    Raises:
        ConfigError: a file cannot be read.
    """
    records = _lines(architectures)
    found: list[MemoryCase] = []
    left: list[tuple[int, str, str]] = []
    for row in _lines(cases):
        record = record_for(str(row["model"]), records)
        if record is None:
            left.append((row["id"], row["model"], "no architecture record"))
            continue
        try:
            found.append(_case(row, record, table))
        except ConfigError as error:
            left.append((row["id"], row["model"], str(error)))
    return found, left


def record_for(model: str, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Find a model's architecture: by its name, else by family and size, public configs first."""
    for record in records:
        if record["model"] == model:
            return record
    family, size, active = _key(model)
    alike = _SAME_STRUCTURE.get(family, family)
    # The last: a family of one size need not name it (DeepSeek-R1).
    for wanted in ((family, size, active), (alike, size, active), (alike, size, ""), (alike, "", "")):
        for record in records:
            if _key(record["model"]) == wanted:
                return record
    return None


def _key(model: str) -> tuple[str, str, str]:
    name = model.lower()
    if "/" in name and not re.search(r"r1/v3", name):
        name = name.rsplit("/", 1)[1]
    name = name.replace("qwen38", "qwen3.8").replace("mistral-small3", "mistral-small-3")
    family = _FAMILY.search(name)
    size = _SIZE.search(name)
    active = re.search(r"a(\d+)b", name)
    word = family[1].replace("-", "").replace("_", ".") if family else name
    total = size[1] if size else ""
    return re.sub(r"mistralsmall.*", "mistralsmall", word), total, active[1] if active else ""


def _case(row: Mapping[str, Any], record: Mapping[str, Any], table: GpuTable) -> MemoryCase:
    engine: EngineKind = (
        "vllm" if row["engine"] == "vllm" else "ollama" if row["engine"] == "ollama" else "llamacpp"
    )
    note = f"{row.get('note', '')} {row.get('source_url', '')} {' '.join(row['measured'])}"
    version = row.get("engine_version") or _noted(_NOTED_VERSION, note)
    gpu, known = _gpu(row, table)
    architecture = Architecture.from_config(record, name=str(row["model"]))
    slots = row.get("parallel_or_max_seqs")
    context = row.get("ctx_or_max_model_len") or default_context_tokens(architecture, "vllm", gpu)
    if engine != "vllm" and slots:
        context //= slots
    written = str(row["quant_or_dtype"])
    total = parse_count(str(row.get("total_params_text") or ""))
    request = FootprintRequest(
        architecture=architecture,
        engine=engine,
        dtype=written if engine == "vllm" else "f16",
        quant=None if engine == "vllm" or written == "not stated" else written,
        gpu=gpu,
        context_tokens=context,
        sequences=slots,
        batched_tokens=row.get("max_num_batched_tokens") or row.get("n_ubatch"),
        # Buffers of llama.cpp are summed over devices in the cases.
        tensor_parallel=(row.get("num_gpus_tp") or 1) if engine == "vllm" else 1,
        pipeline_parallel=row.get("pp") or 1,
        gpu_memory_utilization=row.get("gpu_memory_utilization"),
        engine_version=version,
        kv_dtype=row.get("kv_dtype"),
        total_params=int(total) if total else None,
        speculative_tokens=row.get("spec_tokens") or 0,
        flash_attention="fa=0" not in note,
    )
    remark = next((reason for pattern, reason in _OTHER_THINGS if re.search(pattern, note)), None)
    if "drafter" in str(row["model"]):
        remark = "with a draft model of unknown size"
    if engine == "vllm" and (vllm_version(version) or (9, 0)) < (0, 8):
        remark = "vLLM's V0 engine"
    return MemoryCase(
        id=row["id"],
        model=str(row["model"]),
        request=request,
        measured=row["measured"],
        gpu_known=known,
        fork_keeps_all=str(row["engine"]).startswith("ik_"),
        remark=remark,
    )


def _noted(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def _gpu(row: Mapping[str, Any], table: GpuTable) -> tuple[GpuMemory, bool]:
    try:
        return table.find(re.split(r"[+,]", str(row["gpu"]))[0].strip()), True
    except (KeyError, ConfigError):
        return table.find("H100"), False


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.", param="cases") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a file of JSON lines.", param="cases") from error
