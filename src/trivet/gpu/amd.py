"""AMD GPUs from the files of the kernel's driver `amdgpu`; no library is needed, and none is loaded.

Sources: the kernel's documentation of amdgpu (mem_info_vram_total, mem_info_vram_used, mem_info_gtt_total,
unique_id, product_name), libdrm's amdgpu.ids for names. An APU's memory is a carve-out (`vram`) and the
host's memory that it may map (`gtt`); the driver uses either, so both count (nvtop and Ollama do the same).
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from trivet.domain.gpus import GIB, Gpu, GpuState, Host, InventoryState
from trivet.gpu.faults import display_controller
from trivet.gpu.host import read_number, read_text
from trivet.gpu.owners import Owners
from trivet.gpu.visible import Listed

VENDOR = "0x1002"
# PCI device ids of APUs whose GPU can run models, from the kernel's list (drivers/gpu/drm/amd).
_APUS = frozenset(
    {
        "0x1586",  # Strix Halo
        "0x150e",  # Strix Point
        "0x1114",  # Krackan Point
        "0x15bf",  # Phoenix
        "0x15c8",  # Phoenix 2
        "0x1900",  # Hawk Point
        "0x1901",  # Hawk Point 2
        "0x1681",  # Rembrandt
    }
)
# Two compute units for a desktop's picture (Raphael, Granite Ridge): no place for a model.
_PICTURE_ONLY = frozenset({"0x164e", "0x13c0"})
_CARVE_OUT_MAX_BYTES = 2 * GIB
"""No card on its own has so little; a GPU with no more, and with more of the host's, is an APU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdReading:
    """What sysfs told of AMD's GPUs, in the order of the bus."""

    state: InventoryState
    reason: str = ""
    driver_version: str | None = None
    listed: tuple[Listed, ...] = ()


def read_amd(host: Host, owners: Owners, root: Path = Path("/")) -> AmdReading | None:
    """Read the cards that `amdgpu` drives; None where there is no AMD GPU at all.

    Where a card of its own is there, an APU beside it is left out: it is there for the picture.
    """
    cards = sorted(
        {
            device.resolve()
            for device in (root / "sys/class/drm").glob("card*/device")
            if read_text(device / "vendor") == VENDOR
            and read_number(device / "mem_info_vram_total") is not None
        },
        key=lambda device: device.name,
    )
    cards = [card for card in cards if read_text(card / "device") not in _PICTURE_ONLY]
    gpus = [_gpu(card, host, owners, root) for card in cards]
    if any(not gpu.unified for gpu in gpus):
        gpus = [gpu for gpu in gpus if not gpu.unified]
    if not gpus:
        if not display_controller(root, VENDOR) or (root / "sys/module/amdgpu").exists():
            return None
        return AmdReading(
            state=InventoryState.DRIVER_NOT_LOADED,
            reason="There is an AMD GPU on the bus, and the kernel module `amdgpu` is not loaded: "
            "`sudo modprobe amdgpu`.",
        )
    return AmdReading(
        state=InventoryState.OK,
        driver_version=read_text(root / "sys/module/amdgpu/version"),
        listed=tuple(Listed(gpu=gpu, index=index) for index, gpu in enumerate(gpus)),
    )


def _gpu(card: Path, host: Host, owners: Owners, root: Path) -> Gpu:
    total = read_number(card / "mem_info_vram_total") or 0
    used = read_number(card / "mem_info_vram_used") or 0
    mapped = read_number(card / "mem_info_gtt_total") or 0
    apu = read_text(card / "device") in _APUS or (total <= _CARVE_OUT_MAX_BYTES and mapped > total)
    free = total - used
    if apu:
        # What it maps it shares with the host, which may have less to give than the driver would map.
        mapped_used = read_number(card / "mem_info_gtt_used") or 0
        free += max(min(mapped - mapped_used, host.ram_available_bytes), 0)
        total, used = total + mapped, used + mapped_used
    gpu = Gpu(
        uuid=_uuid(card),
        name=_name(card, root),
        vendor="amd",
        total_bytes=total,
        used_bytes=used,
        free_bytes=free,
        others_bytes=owners.others_bytes(used, None),
        unified=apu,
        reason="Its memory is the host's: the carve-out and what the driver may map." if apu else "",
        power_w=_power_w(card),
    )
    door = root / "dev/kfd"
    if door.exists() and not os.access(door, os.R_OK | os.W_OK):
        return replace(
            gpu,
            state=GpuState.NO_PERMISSION,
            reason="This user may not open /dev/kfd: add it to the groups `render` and `video`; in a "
            "container pass --device /dev/kfd --device /dev/dri.",
        )
    if total == 0:
        return replace(gpu, state=GpuState.MEMORY_UNKNOWN, reason="The driver tells no memory for it.")
    return gpu


def _uuid(card: Path) -> str:
    """Return ROCm's name for the GPU, as ROCR_VISIBLE_DEVICES takes it; else its place on the bus."""
    unique = read_text(card / "unique_id")
    return f"GPU-{unique}" if unique and unique.strip("0") else f"AMD-{card.name}"


def _name(card: Path, root: Path) -> str:
    product = read_text(card / "product_name")
    if product:
        return product
    device = (read_text(card / "device") or "").removeprefix("0x").upper()
    revision = (read_text(card / "revision") or "").removeprefix("0x").upper()
    for place in ("usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids"):
        for line in (read_text(root / place) or "").splitlines():
            fields = [field.strip() for field in line.split(",", 2)]
            if len(fields) == 3 and fields[:2] == [device, revision]:
                return fields[2]
    return f"AMD GPU {device}" if device else "AMD GPU"


def _power_w(card: Path) -> float | None:
    for sensor in sorted(card.glob("hwmon/hwmon*")):
        for name in ("power1_average", "power1_input"):
            power_uw = read_number(sensor / name)
            if power_uw is not None:
                return power_uw / 1e6
    return None
