"""A Jetson whose software brings no NVML (JetPack 5 and earlier): its GPU is known from the device tree."""

import re
from pathlib import Path

from trivet.domain.gpus import Gpu, Host
from trivet.gpu.host import read_text, tegra_compatible

# Chip to compute capability and to the name that NVML has for it where it is: NVIDIA's table of CUDA GPUs,
# and the chips' own documentation.
_CHIPS = {
    "tegra210": ((5, 3), "Tegra X1 (nvgpu)"),
    "tegra186": ((6, 2), "Tegra X2 (nvgpu)"),
    "tegra194": ((7, 2), "Xavier (nvgpu)"),
    "tegra234": ((8, 7), "Orin (nvgpu)"),
    "tegra264": ((11, 0), "Thor (nvgpu)"),  # as CUDA 13 counts it
}


def tegra_gpu(host: Host, root: Path) -> Gpu | None:
    """Return a Jetson's GPU, whose memory is the host's; None on any other machine."""
    if host.platform != "jetson":
        return None
    chips = re.findall(r"nvidia,(tegra\d+)", tegra_compatible(root) or "")
    capability, name = next((_CHIPS[chip] for chip in chips if chip in _CHIPS), (None, "Tegra (nvgpu)"))
    model = read_text(root / "proc/device-tree/model") or "a Jetson"
    return Gpu(
        uuid="0",  # CUDA knows the one GPU of a Tegra by its index
        name=name,
        reason=f"There is no NVML here; known from the device tree of {model}. Its memory is the host's.",
        total_bytes=host.ram_total_bytes,
        used_bytes=host.ram_total_bytes - host.ram_available_bytes,
        free_bytes=host.ram_available_bytes,
        compute_capability=capability,
        unified=True,
    )
