"""`trivet footprint`"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import ConfigOption, JsonOption

if TYPE_CHECKING:
    from trivet.catalog.footprint import EngineKind, Footprint, FootprintRequest
    from trivet.catalog.gpu_spec import GpuSpec
    from trivet.config.settings import Settings

BAR_CHARS = 48
_DEFAULT_GPU = "H100"
_PARTS = (
    ("weights", "weights", "W"),
    ("kv", "KV cache", "k"),
    ("activation", "activation", "a"),
    ("compute", "compute buffers", "c"),
    ("graphs", "CUDA graphs", "g"),
    ("non_torch", "CUDA context, NCCL", "n"),
)
_ENGINES: dict[str, "EngineKind"] = {
    "vllm": "vllm",
    "llamacpp": "llamacpp",
    "llama.cpp": "llamacpp",
    "ik_llama.cpp": "llamacpp",
    "ollama": "ollama",
}


EngineOption = Annotated[str, typer.Option(help="vllm, llamacpp or ollama.")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="A card of the catalog, an Ollama tag, a model's directory or a .gguf file."),
]
ArchOption = Annotated[
    Path | None,
    typer.Option(
        help="A config.json, whole or partial, Ollama's answer to show, or JSON lines (of --model)."
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="bf16, f16, fp16, float32, fp8, w8a8, int8, mxfp4, nvfp4, int4, awq, gptq, bnb."),
]
QuantOption = Annotated[str | None, typer.Option(help="A quantisation: q4_k_m, q8_0, awq, gptq, ...")]
ContextOption = Annotated[
    int | None, typer.Option(help="Tokens of one sequence; by default what the engine takes by itself.")
]
SequencesOption = Annotated[
    int | None, typer.Option(help="vLLM's max_num_seqs; slots of llama.cpp and Ollama.")
]
BatchedOption = Annotated[
    int | None, typer.Option(help="vLLM's max_num_batched_tokens; n_ubatch of llama.cpp.")
]
TpOption = Annotated[int, typer.Option(help="GPUs that share the model.")]
PpOption = Annotated[int, typer.Option(help="Pipeline stages.")]
GpuOption = Annotated[
    str | None, typer.Option(help="As people write it: RTX4090, A100-80GB, 24GB. By default an H100.")
]
UtilizationOption = Annotated[
    float | None, typer.Option(help="vLLM's share of the GPU; by default that version's own.")
]
VersionOption = Annotated[str | None, typer.Option(help="For example 0.19.0; by default the newest known.")]
KvOption = Annotated[str | None, typer.Option(help="Type of the KV cache: auto, fp8, q8_0, ...")]
ParamsOption = Annotated[
    float | None, typer.Option(help="Parameters in billions, if the config cannot tell.")
]
BitsOption = Annotated[
    float | None, typer.Option(help="Mean bits of a weight, as llama.cpp prints them (BPW).")
]
SpeculativeOption = Annotated[int, typer.Option(help="Tokens drafted ahead (MTP, EAGLE).")]
DraftOption = Annotated[Path | None, typer.Option(help="config.json of a draft model in the same engine.")]
EagerOption = Annotated[bool, typer.Option("--eager", help="vLLM without CUDA graphs.")]


def footprint(
    engine: EngineOption = "vllm",
    model: ModelOption = None,
    arch: ArchOption = None,
    dtype: DtypeOption = None,
    quant: QuantOption = None,
    context: ContextOption = None,
    sequences: SequencesOption = None,
    batched_tokens: BatchedOption = None,
    tp: TpOption = 1,
    pp: PpOption = 1,
    gpu: GpuOption = None,
    gpu_memory_utilization: UtilizationOption = None,
    engine_version: VersionOption = None,
    kv_dtype: KvOption = None,
    params_b: ParamsOption = None,
    bits_per_weight: BitsOption = None,
    speculative_tokens: SpeculativeOption = 0,
    draft_arch: DraftOption = None,
    eager: EagerOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how much memory a model needs on each GPU, before it is started.

    What is left out means what that engine's version would do by itself on that GPU. Figures are for one GPU.

    Examples:
      trivet footprint --model qwen2.5-7b-instruct --gpu RTX4090 --context 16384
      trivet footprint --engine ollama --model llama3.1:8b --gpu RTX3060-12GB --context 8192
      trivet footprint --arch config.json --dtype fp8 --tp 2 --gpu H100 --engine-version 0.19.0 --json
    """
    from trivet.catalog.footprint import FootprintRequest, default_context_tokens
    from trivet.catalog.model_choice import ModelAsked, choose_model
    from trivet.catalog.model_files import read_architecture

    kind = _engine(engine)
    settings = _settings(config)
    spec, notes = _gpu(gpu, settings)
    asked = ModelAsked(name=model, arch=arch, engine=kind, dtype=dtype, quant=quant)
    found = choose_model(asked, cards=settings.catalog.models)
    if context is None:
        context = default_context_tokens(found.architecture, kind, spec)
        notes.append(f"the engine's own context of {context}")
    request = FootprintRequest(
        architecture=found.architecture,
        engine=kind,
        dtype=found.dtype,
        quant=found.quant,
        weights_bytes=None if bits_per_weight or params_b else found.weights_bytes,
        gpu=spec,
        context_tokens=context,
        sequences=sequences,
        batched_tokens=batched_tokens,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        gpu_memory_utilization=gpu_memory_utilization,
        engine_version=engine_version,
        kv_dtype=kv_dtype,
        total_params=None if params_b is None else round(params_b * 1e9),
        bits_per_weight=bits_per_weight,
        eager=eager,
        speculative_tokens=speculative_tokens,
        draft=read_architecture(draft_arch) if draft_arch else None,
    )
    _tell(request, notes, as_json=as_json)


def _tell(request: "FootprintRequest", notes: list[str], *, as_json: bool) -> None:
    from trivet.catalog.footprint import footprint as work_out

    answer = work_out(request)
    answer = replace(answer, assumed=(*answer.assumed, *notes))
    if as_json:
        print_json(answer.as_json())
    else:
        _print(request, answer)


def _engine(written: str) -> "EngineKind":
    from trivet.domain.errors import ConfigError

    kind = _ENGINES.get(written.lower().split(" ")[0])
    if kind is None:
        raise ConfigError(
            f"No engine called {written!r} can be worked out.",
            hint="Use vllm, llamacpp or ollama.",
            param="engine",
        )
    return kind


def _settings(config: Path | None) -> "Settings":
    from trivet.config.load import load_settings

    return load_settings(config_path=config).settings


def _gpu(written: str | None, settings: "Settings") -> tuple["GpuSpec", list[str]]:
    """Return the GPU that is meant; of several the one with least memory, since each must hold its share."""
    from trivet.catalog.gpu_spec import spec_from_memory
    from trivet.catalog.gpu_table import load_gpu_table
    from trivet.domain.errors import ConfigError
    from trivet.gpu.host import read_host

    table = load_gpu_table(settings.catalog.gpus)
    if written is None:
        return table.find(_DEFAULT_GPU), [f"an {_DEFAULT_GPU}, as no --gpu was named"]
    if written.lower().startswith("cpu"):
        return spec_from_memory("CPU", read_host().ram_total_bytes), ["this machine's memory as the device"]
    try:
        return table.find(written), []
    except ConfigError:
        parts = [part.strip() for part in written.replace("+", ",").split(",")]
        if len(parts) < 2:
            raise
    specs = [table.find(_without_count(part)) for part in parts if part]
    smallest = min(specs, key=lambda spec: spec.usable_bytes)
    return smallest, [f"the smallest of {written}: {smallest.name}"]


def _without_count(written: str) -> str:
    head, separator, rest = written.partition("x")
    return rest.strip() if separator and head.strip().isdigit() else written


def _print(request: "FootprintRequest", answer: "Footprint") -> None:
    """Draw the card, list the parts, give the verdict."""
    from trivet.domain.gpus import GIB

    usable = request.gpu.usable_bytes
    several = request.tensor_parallel * request.pipeline_parallel
    each = f" on each of {several} GPUs" if several > 1 else ""
    name = request.architecture.name or "The model"
    form = request.quant or request.dtype
    sys.stdout.write(
        f"{name} ({form}, {request.architecture.total_params / 1e9:.1f} B parameters) "
        f"with {request.engine} on {request.gpu.name}{each}\n\n{_bar(answer, usable)}\n\n"
    )
    rows: list[tuple[Any, ...]] = [
        (f"{letter}  {label}", getattr(answer, f"{part}_bytes") / GIB)
        for part, label, letter in _PARTS
        if getattr(answer, f"{part}_bytes")
    ]
    rows.append(("   total", answer.total_bytes / GIB))
    rows.append((".  free", (usable - answer.total_bytes) / GIB))
    print_table(("part", "GiB"), rows)
    sys.stdout.write(
        f"\nThe cache holds {answer.kv_tokens:,} tokens of {answer.kv_bytes_per_token:,} bytes. "
        f"Figures beside weights are within {answer.band_bytes / GIB:g} GiB.\n"
        f"{_verdict(request, answer)}\n"
    )
    for note in answer.assumed:
        say(f"assumed: {note}")


def _bar(answer: "Footprint", usable_bytes: int) -> str:
    """Draw the card's memory, a letter for each part; what is beyond the card stands beyond the bar."""
    drawn = ""
    for part, _, letter in _PARTS:
        size = getattr(answer, f"{part}_bytes")
        drawn += letter * max(round(size / usable_bytes * BAR_CHARS), 1 if size else 0)
    return (
        f"[{drawn[:BAR_CHARS]:.<{BAR_CHARS}}]{drawn[BAR_CHARS:][:20]} {usable_bytes / 1024**3:.1f} GiB usable"
    )


def _verdict(request: "FootprintRequest", answer: "Footprint") -> str:
    """Say in a sentence whether it fits, and what would help where it does not."""
    from trivet.domain.gpus import GIB

    of_context = f"of {request.context_tokens:,} tokens"
    if answer.fits and request.engine == "vllm":
        return f"It fits: {answer.kv_tokens / request.context_tokens:,.1f} sequences {of_context} at a time."
    if answer.fits:
        return f"It fits, with {request.sequences or 1} slot(s) {of_context}."
    if answer.weights_bytes > request.gpu.usable_bytes:
        return (
            "It does not fit: the weights alone are more than the GPU has. "
            "Take a smaller quantisation, or more GPUs (--tp)."
        )
    if request.engine == "vllm":
        need = answer.kv_bytes_per_token * request.context_tokens + answer.band_bytes - answer.kv_bytes
        return (
            f"It does not fit safely: the pool lacks {max(need, 0) / GIB:.1f} GiB for one sequence "
            f"{of_context} with the margin. Try less --context, or fewer --sequences."
        )
    missing = answer.total_bytes + max(answer.band_bytes, GIB) - request.gpu.usable_bytes
    return (
        f"It does not fit safely: {max(missing, 0) / GIB:.1f} GiB too much, margin included. "
        "Try less --context, or a smaller quantisation."
    )
