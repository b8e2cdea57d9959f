"""How far predicted footprints are from measured ones, quantity by quantity."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import vllm_constants, vllm_default_load, vllm_version
from trivet.catalog.footprint import Footprint, footprint
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.layers import Mixer
from trivet.catalog.precision import scheme_of
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB, MIB
from trivet.lab.memory_cases import MemoryCase, read_cases

POOL_SHARE = 0.03
POOL_GIB = 0.75
"""A pool counts as met within the larger of the two."""


@dataclass(frozen=True, slots=True)
class Point:
    """One predicted and one measured figure."""

    case: MemoryCase
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Line:
    """What one quantity's points show."""

    name: str
    points: tuple[Point, ...]

    def row(self) -> tuple[str, int, float, float, float, float, str]:
        """Return name, n, median error, shares within 5 and 10 %, the worst error and its model."""
        errors = [abs(point.error) for point in self.points]
        worst = max(self.points, key=lambda point: abs(point.error))
        n = len(errors)
        five, ten = (sum(error <= bound for error in errors) / n for bound in (0.05, 0.10))
        return self.name, n, statistics.median(errors), five, ten, worst.error, worst.case.model


Measure = Callable[[MemoryCase, Footprint], tuple[float, float] | None]
"""(predicted, measured), or None where the case says nothing of it."""


def _weights(*schemes: str) -> Measure:
    def measure(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
        wanted = case.request.engine == "vllm" and scheme_of(case.request.dtype, None) in schemes
        return _pair(case, "weights_gib", found.weights_bytes) if wanted else None

    return measure


def _file_weights(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
    """Compare the file; of a tied embedding that is held twice only the copy beside the layers counts."""
    if case.request.engine == "vllm":
        return None
    devices = case.measured.get("weights_gib_by_device") or {}
    beside = sum(size for name, size in devices.items() if not name.startswith("CPU"))
    if case.request.architecture.tied and beside:
        return found.weights_bytes / GIB, float(beside)
    return _pair(case, "weights_gib", found.weights_bytes)


def _pair(case: MemoryCase, key: str, predicted_bytes: int) -> tuple[float, float] | None:
    measured = case.measured.get(key)
    return (predicted_bytes / GIB, float(measured)) if measured and measured > 0 else None


def _token_bytes(*kinds: str) -> Measure:
    """Compare the pool divided by the tokens it holds; the concurrency line is read where there is one."""

    def measure(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
        pool, tokens = case.measured.get("kv_gib"), case.measured.get("kv_tokens")
        if case.measured.get("max_concurrency"):
            tokens = case.measured["max_concurrency"] * case.request.context_tokens
        if case.request.engine != "vllm" or not pool or pool <= 0 or not tokens:
            return None
        if _kind(case.request.architecture) not in kinds:
            return None
        return float(found.kv_bytes_per_token), pool * GIB / tokens

    return measure


def _naive_token_bytes(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
    """Do what naive calculators do: every layer keeps every token, by the model's plain dimensions."""
    measured = _token_bytes("sliding", "states")(case, found)
    if measured is None:
        return None
    architecture = case.request.architecture
    heads = next(layer for layer in architecture.plan if layer.kv_heads and layer.key_dim)
    width = heads.kv_heads * (heads.key_dim + heads.value_dim) / case.request.tensor_parallel
    element = 1 if str(case.request.kv_dtype).startswith("fp8") else 2
    return architecture.layers * width * element, measured[1]


def _cache(*kinds: str) -> Measure:
    def measure(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
        kind = _kind(case.request.architecture)
        if case.request.engine == "vllm" or kind not in kinds or (kind == "sliding" and case.fork_keeps_all):
            return None
        return _pair(case, "kv_gib", found.kv_bytes)

    return measure


def _kind(architecture: Architecture) -> str:
    mixers = {layer.mixer for layer in architecture.plan}
    if Mixer.STATE in mixers:
        return "states"
    return "sliding" if mixers & {Mixer.SLIDING, Mixer.CHUNKED} else "plain"


def _activation(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
    # In a pipeline the figure is the first stage's; the last one, which samples, is what is predicted.
    alone = case.request.pipeline_parallel == 1
    return _pair(case, "activation_gib", found.activation_bytes) if alone else None


def _non_torch(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
    alone = case.request.pipeline_parallel == 1
    return _pair(case, "non_torch_gib", found.non_torch_bytes) if alone else None


def _compute(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
    devices = case.measured.get("compute_mib_by_device")
    if devices:
        return found.compute_bytes / MIB, float(max(devices.values()))
    return _pair(case, "compute_gib", found.compute_bytes)


def _pool(on_h100: bool) -> Measure:
    def measure(case: MemoryCase, found: Footprint) -> tuple[float, float] | None:
        unknown = not case.gpu_known or case.request.gpu_memory_utilization is None
        if case.request.engine != "vllm" or unknown or on_h100 != ("H100" in case.request.gpu.name):
            return None
        if not adds_up(case):
            return None
        return _pair(case, "kv_gib", found.kv_bytes)

    return measure


QUANTITIES: tuple[tuple[str, Measure], ...] = (
    ("vLLM weights, 16 and 32 bit", _weights("16bit", "32bit")),
    ("vLLM weights, 8 bit", _weights("8bit")),
    ("vLLM weights, 4 bit", _weights("int4", "bnb", "mxfp4", "nvfp4")),
    ("GGUF weights", _file_weights),
    ("vLLM KV bytes/token, plain and latent", _token_bytes("plain")),
    ("vLLM KV bytes/token, sliding", _token_bytes("sliding")),
    ("vLLM KV bytes/token, linear hybrids", _token_bytes("states")),
    ("  same two, all layers full (naive)", _naive_token_bytes),
    ("llama.cpp, Ollama KV, plain and latent", _cache("plain")),
    ("llama.cpp, Ollama KV, sliding", _cache("sliding")),
    ("vLLM activation", _activation),
    ("vLLM non-torch", _non_torch),
    ("vLLM KV pool, H100", _pool(on_h100=True)),
    ("vLLM KV pool, other GPUs", _pool(on_h100=False)),
    ("llama.cpp compute buffer", _compute),
)


def adds_up(case: MemoryCase) -> bool:
    """Tell whether a case's own figures give its budget; False where the stated share cannot be right."""
    parts = [case.measured.get(f"{part}_gib") for part in ("weights", "activation", "non_torch", "kv")]
    share = case.request.gpu_memory_utilization
    if None in parts or share is None or not case.gpu_known:
        return True
    budget = case.request.gpu.usable_bytes * share / GIB
    return abs(sum(float(part) for part in parts if part is not None) - budget) <= POOL_GIB


def compare(cases: Sequence[MemoryCase]) -> list[Line]:
    """Predict every case and gather the points of each quantity."""
    answers = [(case, footprint(case.request)) for case in cases]
    lines = []
    for name, measure in QUANTITIES:
        points = []
        for case, found in answers:
            pair = measure(case, found)
            if pair is not None:
                points.append(Point(case, *pair))
        if points:
            lines.append(Line(name, tuple(points)))
    return lines


def pool_met(points: Iterable[Point]) -> list[bool]:
    """Tell of each pool whether it is within the larger of 3 % and 0.75 GiB."""
    return [abs(p.predicted - p.measured) <= max(POOL_SHARE * p.measured, POOL_GIB) for p in points]


def left_out_activation(cases: Sequence[MemoryCase]) -> list[float]:
    """Return activation errors where the sampler's factor is refitted without the case's own family.

    Per set of constants: the factor is the median of what the other families' printed activations imply.
    """
    implied: list[tuple[MemoryCase, float, float, float]] = []
    for case in cases:
        pair = _activation(case, footprint(case.request)) if case.request.engine == "vllm" else None
        if pair is None:
            continue
        version = vllm_version(case.request.engine_version)
        own, _ = vllm_default_load(case.request.gpu.usable_bytes, case.request.gpu.name, version)
        unit = 4 * (case.request.sequences or own) * case.request.architecture.vocab_size / GIB
        factor = vllm_constants(version).sampler_factor
        implied.append((case, factor, unit, factor + (pair[1] - pair[0]) / unit))
    errors = []
    for case, factor, unit, _ in implied:
        others = [fit for other, same, _, fit in implied if same == factor and other.family != case.family]
        if others:
            change = (statistics.median(others) - factor) * unit
            predicted = footprint(case.request).activation_bytes / GIB + change
            errors.append(abs(predicted / case.measured["activation_gib"] - 1))
    return errors


def report(cases_path: Path, architectures_path: Path, *, as_json: bool) -> str:
    """Return the whole table as text or JSON."""
    cases, left = read_cases(cases_path, architectures_path, load_gpu_table())
    usable = [case for case in cases if case.remark is None]
    left += [(case.id, case.model, case.remark) for case in cases if case.remark]
    lines = compare(usable)
    held_out = left_out_activation(usable)
    pools = next((line.points for line in lines if line.name == "vLLM KV pool, H100"), ())
    met = pool_met(pools)
    left += [
        (case.id, case.model, "pool only: its parts do not give the budget that it states")
        for case in usable
        if not adds_up(case)
    ]
    if as_json:
        names = ("quantity", "n", "median", "within_5", "within_10", "worst", "worst_model")
        document = {
            "quantities": [dict(zip(names, line.row(), strict=True)) for line in lines],
            "h100_pools_met": [sum(met), len(met)],
            "activation_leave_family_out_median": statistics.median(held_out) if held_out else None,
            "left_out": [dict(zip(("id", "model", "reason"), row, strict=True)) for row in sorted(left)],
        }
        return json.dumps(document, indent=2) + "\n"
    text = f"{'quantity':40} {'n':>3} {'median':>8} {'<=5 %':>6} {'<=10 %':>6} {'worst':>8}\n"
    for line in lines:
        name, n, median, five, ten, worst, model = line.row()
        text += f"{name:40} {n:>3} {median:>8.2%} {five:>6.0%} {ten:>6.0%} {worst:>+8.1%}  {model[:36]}\n"
    if met:
        text += f"\nH100 pools within the larger of 3 % and 0.75 GiB: {sum(met)} of {len(met)}\n"
    if held_out:
        median = statistics.median(held_out)
        text += f"Activation, the factor refitted without the case's own family: median {median:.2%}\n"
    text += f"\nLeft out: {len(left)}\n"
    return text + "".join(
        f"  {number:>4}  {model[:44]:44}  {reason}\n" for number, model, reason in sorted(left)
    )


def main(default_cases: Path, words: Sequence[str] | None = None) -> None:
    """Read the arguments, by default the command line's, and print the table."""
    parser = argparse.ArgumentParser(prog="eval-footprint", description=__doc__)
    parser.add_argument("--cases", type=Path, default=default_cases, help="JSON lines of measured cases")
    parser.add_argument(
        "--architectures", type=Path, help="JSON lines of architectures; by default beside the cases"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(words)
    architectures = arguments.architectures or arguments.cases.with_name("architectures.jsonl")
    try:
        sys.stdout.write(report(arguments.cases, architectures, as_json=arguments.json))
    except ConfigError as error:
        sys.stderr.write(f"eval-footprint: {error}\n")
        sys.exit(3)
