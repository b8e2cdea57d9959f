"""What GPUs this machine has, in one answer that never fails: every trouble is a state with a reason."""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from trivet.domain.gpus import GpuState, Host, Inventory, InventoryState
from trivet.gpu.amd import read_amd
from trivet.gpu.faults import nvidia_hardware
from trivet.gpu.host import read_host
from trivet.gpu.nvml import NvidiaReading, read_nvidia
from trivet.gpu.owners import Owners
from trivet.gpu.tegra import tegra_gpu
from trivet.gpu.visible import CUDA_VARIABLES, ROCM_VARIABLES, Listed, let_through

TIMEOUT_S = 10.0
"""A driver that initialises every GPU without persistence mode takes seconds; one that hangs, for ever."""

# NVML counts its openings in a way that is not safe across threads, and one stuck caller is enough.
_one_at_a_time = threading.Lock()

_CAUSES = {GpuState.NO_PERMISSION: InventoryState.NO_PERMISSION}


def discover(
    *,
    environment: Mapping[str, str] | None = None,
    trivets: Iterable[int] = (),
    engines: Iterable[int] = (),
    root: Path = Path("/"),
    timeout_s: float = TIMEOUT_S,
) -> Inventory:
    """Return the machine's GPUs and memory as they are now. Blocks: call it in a thread from async code.

    AMD's GPUs are looked at where NVIDIA's driver shows none.

    Args:
        environment: the process's by default; CUDA_VISIBLE_DEVICES there hides GPUs (ROCm's variables AMD's).
        trivets: processes of Trivet beside this one; what runs below them counts as its own.
        engines: processes of engines that Trivet adopted; they and what runs below them count as its own.
        root: the tree that holds `proc`, `sys`, `dev` and `etc`.
        timeout_s: how long NVML may take before the driver counts as not answering.
    """
    environment = os.environ if environment is None else environment
    host = read_host(root, environment)
    owners = Owners((os.getpid(), *trivets), engines, root)
    nvidia = _read_in_time(host, owners, root, timeout_s)
    if nvidia.state is InventoryState.OK:
        return _inventory(host, nvidia.listed, environment, nvidia.driver_version)
    tegra = tegra_gpu(host, root)
    if tegra is not None:
        return _inventory(host, (Listed(gpu=tegra, index=0),), environment, None)
    # The library alone may be installed where there is no NVIDIA GPU; where there is one, its trouble counts.
    absent = nvidia.state is InventoryState.NO_GPU or (
        nvidia.state is InventoryState.DRIVER_NOT_LOADED and not nvidia_hardware(root)
    )
    amd = read_amd(host, owners, root) if absent else None
    if amd is None:
        return Inventory(
            host=host, state=nvidia.state, reason=nvidia.reason, driver_version=nvidia.driver_version
        )
    if amd.state is not InventoryState.OK:
        return Inventory(host=host, state=amd.state, reason=amd.reason)
    return _inventory(host, amd.listed, environment, amd.driver_version, ROCM_VARIABLES)


def gpu_uuids(inventory: Inventory | None = None) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that can be planned with; without an inventory the machine is read."""
    return tuple(gpu.uuid for gpu in (inventory or discover()).gpus if gpu.plannable)


def _inventory(
    host: Host,
    listed: tuple[Listed, ...],
    environment: Mapping[str, str],
    driver_version: str | None,
    layers: Iterable[tuple[str, ...]] = CUDA_VARIABLES,
) -> Inventory:
    selection = let_through(environment, listed, tuple(layers))
    gpus = tuple(entry.gpu for entry in selection.listed)
    unusable = [gpu for gpu in gpus if not gpu.plannable]
    state, remarks = InventoryState.OK, [selection.remark] if selection.remark else []
    if not gpus:
        state = InventoryState.HIDDEN
    elif len(unusable) == len(gpus):
        causes = {_CAUSES.get(gpu.state, InventoryState.FAULTY) for gpu in unusable}
        state = causes.pop() if len(causes) == 1 else InventoryState.FAULTY
        remarks.append(unusable[0].reason)
    elif unusable:
        remarks.append(f"{len(unusable)} of {len(gpus)} GPUs cannot be used; see their states.")
    remarks += _ambiguous_order(environment, listed, layers is CUDA_VARIABLES)
    return Inventory(
        host=host, gpus=gpus, state=state, reason=" ".join(remarks), driver_version=driver_version
    )


def _ambiguous_order(environment: Mapping[str, str], listed: tuple[Listed, ...], cuda: bool) -> list[str]:
    """Warn where an index in CUDA_VISIBLE_DEVICES may mean another GPU to CUDA than to nvidia-smi."""
    text = environment.get("CUDA_VISIBLE_DEVICES", "")
    by_index = cuda and any(entry.strip().isdigit() for entry in text.split(","))
    mixed = len({entry.gpu.name for entry in listed if entry.gpu.plannable and not entry.gpu.mig_parent}) > 1
    if not (by_index and mixed) or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return []
    remark = (
        f"CUDA_VISIBLE_DEVICES={text} is read in the order of the PCI bus, as nvidia-smi counts; programs "
        "without CUDA_DEVICE_ORDER=PCI_BUS_ID count the fastest GPU first. Set it, or use UUIDs."
    )
    return [remark]


def _read_in_time(host: Host, owners: Owners, root: Path, timeout_s: float) -> NvidiaReading:
    """Read NVML in a thread of its own: a driver that hangs must not take Trivet with it."""
    found: list[NvidiaReading] = []

    def read() -> None:
        with _one_at_a_time:
            found.append(read_nvidia(host, owners, root))

    thread = threading.Thread(target=read, name="nvml", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if found:
        return found[0]
    if not thread.is_alive():
        return NvidiaReading(state=InventoryState.FAULTY, reason="Reading NVML failed; see the error above.")
    return NvidiaReading(
        state=InventoryState.NOT_ANSWERING,
        reason=f"The NVIDIA driver did not answer within {timeout_s:g} s. See `dmesg | grep Xid`; a GPU that "
        "hangs needs a reboot. If it is only slow to start, turn persistence mode on (`nvidia-smi -pm 1`).",
    )
