"""What each launched engine should take of memory, worked out before it starts."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import structlog

from trivet.config.deployments import launch_of
from trivet.config.settings import LaunchSettings, Settings
from trivet.domain.errors import TrivetError
from trivet.domain.gpus import Gpu, Inventory
from trivet.domain.tiers import Deployment

log = structlog.get_logger(__name__)

FIGURES = ("weights", "kv", "activation", "non_torch", "graphs", "compute", "total", "band")


async def predict(
    settings: Settings, deployments: Sequence[Deployment], inventory: Inventory
) -> Mapping[str, dict[str, Any]]:
    """Return the footprint of each launched deployment by its name, in GiB for each GPU.

    A model that neither the catalog nor its files describe is left out: it starts all the same, and whatever
    goes wrong in working one out is no reason not to start.
    """
    launches = {each.name: (each, launch_of(settings, each.name)) for each in deployments}
    asked = {name: (each, launch) for name, (each, launch) in launches.items() if launch is not None}
    answers = await asyncio.gather(
        *(asyncio.to_thread(_figures, settings, each, launch, inventory) for each, launch in asked.values()),
        return_exceptions=True,
    )
    found: dict[str, dict[str, Any]] = {}
    for name, answer in zip(asked, answers, strict=True):
        if isinstance(answer, dict):
            found[name] = answer
        elif isinstance(answer, TrivetError):
            log.debug("engine.not_predicted", deployment=name, reason=str(answer))
        elif isinstance(answer, BaseException):
            log.warning("engine.not_predicted", deployment=name, reason=str(answer), exc_info=answer)
    return found


def _figures(
    settings: Settings, deployment: Deployment, launch: LaunchSettings, inventory: Inventory
) -> dict[str, Any] | None:
    # Half a second of imports, which a Trivet that launches nothing does without.
    from trivet.catalog.footprint import FootprintRequest, footprint
    from trivet.catalog.gpu_spec import spec_from_memory
    from trivet.catalog.gpu_table import load_gpu_table
    from trivet.catalog.model_choice import ModelAsked, choose_model

    engine = deployment.engine
    if engine not in ("vllm", "llamacpp"):
        return None
    gpu = _first_gpu(deployment, inventory)
    if gpu is not None and gpu.total_bytes is not None:
        spec = load_gpu_table(settings.catalog.gpus).for_driver_name(gpu.name, gpu.total_bytes)
    elif engine == "llamacpp":
        spec = spec_from_memory("CPU", inventory.host.ram_total_bytes)
    else:
        return None  # vLLM's figures are those of GPUs
    name = _model_name(deployment, launch.path)
    words = [word for argument in launch.arguments for word in argument.split("=", 1)]
    told = dict(pairwise(words))
    asked = ModelAsked(name=name, engine=engine, dtype=told.get("--dtype"), quant=told.get("--quantization"))
    model = choose_model(asked, cards=settings.catalog.models)
    answer = footprint(
        FootprintRequest(
            architecture=model.architecture,
            engine=engine,
            dtype=model.dtype,
            quant=model.quant,
            weights_bytes=model.weights_bytes,
            gpu=spec,
            context_tokens=deployment.context_tokens,
            sequences=deployment.slots,
            batched_tokens=launch.max_batched_tokens,
            tensor_parallel=launch.tensor_parallel,
            gpu_memory_utilization=launch.gpu_memory_utilization,
            kv_dtype=launch.kv_dtype,
            eager="--enforce-eager" in launch.arguments,
            slots_apart=True,
        )
    ).as_json()
    return {f"{name}_gib": answer[f"{name}_gib"] for name in FIGURES} | {"kv_tokens": answer["kv_tokens"]}


def _first_gpu(deployment: Deployment, inventory: Inventory) -> Gpu | None:
    return next((gpu for gpu in inventory.gpus if gpu.uuid in deployment.devices), None)


def _model_name(deployment: Deployment, path: Path | None) -> str:
    return str(path.expanduser()) if path is not None else deployment.model
