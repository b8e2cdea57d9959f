"""What NVML's errors mean for an operator: a named state, and a sentence that says what to do.

The codes are NVML's `nvmlReturn_t`; they are written as numbers so that the sentences can be read and tested
without the library.
"""

from pathlib import Path

from trivet.domain.gpus import GpuState, InventoryState
from trivet.gpu.host import read_text

NOT_SUPPORTED = 3
NO_PERMISSION = 4
INSUFFICIENT_POWER = 8
DRIVER_NOT_LOADED = 9
IRQ_ISSUE = 11
LIBRARY_NOT_FOUND = 12
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
UNKNOWN = 999

FATAL_FOR_A_GPU = frozenset({NO_PERMISSION, GPU_IS_LOST, RESET_REQUIRED})
"""Errors after which asking the GPU in another way is of no use."""

_DEVICES_HINT = (
    "Give this user access to /dev/nvidia* (often the groups `video` or `render`); "
    "in a container, start it with the NVIDIA Container Toolkit (`docker run --gpus all`)."
)


def driver_fault(code: int, said: str, root: Path = Path("/")) -> tuple[InventoryState, str]:
    """Return the machine's state for an error of NVML as a whole.

    Args:
        code: the error.
        said: NVML's own words for it.
        root: the tree that holds `proc` and `sys`, for what the kernel can add.
    """
    match code:
        case 12:
            return _without_library(root)
        case 9:
            nouveau = (root / "sys/module/nouveau").exists() and not (root / "sys/module/nvidia").exists()
            return InventoryState.DRIVER_NOT_LOADED, (
                "The NVIDIA library is there, and the kernel module `nvidia` is not loaded"
                + (": the module `nouveau` holds the GPU. Blacklist it and reboot." if nouveau else ". ")
                + ("" if nouveau else "Run `sudo modprobe nvidia`; if that fails, install the driver again ")
                + ("" if nouveau else "for this kernel (DKMS, Secure Boot signature) and see `dmesg`.")
            )
        case 18:
            loaded = _loaded_version(root)
            module = f"the kernel module is {loaded}" if loaded else "the kernel module is of another version"
            return InventoryState.DRIVER_MISMATCH, (
                f"Driver/library version mismatch: {module}, the library is not. The driver was updated and "
                "the old module still runs: reboot, or stop every GPU program and reload the module. "
                "In a container, start it again."
            )
        case 4:
            return InventoryState.NO_PERMISSION, f"NVML may not open the driver. {_DEVICES_HINT}"
        case 999:
            return InventoryState.FAULTY, (
                "NVML fails with `Unknown Error`. In a container this comes after `systemctl daemon-reload` "
                "on the host, which takes the GPU away: start the container again. Else see `dmesg` for Xid "
                "errors."
            )
    return (
        InventoryState.FAULTY,
        f"NVML fails: {said}. See `dmesg | grep -i nvrm`, then reboot if it says no more.",
    )


def gpu_fault(code: int, said: str) -> tuple[GpuState, str]:
    """Return one GPU's state for an error of NVML about it."""
    match code:
        case 15:
            return GpuState.LOST, (
                "It fell off the bus: see `dmesg | grep Xid` for the cause (79: power, heat, riser, PCIe). "
                "Only a reboot, or a power cycle, brings it back."
            )
        case 16:
            return GpuState.LOST, (
                "It needs a reset: stop every program that uses it, then `sudo nvidia-smi --gpu-reset`, or "
                "reboot."
            )
        case 4:
            return GpuState.NO_PERMISSION, f"The driver does not let this user see it. {_DEVICES_HINT}"
        case 8:
            return GpuState.FAULTY, "Its external power is not connected, or too weak."
        case 11:
            return GpuState.FAULTY, "The kernel reports an interrupt problem with it; see `dmesg`."
        case 3:
            return GpuState.MEMORY_UNKNOWN, (
                "The driver does not tell its memory, and it is not known as one that shares the host's. "
                "Describe it for planning: `--gpus`."
            )
    return GpuState.FAULTY, f"The driver fails for it: {said}. See `dmesg | grep -i nvrm`."


def nvidia_hardware(root: Path) -> bool:
    """Tell whether an NVIDIA display controller is on the PCI bus, or WSL's GPU device is there.

    sysfs shows the host's bus inside a container, too.
    """
    return (root / "dev/dxg").exists() or display_controller(root, "0x10de")


def display_controller(root: Path, vendor: str) -> bool:
    """Tell whether a display controller (PCI class 03) of a vendor is on the bus."""
    return any(
        read_text(device / "vendor") == vendor and (read_text(device / "class") or "").startswith("0x03")
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def _without_library(root: Path) -> tuple[InventoryState, str]:
    if not nvidia_hardware(root):
        return InventoryState.NO_GPU, "No NVIDIA or AMD GPU was found; engines work on the CPU."
    loaded = _loaded_version(root)
    if loaded or (root / "dev/nvidiactl").exists():
        return InventoryState.NO_DRIVER, (
            f"The driver{f' ({loaded})' if loaded else ''} runs, and its library libnvidia-ml.so.1 is not "
            "found here. In a container, start it with the NVIDIA Container Toolkit (`docker run --gpus "
            "all`) and with `utility` in NVIDIA_DRIVER_CAPABILITIES; else install the driver's user-space "
            "package, or see whether `ldconfig -p` lists it."
        )
    if (root / "dev/dxg").exists():
        return InventoryState.NO_DRIVER, (
            "WSL passes a GPU on, and /usr/lib/wsl/lib/libnvidia-ml.so.1 is not found: update the NVIDIA "
            "driver of Windows, then `wsl --update` and `wsl --shutdown`. Install no NVIDIA driver inside "
            "WSL."
        )
    return InventoryState.NO_DRIVER, (
        "There is an NVIDIA GPU on the bus and no NVIDIA driver. Install the driver; in a container, install "
        "it on the host and start the container with the NVIDIA Container Toolkit (`docker run --gpus all`)."
    )


def _loaded_version(root: Path) -> str | None:
    return read_text(root / "sys/module/nvidia/version")
