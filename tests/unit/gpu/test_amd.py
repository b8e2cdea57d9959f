"""AMD GPUs from a tree of sysfs."""

import os

import pytest

from tests.unit.gpu.conftest import Tree
from trivet.domain.gpus import GIB, GpuState, Host, InventoryState
from trivet.gpu.amd import AmdReading, read_amd
from trivet.gpu.owners import Owners

HOST = Host(ram_total_bytes=128 * GIB, ram_available_bytes=90 * GIB, cpu_cores=16)
IDS = "# List of AMDGPU IDs\n1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n"


def card(number: int, place: str, **files: str) -> dict[str, str]:
    """Return the files of one card; the names are those of its folder in sysfs."""
    device = f"sys/devices/pci0000:00/{place}"
    return {f"{device}/{name}": text for name, text in {"vendor": "0x1002\n", **files}.items()} | {
        f"sys/class/drm/card{number}/device": f"->../../../devices/pci0000:00/{place}"
    }


XTX = {
    "device": "0x744c",
    "revision": "0xc8",
    "mem_info_vram_total": str(24 * GIB),
    "mem_info_vram_used": str(2 * GIB),
    "mem_info_gtt_total": str(64 * GIB),
    "unique_id": "8f3a1c0d4e5b6a79",
    "hwmon/hwmon3/power1_average": "51000000",
}
STRIX_HALO = {
    "device": "0x1586",
    "mem_info_vram_total": str(GIB // 2),
    "mem_info_vram_used": "0",
    "mem_info_gtt_total": str(112 * GIB),
    "mem_info_gtt_used": str(2 * GIB),
}


def read(root_files: dict[str, str], tree: Tree) -> AmdReading | None:
    """Read a tree."""
    return read_amd(HOST, Owners(), tree(root_files))


def test_two_cards_in_the_order_of_the_bus(tree: Tree) -> None:
    """Name from libdrm's list, ROCm's UUID, VRAM alone, power; the order is that of the bus."""
    found = read(
        card(1, "0000:43:00.0", **XTX)
        | card(2, "0000:03:00.0", **{**XTX, "unique_id": "", "revision": "0xff"})
        | {"usr/share/libdrm/amdgpu.ids": IDS, "sys/module/amdgpu/version": "6.8.5"},
        tree,
    )
    assert found is not None
    first, second = (entry.gpu for entry in found.listed)
    assert (found.state, found.driver_version) == (InventoryState.OK, "6.8.5")
    assert (first.uuid, first.name) == ("AMD-0000:03:00.0", "AMD GPU 744C")
    assert (second.uuid, second.name) == ("GPU-8f3a1c0d4e5b6a79", "AMD Radeon RX 7900 XTX")
    assert (second.total_bytes, second.used_bytes, second.free_bytes) == (24 * GIB, 2 * GIB, 22 * GIB)
    assert (second.others_bytes, second.power_w, second.vendor) == (2 * GIB, 51.0, "amd")


def test_an_apu_uses_the_hosts_memory(tree: Tree) -> None:
    """Carve-out and mapped memory count together; free is no more than the host has."""
    found = read(card(0, "0000:c4:00.0", **STRIX_HALO, product_name="AMD Radeon 8060S"), tree)
    assert found is not None
    (gpu,) = (entry.gpu for entry in found.listed)
    assert (gpu.name, gpu.unified, gpu.plannable) == ("AMD Radeon 8060S", True, True)
    assert (gpu.total_bytes, gpu.used_bytes) == (112 * GIB + GIB // 2, 2 * GIB)
    assert gpu.free_bytes == 90 * GIB + GIB // 2


def test_an_apu_beside_a_card_is_left_out(tree: Tree) -> None:
    """It is there for the picture; so is the small one of a desktop's processor."""
    files = card(0, "0000:c4:00.0", **STRIX_HALO) | card(1, "0000:03:00.0", **XTX)
    found = read(files | card(2, "0000:05:00.0", **{**STRIX_HALO, "device": "0x164e"}), tree)
    assert found is not None
    assert [entry.gpu.unified for entry in found.listed] == [False]


def test_a_desktops_picture_is_no_gpu(tree: Tree) -> None:
    """Two compute units are no place for a model."""
    files = card(0, "0000:05:00.0", **{**STRIX_HALO, "device": "0x164e"}) | {"sys/module/amdgpu/version": "6"}
    assert read(files, tree) is None


def test_own_engines_on_an_amd_card(tree: Tree) -> None:
    """sysfs tells no memory by process: with an own engine nobody can tell what is others'."""
    files = card(0, "0000:03:00.0", **XTX) | {"proc/5/task/5/children": "6"}
    found = read_amd(HOST, Owners([5], root=tree(files)), tree(files))
    assert found is not None
    assert found.listed[0].gpu.others_bytes is None


def test_a_module_that_is_not_loaded(tree: Tree) -> None:
    """A card on the bus without its driver is a state."""
    bus = "sys/bus/pci/devices/0000:03:00.0"
    found = read({f"{bus}/vendor": "0x1002", f"{bus}/class": "0x030000"}, tree)
    assert found is not None
    assert found.state is InventoryState.DRIVER_NOT_LOADED


def test_other_makers_cards(tree: Tree) -> None:
    """Intel's and NVIDIA's cards are not AMD's."""
    assert read(card(0, "0000:00:02.0", vendor="0x8086", mem_info_vram_total="1"), tree) is None
    assert read({"sys/class/drm/version": "drm 1.1.0"}, tree) is None


@pytest.mark.parametrize("used", ["", "garbage"])
def test_files_that_say_nothing(tree: Tree, used: str) -> None:
    """A figure that is missing counts as nothing; a card without memory is not planned with."""
    found = read(card(0, "0000:03:00.0", mem_info_vram_total="0", mem_info_vram_used=used), tree)
    assert found is not None
    assert found.listed[0].gpu.state is GpuState.MEMORY_UNKNOWN


def test_a_closed_door(tree: Tree) -> None:
    """Who may not open /dev/kfd is told which group is missing; root may open everything."""
    root = tree(card(0, "0000:03:00.0", **XTX) | {"dev/kfd": ""})
    (root / "dev/kfd").chmod(0)
    found = read_amd(HOST, Owners(), root)
    assert found is not None
    expected = GpuState.OK if os.geteuid() == 0 else GpuState.NO_PERMISSION
    assert found.listed[0].gpu.state is expected
