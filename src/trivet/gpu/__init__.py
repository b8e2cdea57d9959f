"""What the machine has: its GPUs and their memory, found through NVML, sysfs or the device tree."""

from trivet.gpu.discovery import discover, gpu_uuids
from trivet.gpu.watch import GpuWatch

__all__ = ["GpuWatch", "discover", "gpu_uuids"]
