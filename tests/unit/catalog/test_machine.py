"""The machine as the planner sees it."""

from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.machine import (
    HOST_RESERVE_BYTES,
    RESERVE_BYTES,
    WSL_RESERVE_BYTES,
    Machine,
    gpu_machine,
    host_machine,
)
from trivet.domain.gpus import GIB, MIB, Gpu, GpuState, Host, Inventory, InventoryState

TABLE = load_gpu_table()
HOST = Host(ram_total_bytes=64 * GIB, ram_available_bytes=60 * GIB, cpu_cores=8)


def paper(text: str) -> Machine:
    """Return a described machine."""
    return gpu_machine(read_gpus(text, TABLE), TABLE)


def measured(*gpus: Gpu, host: Host = HOST) -> Machine:
    """Return a machine that NVML would show."""
    return gpu_machine(Inventory(host=host, gpus=gpus, state=InventoryState.OK), TABLE)


def h100(uuid: str = "GPU-1", **changes: object) -> Gpu:
    """Return an H100 as NVML shows it."""
    values: dict[str, object] = {
        "uuid": uuid,
        "name": "NVIDIA H100 80GB HBM3",
        "total_bytes": 81559 * MIB,
        "used_bytes": 600 * MIB,
        "others_bytes": 0,
    }
    return Gpu(**{**values, **changes})  # type: ignore[arg-type]


def test_names_are_unique_on_a_machine() -> None:
    """Several of one kind are numbered, a single one is not."""
    assert [device.name for device in paper("2xRTX4090,H100").devices] == ["RTX 4090:0", "RTX 4090:1", "H100"]


def test_room_is_less_than_what_cuda_sees() -> None:
    """A reserve is never planned for, and what others use is not there at all."""
    (free,) = measured(h100()).devices
    (shared,) = measured(h100(others_bytes=10 * GIB)).devices
    assert free.room_bytes == free.spec.usable_bytes - RESERVE_BYTES
    assert shared.usable_bytes == free.usable_bytes - 10 * GIB


def test_what_the_driver_keeps_is_no_room() -> None:
    """Where the driver tells what it keeps, engines get no more than the rest, whatever the table says."""
    (usual,) = measured(h100(reserved_bytes=480 * MIB)).devices
    assert usual.usable_bytes == (81559 - 480) * MIB <= TABLE.find("H100").usable_bytes
    (more,) = measured(h100(reserved_bytes=4 * GIB)).devices
    assert more.usable_bytes == 81559 * MIB - 4 * GIB
    (little,) = measured(h100(reserved_bytes=0)).devices
    assert little.usable_bytes == TABLE.find("H100").usable_bytes


def test_unknown_use_counts_as_others() -> None:
    """Where nobody can tell whose memory it is, none of it is planned with."""
    (device,) = measured(h100(others_bytes=None, used_bytes=30 * GIB)).devices
    assert device.others_bytes == 30 * GIB


def test_windows_leaves_more_alone() -> None:
    """Under WSL the desktop takes memory when it likes."""
    host = Host(ram_total_bytes=64 * GIB, ram_available_bytes=60 * GIB, cpu_cores=8, platform="wsl")
    (device,) = measured(h100(), host=host).devices
    assert device.reserve_bytes == WSL_RESERVE_BYTES


def test_unified_memory_leaves_room_for_the_system() -> None:
    """A tenth, and at least 2 GiB, of a unified memory is the operating system's; it is the host's, too."""
    (device,) = paper("GB10").devices
    assert device.reserve_bytes >= 10 * GIB
    (small,) = paper("Jetson Orin Nano 8GB").devices
    assert small.reserve_bytes == 2 * GIB
    assert read_gpus("Jetson Orin Nano 8GB", TABLE).host.ram_total_bytes == 8 * GIB


def test_what_cannot_be_planned_with_is_left_out() -> None:
    """A lost GPU is no device."""
    assert measured(h100(state=GpuState.LOST)).devices == ()


def test_equal_gpus_may_carry_one_model_together() -> None:
    """Sets of two, four and eight neighbours; different kinds never mix."""
    windows = paper("8xH100,2xRTX4090").windows
    assert {size: len(sets) for size, sets in windows.items()} == {1: 10, 2: 5, 4: 2, 8: 1}
    machine = paper("8xH100,2xRTX4090")
    for sets in windows.values():
        for window in sets:
            assert len({machine.devices[index].spec.name for index in window}) == 1


def test_three_equal_gpus_make_one_pair() -> None:
    """Tensor parallelism takes powers of two."""
    assert {size: len(sets) for size, sets in paper("3xRTX3090").windows.items()} == {1: 3, 2: 1}


def test_mig_instances_stay_alone() -> None:
    """Slices of one GPU share its links and cannot talk to one another."""
    slices = [
        Gpu(
            uuid=f"MIG-{index}",
            name="NVIDIA A100-SXM4-80GB MIG 3g.40gb",
            total_bytes=40 * GIB,
            others_bytes=0,
            mig_parent="GPU-1",
        )
        for index in range(2)
    ]
    assert set(measured(*slices).windows) == {1}


def test_the_roomiest_neighbours_go_together() -> None:
    """Of four equal GPUs of which two are partly taken, the two free ones make a pair."""
    gpus = [h100(f"GPU-{index}", others_bytes=(20 * GIB if index in (0, 2) else 0)) for index in range(4)]
    assert measured(*gpus).windows[2] == ((1, 3), (0, 2))


def test_the_host_is_one_device() -> None:
    """Without a GPU models go into the memory that is available, less what the system needs."""
    machine = host_machine(read_gpus("cpu-16gb", TABLE))
    (device,) = machine.devices
    assert machine.on_cpu
    assert device.room_bytes == 16 * GIB - HOST_RESERVE_BYTES
