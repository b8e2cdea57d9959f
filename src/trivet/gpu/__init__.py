"""Facts about the machine's GPUs."""

from trivet.gpu.nvml import gpu_uuids

__all__ = ["gpu_uuids"]
