"""The machine that models have to fit: its GPUs, or its memory where it has none."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

MIB = 1024**2
GIB = 1024**3


class GpuState(StrEnum):
    """Whether a GPU can be planned with."""

    OK = "ok"
    LOST = "lost"
    """It fell off the bus; only a reset or a reboot brings it back."""
    NO_PERMISSION = "no_permission"
    MEMORY_UNKNOWN = "memory_unknown"
    """It is there, and nobody can say how much memory it has."""


class InventoryState(StrEnum):
    """What discovery found, as a whole."""

    OK = "ok"
    NO_GPU = "no_gpu"
    NO_DRIVER = "no_driver"
    DRIVER_NOT_LOADED = "driver_not_loaded"
    DRIVER_MISMATCH = "driver_mismatch"
    NO_PERMISSION = "no_permission"
    HIDDEN = "hidden"
    """There are GPUs, and CUDA_VISIBLE_DEVICES hides them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG instance of one. Memory is in bytes, as the driver counts it."""

    uuid: str
    """`GPU-...` or `MIG-...`; for a machine that only exists on paper `PLAN-0`, `PLAN-1`, ..."""
    name: str
    """As the driver writes it (`NVIDIA H100 80GB HBM3`), or as the planner's user did."""
    vendor: Literal["nvidia", "amd"] = "nvidia"
    state: GpuState = GpuState.OK
    reason: str = ""
    """For an operator: why the state is not `ok`, or what is estimated."""
    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    reserved_bytes: int | None = None
    """What the driver keeps for itself; None where it does not say (NVML memory info v1)."""
    others_bytes: int | None = None
    """Used by processes that are not Trivet's or its engines'; None where nobody can tell."""
    compute_capability: tuple[int, int] | None = None
    unified: bool = False
    """Its memory is the host's: GB10, Jetson, APUs."""
    mig_parent: str | None = None
    peers: frozenset[str] = field(default_factory=frozenset)
    """UUIDs of GPUs that it reaches directly (P2P over NVLink or PCIe)."""
    nvlink_peers: frozenset[str] = field(default_factory=frozenset)
    power_w: float | None = None
    energy_mj: int | None = None
    """Millijoules since the driver was loaded."""

    @property
    def plannable(self) -> bool:
        """Tell whether models can be placed on it."""
        return self.state is GpuState.OK and self.total_bytes is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine around the GPUs."""

    ram_total_bytes: int
    ram_available_bytes: int
    """What processes can still take (MemAvailable), no more than the container's limit leaves."""
    cpu_cores: int
    platform: Literal["linux", "wsl", "jetson", "macos", "other"] = "linux"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A machine at one moment. `gpus` is in PCI bus order and holds what CUDA_VISIBLE_DEVICES lets through."""

    host: Host
    gpus: tuple[Gpu, ...] = ()
    state: InventoryState = InventoryState.NO_GPU
    reason: str = ""
    """What an operator can do where the state is not `ok`."""
    driver_version: str | None = None
    measured: bool = True
    """False for a machine that somebody described (`--gpus 2xRTX4090`)."""
