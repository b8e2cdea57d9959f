"""The machine's GPUs as the server sees them: at its start, in its log, in /metrics."""

import asyncio
from collections.abc import Callable

import structlog

from trivet.config.deployments import state_dir_of
from trivet.config.settings import Settings
from trivet.domain.clock import Clock
from trivet.domain.gpus import Gpu, Inventory, InventoryState
from trivet.fleet.records import running_engines
from trivet.gpu import GpuWatch, discover
from trivet.metering import TrivetCollector

log = structlog.get_logger(__name__)


async def watch_gpus(settings: Settings, clock: Clock) -> GpuWatch:
    """Look at the GPUs, log what is wrong, and return what keeps looking.

    What adopted engines hold is Trivet's own, as what runs below it is.
    """

    def read() -> Inventory:
        return discover(engines=running_engines(state_dir_of(settings)))

    inventory = await asyncio.to_thread(read)  # a driver may take seconds
    warn_of_gpus(inventory)
    return GpuWatch(inventory, clock, read=read)


def warn_of_gpus(inventory: Inventory) -> None:
    """Log what is wrong with driver or GPUs; Trivet starts all the same, with what can be used."""
    if inventory.state not in (InventoryState.OK, InventoryState.NO_GPU):
        log.warning("gpus.unusable", state=str(inventory.state), reason=inventory.reason)
        return
    for gpu in inventory.gpus:
        if not gpu.plannable:
            log.warning("gpu.unusable", gpu=gpu.uuid, name=gpu.name, state=str(gpu.state), reason=gpu.reason)


def register_gpus(collector: TrivetCollector, watch: GpuWatch) -> None:
    """Register a gauge per figure; a GPU for which a figure is not known has no sample there.

    The figures are some seconds old, so that no scrape waits for a driver.
    """

    def show(name: str, help_text: str, read: Callable[[Gpu], float | None]) -> None:
        def samples() -> list[tuple[tuple[str, ...], float]]:
            figures = [(gpu.uuid, read(gpu)) for gpu in watch.inventory().gpus]
            return [((uuid,), float(figure)) for uuid, figure in figures if figure is not None]

        collector.register_snapshot(name, help_text, ("gpu",), samples)

    show("trivet_gpu_usable", "1 while models can be placed on the GPU.", lambda gpu: float(gpu.plannable))
    show("trivet_gpu_memory_total_bytes", "The GPU's memory.", lambda gpu: gpu.total_bytes)
    show("trivet_gpu_memory_used_bytes", "Of it in use, by whomever.", lambda gpu: gpu.used_bytes)
    show("trivet_gpu_memory_others_bytes", "Of it in use by other programs.", lambda gpu: gpu.others_bytes)
    show("trivet_gpu_power_watts", "What the GPU draws.", lambda gpu: gpu.power_w)
    show(
        "trivet_gpu_energy_joules",
        "What the GPU drew since its driver was loaded; begins again with it.",
        lambda gpu: None if gpu.energy_mj is None else gpu.energy_mj / 1000,
    )
