"""The machine that models have to fit: its GPUs, or its memory where it has none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

_ROCM_UUID = re.compile(r"GPU-[0-9a-f]{16}")
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
    MIG_EMPTY = "mig_empty"
    """Its MIG mode is on and no instance was made: CUDA cannot use it."""
    FAULTY = "faulty"
    """The driver answers with an error for it."""


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
    FAULTY = "faulty"
    """There are GPUs, and the driver answers with an error, for itself or for each of them."""
    NOT_ANSWERING = "not_answering"
    """The driver was asked and did not answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG instance of one. Memory is in bytes, as the driver counts it."""

    uuid: str
    """`GPU-...` or `MIG-...`, what CUDA_VISIBLE_DEVICES of an engine is set to; on a Jetson its index, `0`.

    For a machine that only exists on paper `PLAN-0`, `PLAN-1`, ...; `NVML-3` where the driver cannot name
    the GPU either; `AMD-0000:03:00.0` where AMD's driver gives it no unique id.
    """
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

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors: memory in GiB, lists sorted, null for what is not known."""
        capability = self.compute_capability
        return {
            "uuid": self.uuid,
            "name": self.name,
            "vendor": self.vendor,
            "state": str(self.state),
            "reason": self.reason,
            "plannable": self.plannable,
            "total_gib": gib(self.total_bytes),
            "used_gib": gib(self.used_bytes),
            "free_gib": gib(self.free_bytes),
            "reserved_gib": gib(self.reserved_bytes),
            "others_gib": gib(self.others_bytes),
            "compute_capability": ".".join(map(str, capability)) if capability else None,
            "unified": self.unified,
            "mig_parent": self.mig_parent,
            "peers": sorted(self.peers),
            "nvlink_peers": sorted(self.nvlink_peers),
            "power_w": self.power_w,
            "energy_mj": self.energy_mj,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine around the GPUs."""

    ram_total_bytes: int
    ram_available_bytes: int
    """What processes can still take (MemAvailable), no more than the container's limit leaves."""
    cpu_cores: int
    platform: Literal["linux", "wsl", "jetson", "macos", "other"] = "linux"

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors: memory in GiB."""
        return {
            "ram_total_gib": gib(self.ram_total_bytes),
            "ram_available_gib": gib(self.ram_available_bytes),
            "cpu_cores": self.cpu_cores,
            "platform": self.platform,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A machine at one moment. `gpus` is in PCI bus order: what CUDA_VISIBLE_DEVICES lets through."""

    host: Host
    gpus: tuple[Gpu, ...] = ()
    state: InventoryState = InventoryState.NO_GPU
    reason: str = ""
    """What an operator can do where the state is not `ok`, or should know where it is."""
    driver_version: str | None = None
    measured: bool = True
    """False for a machine that somebody described (`--gpus 2xRTX4090`)."""

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors; docs/guides/gpus.md explains every field."""
        return {
            "state": str(self.state),
            "reason": self.reason,
            "driver_version": self.driver_version,
            "measured": self.measured,
            "host": self.host.as_json(),
            "gpus": [gpu.as_json() for gpu in self.gpus],
        }


def visibility(uuids: Sequence[str]) -> dict[str, str | None]:
    """Return the environment variables that show a program these GPUs and no other; None takes one away.

    UUIDs, since indices differ from program to program. ROCm takes UUIDs in ROCR_VISIBLE_DEVICES only, and
    counts the others anew within what that lets through, so they must not be inherited. AMD's GPUs without
    a UUID cannot be told apart by any variable and stay as they are.
    """
    if not uuids:
        return {}
    if all(_ROCM_UUID.fullmatch(uuid) for uuid in uuids):
        inherited = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
        return {"ROCR_VISIBLE_DEVICES": ",".join(uuids), **dict.fromkeys(inherited)}
    if any(uuid.startswith("AMD-") for uuid in uuids):
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(uuids)}


def gib(size_bytes: int | None) -> float | None:
    """Return bytes in GiB, to three digits; None for none."""
    return None if size_bytes is None else round(size_bytes / GIB, 3)
