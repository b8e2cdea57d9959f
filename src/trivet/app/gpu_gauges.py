"""What /metrics shows of the GPUs: as they were a few seconds ago, so that no scrape waits for a driver."""

from collections.abc import Callable

from trivet.domain.gpus import Gpu
from trivet.gpu import GpuWatch
from trivet.metering import TrivetCollector


def register_gpus(collector: TrivetCollector, watch: GpuWatch) -> None:
    """Register a gauge per figure; a GPU for which a figure is not known has no sample there."""

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
