"""One NVIDIA GPU as NVML tells it: the whole, or the MIG instances that it is cut into.

What drivers are known to do, and this module expects: memory info version 2 that is missing or fails (old
drivers, WSL), both versions unsupported where memory is the host's (GB10, Jetson), a MIG GPU whose own memory
nobody may read, process memory that is not told.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from trivet.domain.gpus import Gpu, GpuState, Host
from trivet.gpu import faults
from trivet.gpu.links import BusId, bus_id
from trivet.gpu.owners import Owners
from trivet.gpu.visible import Listed

ADDRESSING_ATS = 2
"""NVML_DEVICE_ADDRESSING_MODE_ATS: GPU and CPU share one page table (Grace, GB10)."""

IMPOSSIBLE_BYTES = 1 << 50
"""Some drivers write almost-all-ones for "not told" (seen as 17179869184 GiB)."""

# Names of GPUs that have no memory of their own. A Grace Hopper is none of them: it has its HBM.
_INTEGRATED = re.compile(r"\b(GB10|Orin|Thor|Xavier|Tegra|nvgpu)\b", re.IGNORECASE)
_UNIFIED_REASON = (
    "Its memory is the host's; free is what the kernel calls available, not the driver's figure."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    total_bytes: int
    used_bytes: int
    free_bytes: int
    reserved_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or MIG instance with what is needed to go on asking about it."""

    listed: Listed
    handle: Any = None
    place: BusId | None = None


def ask(function: str, *arguments: Any) -> Any:
    """Return NVML's answer, or None for any error: for what a plan can do without."""
    import pynvml

    try:
        return getattr(pynvml, function)(*arguments)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError, AttributeError):
        return None


class GpuReader:
    """Reads one physical GPU: itself, or the MIG instances that it is cut into."""

    def __init__(self, index: int, host: Host, owners: Owners) -> None:
        self._index = index
        self._host = host
        self._owners = owners

    def read(self) -> list[Device]:
        """Return the GPU, or its MIG instances; trouble with it is its state."""
        import pynvml

        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(self._index)
        except pynvml.NVMLError as error:
            state, reason = faults.gpu_fault(error.value, str(error))
            gpu = Gpu(uuid=f"NVML-{self._index}", name="NVIDIA GPU", state=state, reason=reason)
            return [Device(self._listed(gpu))]
        place = bus_id(ask, handle)
        mode = ask("nvmlDeviceGetMigMode", handle)
        gpu = self._identity(handle)
        if mode and mode[0] == 1 and gpu.state is GpuState.OK:
            instances = [Device(listed, None, place) for listed in self._instances(handle, gpu)]
            if instances:
                return instances
            gpu = replace(
                gpu,
                state=GpuState.MIG_EMPTY,
                reason="MIG mode is on and has no instance: make some (`nvidia-smi mig -cgi ... -C`), or "
                "turn it off (`nvidia-smi -mig 0`).",
            )
            return [Device(self._listed(gpu), handle, place)]
        return [Device(self._listed(self._measured(gpu, handle)), handle, place)]

    def _listed(self, gpu: Gpu, *other_names: str) -> Listed:
        return Listed(gpu=gpu, index=self._index, other_names=other_names)

    def _identity(self, handle: Any) -> Gpu:
        """Return name, UUID and what does not change; a GPU that has no UUID cannot be given to an engine."""
        import pynvml

        name = ask("nvmlDeviceGetName", handle) or "NVIDIA GPU"
        capability = ask("nvmlDeviceGetCudaComputeCapability", handle)
        state, reason = GpuState.OK, ""
        try:
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        except (pynvml.NVMLError, UnicodeDecodeError) as error:
            uuid = f"NVML-{self._index}"
            if self._host.platform != "jetson":
                state, reason = faults.gpu_fault(getattr(error, "value", faults.UNKNOWN), str(error))
                state = GpuState.FAULTY if state is GpuState.MEMORY_UNKNOWN else state
        if self._host.platform == "jetson" and not uuid.startswith("GPU-"):
            uuid = str(self._index)  # a Tegra's one GPU: CUDA knows its index only
        return Gpu(
            uuid=uuid,
            name=name,
            state=state,
            reason=reason,
            compute_capability=capability and tuple(capability),
        )

    def _instances(self, parent: Any, gpu: Gpu) -> Iterator[Listed]:
        for number in range(ask("nvmlDeviceGetMaxMigDeviceCount", parent) or 0):
            handle = ask("nvmlDeviceGetMigDeviceHandleByIndex", parent, number)
            if handle is None:  # a free place
                continue
            instance = self._identity(handle)
            name = instance.name if "MIG" in instance.name else f"{gpu.name} MIG"
            instance = replace(
                instance, name=name, mig_parent=gpu.uuid, compute_capability=gpu.compute_capability
            )
            ids = [ask(f"nvmlDeviceGet{kind}InstanceId", handle) for kind in ("Gpu", "Compute")]
            old_name = f"MIG-{gpu.uuid}/{ids[0]}/{ids[1]}"
            yield self._listed(self._measured(instance, handle), *([] if None in ids else [old_name]))

    def _measured(self, gpu: Gpu, handle: Any) -> Gpu:
        """Add memory, power and energy; what cannot be told becomes the GPU's state."""
        import pynvml

        if gpu.state is not GpuState.OK:
            return gpu
        unified = bool(_INTEGRATED.search(gpu.name))
        try:
            memory = _memory(handle)
        except pynvml.NVMLError as error:
            if error.value == faults.NOT_SUPPORTED:
                # An IGX may carry a card with its own memory beside the Tegra; that one tells it.
                shared = ask("nvmlDeviceGetAddressingMode", handle) == ADDRESSING_ATS
                unified = unified or shared or self._host.platform == "jetson"
            if not unified or error.value in faults.FATAL_FOR_A_GPU:
                state, reason = faults.gpu_fault(error.value, str(error))
                return replace(gpu, state=state, reason=reason)
            memory = None
        if unified or memory is None:
            total, free = self._host.ram_total_bytes, self._host.ram_available_bytes
            memory = _Memory(total_bytes=total, used_bytes=total - free, free_bytes=free)
        power_mw = None if gpu.mig_parent else ask("nvmlDeviceGetPowerUsage", handle)
        return replace(
            gpu,
            total_bytes=memory.total_bytes,
            used_bytes=memory.used_bytes,
            free_bytes=memory.free_bytes,
            reserved_bytes=memory.reserved_bytes,
            others_bytes=self._owners.others_bytes(memory.used_bytes, _by_process(handle)),
            unified=unified,
            reason=_UNIFIED_REASON if unified else "",
            power_w=None if power_mw is None else power_mw / 1000,
            energy_mj=None if gpu.mig_parent else ask("nvmlDeviceGetTotalEnergyConsumption", handle),
        )


def _memory(handle: Any) -> _Memory:
    """Return a GPU's memory: version 2, which tells reserved memory apart, else version 1.

    Raises:
        pynvml.NVMLError: neither can be had.
    """
    import pynvml

    try:
        v2 = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as error:
        if error.value in faults.FATAL_FOR_A_GPU:
            raise
        v1 = pynvml.nvmlDeviceGetMemoryInfo(handle)
        figures = _Memory(total_bytes=v1.total, used_bytes=v1.used, free_bytes=v1.free)
    else:
        figures = _Memory(
            total_bytes=v2.total, used_bytes=v2.used, free_bytes=v2.free, reserved_bytes=v2.reserved
        )
    if figures.total_bytes == 0:
        raise pynvml.NVMLError(faults.NOT_SUPPORTED)
    return figures


def _by_process(handle: Any) -> dict[int, int | None] | None:
    """Return each process's memory in bytes; None for what is not told, or for the whole where nothing is.

    A program that computes and draws stands in both lists, with the same figure.
    """
    found: dict[int, int | None] = {}
    told = False
    for kind in ("Compute", "Graphics"):
        for version in ("_v3", "_v2"):
            processes = ask(f"nvmlDeviceGet{kind}RunningProcesses{version}", handle)
            if processes is not None:
                told = True
                for process in processes:
                    size = process.usedGpuMemory
                    found[int(process.pid)] = size if size is not None and size < IMPOSSIBLE_BYTES else None
                break
    return found if told else None
