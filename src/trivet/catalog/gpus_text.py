"""A machine as people write it: `2xRTX4090,1xH100`, `A100-80GB`, `cpu-16gb`. Pure."""

import re

from trivet.catalog.gpu_spec import GpuSpec
from trivet.catalog.machine import GpuKinds
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB, Gpu, Host, Inventory, InventoryState

PAPER_RAM_GIB = 32.0
"""Host memory of a described machine whose GPUs have their own: for models that sleep, and for the CPU."""
PAPER_CPU_RAM_GIB = 16.0
"""Host memory of a described machine without GPUs, when it is not said."""
GPUS_MAX = 64

_COUNTED = re.compile(r"^(\d{1,4})\s*[x*\u00d7]\s*(\S.*)$", re.IGNORECASE)
_COUNTED_AFTER = re.compile(r"^(.*\S)\s*[x*\u00d7]\s*(\d{1,2})$", re.IGNORECASE)
_CPU = re.compile(r"^cpu(?:\s*[-:_ ]?\s*(\d+(?:\.\d+)?)\s*(?:g|gb|gib)?)?$", re.IGNORECASE)
_HINT = "Write for example 2xRTX4090,1xH100, or cpu-16gb for a machine without a GPU."


def read_gpus(text: str, table: GpuKinds, *, ram_gib: float | None = None) -> Inventory:
    """Return the machine that a text describes; its GPUs are called PLAN-0, PLAN-1, ...

    Args:
        text: GPUs separated by commas, each with a count before it where there are several; or `cpu`,
        `cpu-16gb`. table: the GPUs that are known by name. ram_gib: the host's memory.

    Raises:
        ConfigError: the text names no GPU, or one that is not known; says which names are near.
    """
    parts = [part.strip() for part in re.split(r"[,+]", text) if part.strip()]
    cpu = _CPU.match(parts[0]) if len(parts) == 1 else None
    if cpu is not None:
        return _paper((), ram_gib or float(cpu[1] or PAPER_CPU_RAM_GIB))
    if not parts:
        raise ConfigError("No GPU is named.", hint=_HINT, param="gpus")
    specs: list[GpuSpec] = []
    for part in parts:
        count, spec = _counted(part, table)
        if not 1 <= count <= GPUS_MAX - len(specs):
            raise ConfigError(f"{part!r}: a machine has 1 to {GPUS_MAX} GPUs.", hint=_HINT, param="gpus")
        specs += [spec] * count
    shared = max((spec.memory_gib for spec in specs if spec.unified), default=None)
    gpus = tuple(_gpu(spec, index) for index, spec in enumerate(specs))
    return _paper(gpus, ram_gib or shared or PAPER_RAM_GIB)


def _counted(part: str, table: GpuKinds) -> tuple[int, GpuSpec]:
    """Read `2xH100`, `H100`, or `H100x2`, which may also be a name."""
    before = _COUNTED.match(part)
    if before is not None:
        return int(before[1]), table.find(before[2])
    after = _COUNTED_AFTER.match(part)
    try:
        return 1, table.find(part)
    except ConfigError:
        if after is None:
            raise
        return int(after[2]), table.find(after[1])


def _gpu(spec: GpuSpec, index: int) -> Gpu:
    return Gpu(
        uuid=f"PLAN-{index}",
        name=spec.name,
        vendor=spec.vendor,
        total_bytes=spec.usable_bytes,
        compute_capability=spec.compute_capability,
        unified=spec.unified,
    )


def _paper(gpus: tuple[Gpu, ...], ram_gib: float) -> Inventory:
    ram = int(ram_gib * GIB)
    return Inventory(
        host=Host(ram_total_bytes=ram, ram_available_bytes=ram, cpu_cores=8),
        gpus=gpus,
        state=InventoryState.OK if gpus else InventoryState.NO_GPU,
        measured=False,
    )
