"""What a scrape and the log show of the GPUs."""

from structlog.testing import capture_logs

from trivet.app.machine_gpus import register_gpus, warn_of_gpus
from trivet.domain.clock import ManualClock
from trivet.domain.gpus import Gpu, GpuState, Host, Inventory, InventoryState
from trivet.gpu import GpuWatch
from trivet.metering import DeviceClock, Metrics, TrivetCollector


def test_each_figure_that_is_known_is_shown() -> None:
    """A GPU has a sample for what is known of it, and one that tells whether it can be used."""
    good = Gpu(
        uuid="GPU-1",
        name="NVIDIA L4",
        total_bytes=22_000,
        used_bytes=5_000,
        others_bytes=4_000,
        power_w=61.5,
        energy_mj=5_500,
    )
    lost = Gpu(uuid="GPU-2", name="NVIDIA L4", state=GpuState.LOST)
    host = Host(ram_total_bytes=1, ram_available_bytes=1, cpu_cores=1)
    clock = ManualClock()
    collector = TrivetCollector(Metrics(), DeviceClock(clock))
    inventory = Inventory(host=host, gpus=(good, lost), state=InventoryState.OK)
    register_gpus(collector, GpuWatch(inventory, clock, read=lambda: inventory))
    shown = [line for line in collector.render().decode().splitlines() if line.startswith("trivet_gpu_")]
    assert shown == [
        'trivet_gpu_usable{gpu="GPU-1"} 1.0',
        'trivet_gpu_usable{gpu="GPU-2"} 0.0',
        'trivet_gpu_memory_total_bytes{gpu="GPU-1"} 22000.0',
        'trivet_gpu_memory_used_bytes{gpu="GPU-1"} 5000.0',
        'trivet_gpu_memory_others_bytes{gpu="GPU-1"} 4000.0',
        'trivet_gpu_power_watts{gpu="GPU-1"} 61.5',
        'trivet_gpu_energy_joules{gpu="GPU-1"} 5.5',
    ]


def test_trouble_is_logged_at_the_start() -> None:
    """A driver that fails is one line, else each GPU that cannot be used; having no GPU is no trouble."""
    host = Host(ram_total_bytes=1, ram_available_bytes=1, cpu_cores=1)
    lost = Gpu(uuid="GPU-2", name="NVIDIA L4", state=GpuState.LOST, reason="Reboot.")
    good = Gpu(uuid="GPU-1", name="NVIDIA L4", total_bytes=1)
    for inventory, events in (
        (Inventory(host=host, state=InventoryState.NO_GPU), []),
        (Inventory(host=host, state=InventoryState.DRIVER_MISMATCH, reason="Reboot."), ["gpus.unusable"]),
        (Inventory(host=host, state=InventoryState.OK, gpus=(good, lost)), ["gpu.unusable"]),
    ):
        with capture_logs() as logs:
            warn_of_gpus(inventory)
        assert [entry["event"] for entry in logs] == events
