"""Machines as people write them."""

import pytest

from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.gpus_text import GPUS_MAX, PAPER_CPU_RAM_GIB, read_gpus
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB, InventoryState

TABLE = load_gpu_table()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("RTX4090", ["RTX 4090"]),
        ("2xRTX4090,1xH100", ["RTX 4090", "RTX 4090", "H100"]),
        ("2 x rtx 4090 , h100", ["RTX 4090", "RTX 4090", "H100"]),
        ("3*L4+T4", ["L4", "L4", "L4", "T4"]),
        ("RTX3060-12GB", ["RTX 3060 12GB"]),
        ("RTX4090x2,H100 x 1", ["RTX 4090", "RTX 4090", "H100"]),
        ("2x24GB", ["24 GB GPU", "24 GB GPU"]),
    ],
)
def test_gpus_are_counted_and_named(text: str, names: list[str]) -> None:
    """A count may stand before a name; case, spaces and hyphens do not count."""
    inventory = read_gpus(text, TABLE)
    assert [gpu.name for gpu in inventory.gpus] == names
    assert [gpu.uuid for gpu in inventory.gpus] == [f"PLAN-{index}" for index in range(len(names))]
    assert inventory.state is InventoryState.OK
    assert not inventory.measured


@pytest.mark.parametrize(
    ("text", "ram_gib"), [("cpu", PAPER_CPU_RAM_GIB), ("cpu-32gb", 32.0), ("CPU 8 GB", 8.0), ("cpu:64", 64.0)]
)
def test_a_machine_may_have_no_gpu(text: str, ram_gib: float) -> None:
    """`cpu` is a machine without GPUs; its memory may follow."""
    inventory = read_gpus(text, TABLE)
    assert inventory.gpus == ()
    assert inventory.host.ram_available_bytes == ram_gib * GIB


def test_the_hosts_memory_can_be_said() -> None:
    """`--ram` wins over what stands for it by default."""
    assert read_gpus("H100", TABLE, ram_gib=256).host.ram_total_bytes == 256 * GIB
    assert read_gpus("cpu", TABLE, ram_gib=24).host.ram_total_bytes == 24 * GIB


@pytest.mark.parametrize("text", ["", " , ", "0xH100", f"{GPUS_MAX + 1}xH100", "9999xT4", "60xT4,5xT4"])
def test_no_gpu_and_too_many_are_refused(text: str) -> None:
    """A machine has 1 to 64 GPUs; the error says how to write them."""
    with pytest.raises(ConfigError) as raised:
        read_gpus(text, TABLE)
    assert "2xRTX4090" in str(raised.value)


def test_an_unknown_gpu_lists_near_ones() -> None:
    """A slip of the pen gets the names that it may mean."""
    with pytest.raises(ConfigError) as raised:
        read_gpus("2xRTX4091", TABLE)
    assert "RTX 4090" in str(raised.value)
