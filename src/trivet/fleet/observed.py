"""What launched engines took in truth: the newest start of each kind, kept for the next plan.

`observed.json` in the state directory is one object. Its keys tell starts apart (model, engine, version, GPU,
settings); each value has `engine, engine_version, model, gpu, tensor_parallel, context_tokens, sequences,
batched_tokens, gpu_memory_utilization, kv_dtype, arguments, weights_bytes, kv_bytes, kv_tokens,
activation_bytes, non_torch_bytes, graphs_bytes, compute_bytes, observed_at`: bytes for each GPU, null where
the engine said nothing, the instant in UTC. `trivet plan --observed` reads it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from trivet.domain.clock import Clock
from trivet.domain.errors import StoreUnavailable
from trivet.domain.gpus import GIB
from trivet.domain.observations import MemoryObservation
from trivet.engines.launch import read_start_log
from trivet.fleet.plan import EndpointPlan
from trivet.storage.private_files import replace_private_file

log = structlog.get_logger(__name__)

OBSERVED_FILE = "observed.json"
ENTRIES_MAX = 500
"""The oldest go first."""


class Observations:
    """The file of one state directory; one process writes it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._path = directory / OBSERVED_FILE
        self._clock = clock

    def note(self, plan: EndpointPlan, log_text: str) -> MemoryObservation | None:
        """Read the log of a start, keep what it says, and return it; None if it says nothing."""
        seen = read_start_log(plan.deployment.engine, log_text)
        if seen.empty:
            return None
        entries = read_observed(self._path)
        entry = _entry(plan, seen) | {"observed_at": self._clock.now().isoformat(timespec="seconds")}
        key = "|".join(str(entry[name]) for name in _KEY_FIELDS)
        entries.pop(key, None)
        entries[key] = entry
        for oldest in list(entries)[: max(0, len(entries) - ENTRIES_MAX)]:
            del entries[oldest]
        try:
            replace_private_file(self._path, json.dumps(entries, indent=1).encode())
        except StoreUnavailable as error:
            log.warning("observed.not_kept", error=str(error))
        return seen


_KEY_FIELDS = (
    *("engine", "engine_version", "model", "gpu", "tensor_parallel", "context_tokens", "sequences"),
    *("batched_tokens", "gpu_memory_utilization", "kv_dtype", "arguments"),
)


def read_observed(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of an `observed.json`, newest last; nothing where there is none to be read."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("observed.unreadable", path=str(path), error=str(error))
        return {}
    if not isinstance(document, dict):
        return {}
    return {key: entry for key, entry in document.items() if isinstance(entry, dict)}


def in_gib(seen: MemoryObservation) -> dict[str, Any]:
    """Return an observation as the API shows it: GiB for each GPU, under the names of a footprint."""
    figures: dict[str, Any] = {"engine_version": seen.engine_version, "kv_tokens": seen.kv_tokens}
    for name, value in asdict(seen).items():
        if name.endswith("_bytes"):
            figures[f"{name.removesuffix('_bytes')}_gib"] = None if value is None else round(value / GIB, 3)
    return figures


def _entry(plan: EndpointPlan, seen: MemoryObservation) -> dict[str, Any]:
    deployment, launch = plan.deployment, plan.launch
    return {
        "engine": deployment.engine,
        "engine_version": seen.engine_version,
        "model": deployment.model,
        "gpu": plan.gpu,
        "tensor_parallel": launch.tensor_parallel if launch else 1,
        "context_tokens": deployment.context_tokens,
        "sequences": deployment.slots,
        "batched_tokens": launch.max_batched_tokens if launch else None,
        "gpu_memory_utilization": launch.gpu_memory_utilization if launch else None,
        "kv_dtype": launch.kv_dtype if launch else None,
        "arguments": list(launch.arguments) if launch else [],
        **{
            name: value
            for name, value in asdict(seen).items()
            if name not in ("engine_version", "total_bytes")
        },
    }
