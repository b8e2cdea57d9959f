"""What the planner says of the machine."""

from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.machine import gpu_machine, host_machine
from trivet.catalog.machine_notes import machine_notes
from trivet.domain.gpus import GIB, Gpu, Host, Inventory, InventoryState

HOST = Host(ram_total_bytes=64 * GIB, ram_available_bytes=48 * GIB, cpu_cores=8)
TABLE = load_gpu_table()


def machine_of(used_bytes: int, others_bytes: int | None) -> Inventory:
    """Return a machine with one L4 whose memory is used so."""
    gpu = Gpu(
        uuid="GPU-1",
        name="NVIDIA L4",
        total_bytes=22 * GIB,
        used_bytes=used_bytes,
        others_bytes=others_bytes,
    )
    return Inventory(host=HOST, gpus=(gpu,), state=InventoryState.OK)


def notes(inventory: Inventory, *, on_cpu: bool = False) -> str:
    """Return the notes as one text."""
    machine = host_machine(inventory) if on_cpu else gpu_machine(inventory, TABLE)
    return " ".join(machine_notes(inventory, machine))


def test_a_quiet_machine_needs_no_note() -> None:
    """Nor does a little that a display takes."""
    assert notes(machine_of(used_bytes=GIB, others_bytes=GIB // 4)) == ""


def test_others_memory_is_told() -> None:
    """It is not planned with; where its owner is not known, all that is used counts so."""
    assert "9.0 GiB are used by other programs" in notes(
        machine_of(used_bytes=10 * GIB, others_bytes=9 * GIB)
    )
    assert "nobody can tell" in notes(machine_of(used_bytes=10 * GIB, others_bytes=None))


def test_a_full_gpu_is_not_passed_over_in_silence() -> None:
    """A plan for the CPU on a machine with a GPU says why."""
    told = notes(machine_of(used_bytes=21 * GIB, others_bytes=21 * GIB), on_cpu=True)
    assert "NVIDIA L4 is left out: 22.0 GiB, of which others use 21.0" in told
    assert notes(Inventory(host=HOST), on_cpu=True) == ""


def test_unified_memory_without_a_table() -> None:
    """A GPU that no table knows and that works in the host's memory leaves the host its share."""
    gpu = Gpu(
        uuid="GPU-1", name="NVIDIA N9", total_bytes=120 * GIB, used_bytes=0, others_bytes=0, unified=True
    )
    (device,) = gpu_machine(Inventory(host=HOST, gpus=(gpu,), state=InventoryState.OK), TABLE).devices
    assert device.spec.unified
    assert device.spec.connect == "none"
    assert device.spec.bandwidth_gb_s <= 300
    assert device.reserve_bytes >= 10 * GIB
