"""The machine as the planner sees it: devices with room, and which may carry one model together. Pure."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from trivet.catalog.gpu_spec import GpuSpec
from trivet.domain.gpus import GIB, MIB, Gpu, Inventory
from trivet.domain.tiers import HOST_DEVICE

RESERVE_BYTES = 512 * MIB
"""Left alone on every GPU, whatever the engines do: allocator fragments, a display, the driver's own
moods."""
WSL_RESERVE_BYTES = 1024 * MIB
"""Windows owns the memory and takes some when it likes."""
UNIFIED_BANDWIDTH_GB_S = 200.0
"""Of host memory that a GPU works in, where the kind is not known: Orin has 205, GB10 and Strix Halo 260."""
UNIFIED_RESERVE_SHARE = 0.10
"""A unified memory is the operating system's as well; of it at least 2 GiB are left."""
HOST_RESERVE_BYTES = 2 * GIB
HOST_RESERVE_SHARE = 0.10
CPU_BANDWIDTH_GB_S = 45.0
"""What two channels of DDR4-3200 give (51.2 by their data sheet), less what a program never sees."""
TP_MAX = 8


class GpuKinds(Protocol):
    """Knows GPUs by name; `GpuTable` does."""

    def find(self, written: str) -> GpuSpec:
        """Return the GPU that a person means."""

    def for_driver_name(self, name: str, total_bytes: int) -> GpuSpec:
        """Return the GPU that a driver named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU with room for models, or the host."""

    index: int
    name: str
    """Unique on its machine: the kind's name, numbered where there are several (`H100:0`)."""
    uuid: str
    spec: GpuSpec
    usable_bytes: int
    """What Trivet's engines can have in all: the total that CUDA sees, less what other processes use."""
    reserve_bytes: int
    """Never planned for."""
    others_bytes: int = 0

    @property
    def room_bytes(self) -> int:
        """What engines and the bands of their estimates may fill."""
        return max(0, self.usable_bytes - self.reserve_bytes)

    @property
    def is_host(self) -> bool:
        """Whether it is the machine's CPU and memory."""
        return self.uuid == HOST_DEVICE


@dataclass(frozen=True)
class Machine:
    """Devices, and the islands of equal and connected ones, each island's roomiest device first."""

    devices: tuple[Device, ...]
    islands: tuple[tuple[int, ...], ...]

    @property
    def on_cpu(self) -> bool:
        """Whether models run in the host's memory."""
        return any(device.is_host for device in self.devices)

    @cached_property
    def windows(self) -> dict[int, tuple[tuple[int, ...], ...]]:
        """For each power of two the sets of that many devices that may carry one model, neighbours by room.

        Aligned windows over the devices in order of room: more room on any device, or one device more, leaves
        every former set's counterpart at least as roomy, which the monotone objective rests on.
        """
        found: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for island in self.islands:
            size = 1
            while size <= min(len(island), TP_MAX):
                found[size] += [
                    island[start : start + size] for start in range(0, len(island) - size + 1, size)
                ]
                size *= 2
        return {size: tuple(sets) for size, sets in found.items()}

    @cached_property
    def kinds_of_windows(self) -> tuple[tuple[int, str, tuple[tuple[int, ...], ...]], ...]:
        """The windows by size and kind of GPU, of each the roomiest first."""
        groups: dict[tuple[int, str], list[tuple[int, ...]]] = defaultdict(list)
        for size, sets in self.windows.items():
            for window in sets:
                groups[size, self.devices[window[0]].spec.name].append(window)
        return tuple(
            (size, kind, tuple(sorted(group, key=lambda window: -self.room_of(window))))
            for (size, kind), group in groups.items()
        )

    def room_of(self, window: tuple[int, ...]) -> int:
        """Return the room on the fullest device of one of the windows."""
        return self._rooms[window]

    @cached_property
    def _rooms(self) -> dict[tuple[int, ...], int]:
        every = (window for sets in self.windows.values() for window in sets)
        return {window: min(self.devices[index].room_bytes for index in window) for window in every}

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """Each device's kind, as a number."""
        names = list(dict.fromkeys(device.spec.name for device in self.devices))
        return tuple(names.index(device.spec.name) for device in self.devices)

    @cached_property
    def around(self) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """For each set of devices in `windows` itself and the larger sets that hold it.

        Two sets that are as free as one another, within larger sets that are, are interchangeable.
        """
        every = [window for sets in self.windows.values() for window in sets]
        return {one: tuple(other for other in every if set(one) <= set(other)) for one in every}


def gpu_machine(inventory: Inventory, table: GpuKinds) -> Machine:
    """Return the GPUs of an inventory that can be planned with; none of them is no error.

    Args:
        inventory: a machine, measured or described.
        table: the GPUs that are known.
    """
    plannable = [gpu for gpu in inventory.gpus if gpu.plannable]
    specs = [_spec(gpu, table, measured=inventory.measured) for gpu in plannable]
    count = Counter(spec.name for spec in specs)
    seen: Counter[str] = Counter()
    devices: list[Device] = []
    for index, (gpu, spec) in enumerate(zip(plannable, specs, strict=True)):
        name = spec.name if count[spec.name] == 1 else f"{spec.name}:{seen[spec.name]}"
        seen[spec.name] += 1
        others = _others_bytes(gpu, inventory)
        usable = max(0, spec.usable_bytes - others)
        devices.append(
            Device(
                index=index,
                name=name,
                uuid=gpu.uuid,
                spec=spec,
                usable_bytes=usable,
                reserve_bytes=min(usable, _reserve_bytes(spec, inventory)),
                others_bytes=others,
            )
        )
    return Machine(tuple(devices), _islands(plannable, devices))


def host_machine(inventory: Inventory) -> Machine:
    """Return the host's memory as the one device of a machine without GPUs."""
    memory = inventory.host.ram_available_bytes
    spec = GpuSpec(
        name="CPU",
        memory_gib=round(inventory.host.ram_total_bytes / GIB, 1),
        usable_bytes=memory,
        bandwidth_gb_s=CPU_BANDWIDTH_GB_S,
        bf16_tflops=1.0,
        connect="none",
        estimated=True,
        known=False,
    )
    reserve = min(memory, max(HOST_RESERVE_BYTES, int(HOST_RESERVE_SHARE * memory)))
    device = Device(
        index=0, name="CPU", uuid=HOST_DEVICE, spec=spec, usable_bytes=memory, reserve_bytes=reserve
    )
    return Machine((device,), ((0,),))


def _spec(gpu: Gpu, table: GpuKinds, *, measured: bool) -> GpuSpec:
    if not measured:
        return table.find(gpu.name)
    spec = table.for_driver_name(gpu.name, gpu.total_bytes or 0)
    if gpu.unified and not spec.unified:
        # No table knows it, and the driver's word counts: host memory is slow, and the host's as well.
        bandwidth_gb_s = min(spec.bandwidth_gb_s, UNIFIED_BANDWIDTH_GB_S)
        return replace(spec, unified=True, connect="none", bandwidth_gb_s=bandwidth_gb_s)
    if gpu.reserved_bytes is not None and gpu.total_bytes is not None and not spec.unified:
        # What the driver keeps no program gets. On an H100 CUDA's total is exactly the rest; on other cards
        # it may be less, which the table knows better.
        return replace(
            spec, usable_bytes=min(spec.usable_bytes, max(0, gpu.total_bytes - gpu.reserved_bytes))
        )
    return spec


def _others_bytes(gpu: Gpu, inventory: Inventory) -> int:
    """Return what is taken already; where nobody can tell by whom, all that is in use counts as others'."""
    if not inventory.measured:
        return 0
    if gpu.others_bytes is not None:
        return gpu.others_bytes
    return gpu.used_bytes or 0


def _reserve_bytes(spec: GpuSpec, inventory: Inventory) -> int:
    if spec.unified:
        return max(HOST_RESERVE_BYTES, int(UNIFIED_RESERVE_SHARE * spec.usable_bytes))
    return WSL_RESERVE_BYTES if inventory.host.platform == "wsl" else RESERVE_BYTES


def _islands(gpus: list[Gpu], devices: list[Device]) -> tuple[tuple[int, ...], ...]:
    """Group equal, connected GPUs: one kind, one size, neither a MIG instance nor alone by its nature.

    GPUs that reach each other directly are connected. Those that do not (GeForce 40 and 50 have no P2P) pass
    through the host's memory, as vLLM does without P2P: slower, and it works.
    """
    groups: dict[tuple[str, float], list[int]] = defaultdict(list)
    alone: list[tuple[int, ...]] = []
    for gpu, device in zip(gpus, devices, strict=True):
        if gpu.mig_parent is not None or device.spec.connect == "none":
            alone.append((device.index,))
        else:
            groups[device.spec.name, device.spec.memory_gib].append(device.index)
    together = [
        tuple(sorted(group, key=lambda index: (-devices[index].room_bytes, index)))
        for group in groups.values()
    ]
    return tuple(sorted([*together, *alone]))
