"""NVIDIA GPUs through NVML (`nvidia-ml-py`). Every error of NVML becomes a state with a reason.

One lost GPU hides no other.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from trivet.domain.gpus import Host, InventoryState
from trivet.gpu import faults
from trivet.gpu.links import find_peers
from trivet.gpu.nvml_gpu import Device, GpuReader, ask
from trivet.gpu.owners import Owners
from trivet.gpu.visible import Listed

WSL_LIBRARY = "usr/lib/wsl/lib/libnvidia-ml.so.1"

_STRANDED = (
    "Its NVLinks to the switch are up and reach no GPU; CUDA may not start at all. "
    "Start the fabric manager: `systemctl enable --now nvidia-fabricmanager`, of the driver's exact version."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaReading:
    """What NVML told: the state of the driver, and every GPU that it lists."""

    state: InventoryState
    reason: str = ""
    driver_version: str | None = None
    listed: tuple[Listed, ...] = ()


def read_nvidia(host: Host, owners: Owners, root: Path = Path("/")) -> NvidiaReading:
    """Open NVML, read everything, close it. Blocks for as long as the driver takes."""
    import pynvml

    if host.platform == "wsl":
        _preload(root / WSL_LIBRARY)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        state, reason = faults.driver_fault(error.value, str(error), root)
        return NvidiaReading(state=state, reason=reason)
    try:
        driver_version = ask("nvmlSystemGetDriverVersion")
        devices = _in_bus_order([GpuReader(index, host, owners).read() for index in range(_count())])
    except pynvml.NVMLError as error:
        state, reason = faults.driver_fault(error.value, str(error), root)
        return NvidiaReading(state=state, reason=reason)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    if not devices:
        return NvidiaReading(
            state=InventoryState.NO_GPU,
            reason="The NVIDIA driver runs and shows no GPU. In a container, see NVIDIA_VISIBLE_DEVICES.",
            driver_version=driver_version,
        )
    return NvidiaReading(
        state=InventoryState.OK, driver_version=driver_version, listed=tuple(d.listed for d in devices)
    )


def _count() -> int:
    import pynvml

    return int(pynvml.nvmlDeviceGetCount())


def _preload(path: Path) -> None:
    """Load a library that the linker may not look for; it is then found by its name."""
    import ctypes

    with contextlib.suppress(OSError):
        ctypes.CDLL(str(path))


def _in_bus_order(groups: list[list[Device]]) -> list[Device]:
    """Number the GPUs as they sit on the bus, add their links; NVML's order where a place is not known."""
    if all(group and group[0].place is not None for group in groups):
        groups = sorted(groups, key=lambda group: group[0].place or (0, 0, 0))
    devices = [
        replace(device, listed=replace(device.listed, index=index))
        for index, group in enumerate(groups)
        for device in group
    ]
    whole = [d for d in devices if d.listed.gpu.plannable and d.listed.gpu.mig_parent is None]
    peers = find_peers(
        ask,
        {device.listed.gpu.uuid: device.handle for device in whole},
        {device.listed.gpu.uuid: device.place for device in whole if device.place is not None},
    )
    none: frozenset[str] = frozenset()
    return [
        replace(
            device,
            listed=replace(
                device.listed,
                gpu=replace(
                    device.listed.gpu,
                    reason=_STRANDED
                    if device.listed.gpu.uuid in peers.stranded
                    else device.listed.gpu.reason,
                    peers=peers.direct.get(device.listed.gpu.uuid, none),
                    nvlink_peers=peers.nvlink.get(device.listed.gpu.uuid, none),
                ),
            ),
        )
        for device in devices
    ]
