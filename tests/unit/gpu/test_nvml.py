"""Discovery through the real pynvml, which loads a fake library: what each kind of machine looks like."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.counts import scaled
from tests.doubles.nvml import GIB, FakeMachine, compile_nvml, gpu, mig, uuid
from tests.unit.gpu.conftest import Tree

RTX_4090 = {"capability": "8.9", "power_mw": 61_500, "reserved": 400 * 1024**2}
H100 = {"capability": "9.0", "reserved": GIB // 2, "energy_mj": 987_654_321_000}
MEMINFO = "MemTotal: 125829120 kB\nMemFree: 8388608 kB\nMemAvailable: 104857600 kB\n"


def only(found: dict[str, Any]) -> dict[str, Any]:
    """Return the one GPU of a machine."""
    (device,) = found["gpus"]
    assert isinstance(device, dict)
    return device


def test_one_card(machine: FakeMachine) -> None:
    """A card with others' work on it: memory apart by owner, power, capability, no peers."""
    scenario = gpu(
        1,
        "NVIDIA GeForce RTX 4090",
        23.99,
        used=3 * GIB,
        computes=[f"999999 {2 * GIB}"],
        fail_energy=3,
        **RTX_4090,
    )
    found = machine.discover(scenario)
    assert (found["state"], found["reason"], found["driver_version"]) == ("ok", "", "575.57.08")
    card = only(found)
    assert (card["uuid"], card["name"], card["vendor"]) == (uuid(1), "NVIDIA GeForce RTX 4090", "nvidia")
    assert (card["state"], card["plannable"], card["unified"]) == ("ok", True, False)
    assert (card["total_gib"], card["used_gib"], card["reserved_gib"]) == (23.99, 3.0, 0.391)
    assert (card["others_gib"], card["compute_capability"]) == (3.0, "8.9")
    assert (card["power_w"], card["energy_mj"], card["peers"]) == (61.5, None, [])


def test_eight_cards_behind_switches(machine: FakeMachine) -> None:
    """Behind NVSwitches each reaches each, over NVLink; the order is the bus's, not the driver's."""
    cards = [
        gpu(number, "NVIDIA H100 80GB HBM3", 79.65, link=[-1] * 18, p2p=1, **H100)
        for number in (5, 2, 3, 4, 1, 6, 7, 8)
    ]
    found = machine.discover("".join(cards))
    assert [card["uuid"] for card in found["gpus"]] == [uuid(number) for number in range(1, 9)]
    for card in found["gpus"]:
        others = [other["uuid"] for other in found["gpus"] if other is not card]
        assert (card["peers"], card["nvlink_peers"]) == (others, others)
        assert card["energy_mj"] == 987_654_321_000


def test_links_of_pairs(machine: FakeMachine) -> None:
    """Two bridged pairs reach over NVLink within the pair; P2P over PCIe alone is a peer and no NVLink."""
    pairs = {1: 2, 2: 1, 3: 4, 4: 3}
    cards = [
        gpu(number, "NVIDIA RTX A6000", 47.5, link=[pairs[number], -2], p2p=1, capability="8.6")
        for number in pairs
    ]
    found = {card["uuid"]: card for card in machine.discover("".join(cards))["gpus"]}
    assert found[uuid(1)]["nvlink_peers"] == [uuid(2)]
    assert found[uuid(4)]["nvlink_peers"] == [uuid(3)]
    assert found[uuid(1)]["peers"] == [uuid(2), uuid(3), uuid(4)]


def test_cards_without_p2p(machine: FakeMachine) -> None:
    """GeForce cards of today reach each other through the host only."""
    found = machine.discover("".join(gpu(n, "NVIDIA GeForce RTX 5090", 31.8, **RTX_4090) for n in (1, 2)))
    assert [(card["peers"], card["nvlink_peers"]) for card in found["gpus"]] == [([], []), ([], [])]


def test_switches_without_a_fabric_are_no_link(machine: FakeMachine) -> None:
    """Links to a switch that lead nowhere (the fabric manager is down) make no peers."""
    found = machine.discover("".join(gpu(n, "NVIDIA H100 80GB HBM3", 79.65, link=[-1]) for n in (1, 2)))
    assert [card["nvlink_peers"] for card in found["gpus"]] == [[], []]
    assert all("nvidia-fabricmanager" in card["reason"] for card in found["gpus"])


def test_a_mixed_machine_with_a_lost_card(machine: FakeMachine) -> None:
    """A card that fell off the bus is shown, says what to do, and hides no other."""
    scenario = (
        gpu(1, "NVIDIA H100 PCIe", 79.65, **H100)
        + gpu(2, "NVIDIA L40S", 44.99, fail_handle=15)
        + gpu(3, "NVIDIA GeForce RTX 3060", 11.99, fail_memory=15)
        + gpu(4, "Tesla T4", 14.75, fail_handle=999)
    )
    found = machine.discover(scenario)
    states = [card["state"] for card in found["gpus"]]
    assert (found["state"], states) == ("ok", ["ok", "lost", "lost", "faulty"])
    assert found["reason"] == "3 of 4 GPUs cannot be used; see their states."
    assert found["gpus"][1]["uuid"] == "NVML-1"
    assert "dmesg" in found["gpus"][2]["reason"]
    assert [card["plannable"] for card in found["gpus"]] == [True, False, False, False]


MIG_MACHINE = (
    gpu(1, "NVIDIA A100-SXM4-80GB", 79.25, mig_mode=1, fail_memory=4, capability="8.0", p2p=1)
    + mig(11, "NVIDIA A100-SXM4-80GB MIG 3g.40gb", 39.5, used=GIB)
    + mig(12, "NVIDIA A100-SXM4-80GB", 19.5, fail_power=3)
    + gpu(2, "NVIDIA A100-SXM4-80GB", 79.25, capability="8.0", p2p=1)
    + gpu(3, "NVIDIA A100-SXM4-80GB", 79.25, mig_mode=1, fail_memory=4)
)


def test_mig(machine: FakeMachine) -> None:
    """A cut GPU is its instances, which nothing links; one in MIG mode without instances is of no use."""
    found = machine.discover(MIG_MACHINE)
    cards = found["gpus"]
    assert [card["uuid"] for card in cards] == [uuid(11, "MIG"), uuid(12, "MIG"), uuid(2), uuid(3)]
    assert [card["mig_parent"] for card in cards] == [uuid(1), uuid(1), None, None]
    assert [card["state"] for card in cards] == ["ok", "ok", "ok", "mig_empty"]
    assert [card["total_gib"] for card in cards[:2]] == [39.5, 19.5]
    assert cards[1]["name"] == "NVIDIA A100-SXM4-80GB MIG"
    assert (cards[0]["compute_capability"], cards[0]["power_w"], cards[0]["peers"]) == ("8.0", None, [])
    assert "nvidia-smi mig" in cards[3]["reason"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (uuid(12, "MIG"), [uuid(12, "MIG")]),
        (f"MIG-{uuid(1)}/2/0", [uuid(12, "MIG")]),
        (uuid(1), [uuid(11, "MIG"), uuid(12, "MIG")]),
        ("1,0", [uuid(11, "MIG"), uuid(12, "MIG"), uuid(2)]),
    ],
)
def test_mig_and_cuda_visible_devices(machine: FakeMachine, value: str, expected: list[str]) -> None:
    """MIG instances are named by UUID or in the old way; a whole GPU's name means all its instances."""
    found = machine.discover(MIG_MACHINE, CUDA_VISIBLE_DEVICES=value)
    assert [card["uuid"] for card in found["gpus"]] == expected


@pytest.mark.parametrize("facts", [{"fail_memory": 3, "ats": 1}, {"fail_memory": 3}, {}], ids=str)
def test_unified_memory(machine: FakeMachine, tree: Tree, facts: dict[str, int]) -> None:
    """A GB10's memory is the host's, whether its driver refuses a figure or gives a doubtful one."""
    root = tree({"proc/meminfo": MEMINFO})
    found = machine.discover(
        gpu(1, "NVIDIA GB10", 119.7, used=110 * GIB, capability="12.1", **facts), root=root
    )
    card = only(found)
    assert (card["state"], card["unified"], card["plannable"]) == ("ok", True, True)
    assert (card["total_gib"], card["free_gib"], card["used_gib"]) == (120.0, 100.0, 20.0)
    assert "kernel" in card["reason"]


def test_a_grace_hopper_has_memory_of_its_own(machine: FakeMachine) -> None:
    """One page table with the CPU does not make HBM the host's memory."""
    card = only(machine.discover(gpu(1, "NVIDIA GH200 480GB", 95.6, ats=1, capability="9.0")))
    assert (card["unified"], card["total_gib"]) == (False, 95.6)


def test_unknown_memory_is_not_guessed(machine: FakeMachine) -> None:
    """An ordinary card whose driver tells no memory is shown and not planned with."""
    found = machine.discover(gpu(1, "GRID V100", 16, fail_memory=3))
    assert (found["state"], only(found)["state"], only(found)["total_gib"]) == (
        "faulty",
        "memory_unknown",
        None,
    )


def test_memory_info_of_version_1(machine: FakeMachine) -> None:
    """Where version 2 fails, as under WSL, version 1 counts; it cannot tell reserved memory."""
    card = only(
        machine.discover(gpu(1, "NVIDIA GeForce RTX 4090", 24, used=GIB, fail_memory_v2=999, **RTX_4090))
    )
    assert (card["reserved_gib"], card["used_gib"], card["total_gib"]) == (None, 1.391, 24.0)


def test_an_old_driver(tmp_path: Path) -> None:
    """A driver without the newer functions is read all the same."""
    machine = FakeMachine(compile_nvml(tmp_path / "old", old=True), tmp_path)
    found = machine.discover(
        "driver 470.256.02\n" + gpu(1, "Tesla V100-SXM2-32GB", 31.75, used=GIB, capability="7.0")
    )
    card = only(found)
    assert (found["driver_version"], card["used_gib"], card["others_gib"]) == ("470.256.02", 1.0, 1.0)


def test_own_engines_are_not_others(machine: FakeMachine, tree: Tree) -> None:
    """What an engine of Trivet's uses is its own; the rest of what is used is others'."""
    first_namespace = {"proc/meminfo": MEMINFO, "proc/self/ns/pid": "->pid:[4026531836]"}
    root = tree({**first_namespace, "proc/700/stat": "700 (vllm) S 1"})
    scenario = gpu(
        1,
        "NVIDIA L4",
        22.0,
        used=10 * GIB,
        computes=[f"700 {6 * GIB}", f"800 {3 * GIB}"],
        draws=[f"700 {6 * GIB}"],
    )
    assert only(machine.discover(scenario, root=root, arguments={"engines": [700]}))["others_gib"] == 4.0
    assert only(machine.discover(scenario, root=root))["others_gib"] == 10.0
    for untold in (-1, -(1 << 20)):
        silent = gpu(1, "NVIDIA L4", 22.0, used=10 * GIB, computes=[f"700 {untold}"])
        assert only(machine.discover(silent, root=root, arguments={"engines": [700]}))["others_gib"] is None


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (9, "driver_not_loaded", "modprobe"),
        (18, "driver_mismatch", "reboot"),
        (4, "no_permission", "/dev/nvidia"),
        (999, "faulty", "daemon-reload"),
        (17, "faulty", "dmesg"),
        (15, "faulty", "dmesg"),
    ],
)
def test_a_driver_that_fails(machine: FakeMachine, code: int, state: str, words: str) -> None:
    """Each failure of the driver is a state with a way out, and the host is known all the same."""
    found = machine.discover(f"fail_init {code}\n" + gpu(1, "NVIDIA L4", 22.0))
    assert (found["state"], found["gpus"]) == (state, [])
    assert words in found["reason"]
    assert found["host"]["ram_total_gib"] > 0


def test_no_permission_for_one_card(machine: FakeMachine) -> None:
    """A container that was given other cards: the driver lists this one, and does not let it be read."""
    found = machine.discover(gpu(1, "NVIDIA L4", 22.0, fail_handle=4))
    assert (found["state"], only(found)["state"]) == ("no_permission", "no_permission")


def test_a_driver_that_shows_nothing(machine: FakeMachine) -> None:
    """The driver runs and no GPU was passed on, or it fails when it counts."""
    assert machine.discover("driver 550.1\n")["state"] == "no_gpu"
    assert machine.discover("fail_count 999\n" + gpu(1, "NVIDIA L4", 22.0))["state"] == "faulty"


def test_a_driver_that_hangs(machine: FakeMachine) -> None:
    """Discovery does not wait for ever, and says so."""
    found = machine.discover("hang_s 60\n" + gpu(1, "NVIDIA L4", 22.0), arguments={"timeout_s": 0.2})
    assert (found["state"], found["gpus"]) == ("not_answering", [])
    assert "0.2 s" in found["reason"]


@pytest.mark.parametrize(
    ("files", "state", "words"),
    [
        ({}, "no_gpu", "CPU"),
        (
            {
                "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
                "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
            },
            "no_driver",
            "container",
        ),
        (
            {
                "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de",
                "sys/bus/pci/devices/0000:01:00.0/class": "0x030200",
                "sys/module/nvidia/version": "575.57.08",
            },
            "no_driver",
            "575.57.08",
        ),
        ({"dev/dxg": ""}, "no_driver", "wsl --update"),
        (
            {
                "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de",
                "sys/bus/pci/devices/0000:01:00.1/class": "0x040300",
            },
            "no_gpu",
            "CPU",
        ),
    ],
    ids=["nothing", "card without driver", "container", "wsl", "sound device"],
)
def test_no_library(tmp_path: Path, tree: Tree, files: dict[str, str], state: str, words: str) -> None:
    """Without libnvidia-ml.so.1 the bus tells a machine without a GPU from one whose driver is missing."""
    library = tmp_path / "no library"
    library.mkdir()
    (library / "libnvidia-ml.so.1").write_text("no library")
    found = FakeMachine(library, tmp_path).discover("", root=tree({"proc/meminfo": MEMINFO, **files}))
    assert (found["state"], found["gpus"]) == (state, [])
    assert words in found["reason"]
    assert found["host"]["ram_total_gib"] == 120.0


def test_visible_devices(machine: FakeMachine) -> None:
    """CUDA_VISIBLE_DEVICES hides GPUs; indices on a machine of unlike GPUs are said to be doubtful."""
    scenario = gpu(1, "NVIDIA L4", 22.0) + gpu(2, "NVIDIA H100 PCIe", 79.65)
    hidden = machine.discover(scenario, CUDA_VISIBLE_DEVICES="")
    assert (hidden["state"], hidden["gpus"], "unset" in hidden["reason"]) == ("hidden", [], True)
    one = machine.discover(scenario, CUDA_VISIBLE_DEVICES="1")
    assert (only(one)["uuid"], "CUDA_DEVICE_ORDER" in one["reason"]) == (uuid(2), True)
    told = machine.discover(scenario, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert (only(told)["uuid"], told["reason"]) == (uuid(2), "")


def test_wsl(tmp_path: Path, tree: Tree) -> None:
    """WSL's library is found where the linker does not look; processes have no figures there."""
    kernel = {"proc/sys/kernel/osrelease": "6.6.87.2-microsoft-standard-WSL2\n", "dev/dxg": ""}
    root = tree({"proc/meminfo": MEMINFO, **kernel})
    compile_nvml(root / "usr/lib/wsl/lib")
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    facts = {"used": 2 * GIB, "fail_memory_v2": 999, "computes": ["700 -1"], "fail_energy": 3}
    found = FakeMachine(nowhere, tmp_path).discover(gpu(1, "NVIDIA GeForce RTX 4090", 24, **facts), root=root)
    assert (found["state"], found["host"]["platform"]) == ("ok", "wsl")
    assert (only(found)["used_gib"], only(found)["others_gib"]) == (2.0, 2.0)


AMD_CARD = {
    "sys/class/drm/card0/device/vendor": "0x1002",
    "sys/class/drm/card0/device/mem_info_vram_total": str(16 * GIB),
    "sys/class/drm/card0/device/mem_info_vram_used": "0",
}
NVIDIA_CARD = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030200",
}


def test_amd_where_nvidia_has_no_gpu(machine: FakeMachine, tree: Tree) -> None:
    """NVIDIA's library without its GPU leaves AMD's; a sleeping NVIDIA GPU is trouble, not absent."""
    root = tree({"proc/meminfo": MEMINFO, **AMD_CARD})
    found = machine.discover("fail_init 9\n", root=root, HIP_VISIBLE_DEVICES="0")
    assert (found["state"], only(found)["vendor"], only(found)["total_gib"]) == ("ok", "amd", 16.0)
    assert machine.discover("fail_init 9\n", root=root, ROCR_VISIBLE_DEVICES="")["state"] == "hidden"
    broken = machine.discover("fail_init 9\n", root=tree(NVIDIA_CARD))
    assert (broken["state"], broken["gpus"]) == ("driver_not_loaded", [])


def test_a_jetson_without_nvml(tmp_path: Path, tree: Tree) -> None:
    """Its GPU comes from the device tree, and CUDA_VISIBLE_DEVICES counts for it, too."""
    library = tmp_path / "no library"
    library.mkdir()
    (library / "libnvidia-ml.so.1").write_text("no library")
    root = tree({"proc/meminfo": MEMINFO, "proc/device-tree/compatible": "nvidia,tegra234\0"})
    jetson = FakeMachine(library, tmp_path)
    card = only(jetson.discover("", root=root))
    assert (card["uuid"], card["unified"], card["total_gib"]) == ("0", True, 120.0)
    assert jetson.discover("", root=root, CUDA_VISIBLE_DEVICES="-1")["state"] == "hidden"


def test_a_jetson_with_nvml(machine: FakeMachine, tree: Tree) -> None:
    """NVML's UUID of a Tegra means nothing to CUDA, so its index is its name."""
    root = tree({"proc/meminfo": MEMINFO, "proc/device-tree/compatible": "nvidia,tegra234\0"})
    scenario = gpu(0, "Orin (nvgpu)", 0, uuid="ba7cdbf2-5f3b", fail_memory=3, capability="8.7", fail_power=3)
    card = only(machine.discover(scenario, root=root))
    assert (card["uuid"], card["unified"], card["state"], card["power_w"]) == ("0", True, "ok", None)


CALLS = (
    "handle name uuid pci mig instance memory memory_v2 capability power energy processes p2p link addressing"
)
CODES = (1, 2, 3, 4, 6, 9, 10, 13, 15, 16, 17, 20, 25, 27, 999, 12345)
NAMES = ("NVIDIA H100 80GB HBM3", "NVIDIA GB10", "Orin (nvgpu)", "Tesla T4", "NVIDIA \udcffgarbage")


def any_machine(chance: random.Random) -> str:
    """Return a machine of a few GPUs, where any call may fail with any error."""
    lines = []
    for number in chance.sample(range(1, 9), chance.randint(0, 4)):
        faults = {f"fail_{call}": chance.choice(CODES) for call in CALLS.split() if chance.random() < 0.08}
        facts = {
            "used": chance.choice([0, GIB, 70 * GIB]),
            "mig_mode": chance.choice([0, 0, 0, 1]),
            "p2p": chance.choice([0, 1]),
            "link": [chance.choice([-2, -1, 1, 2, 3]) for _ in range(chance.randint(0, 4))],
            "computes": [f"{chance.choice([1, 700])} {chance.choice([-1, 0, GIB])}"] * chance.randint(0, 2),
            "capability": "9.0",
        }
        lines.append(gpu(number, chance.choice(NAMES), chance.choice([0, 16, 80]), **facts, **faults))
        lines += [mig(10 * number + part, "MIG 1g.10gb", 9.5) for part in range(chance.randint(0, 2))]
    return "".join(lines)


def test_whatever_fails_there_is_an_answer(machine: FakeMachine) -> None:
    """No combination of errors is a crash, and only what is known to work is planned with."""
    chance = random.Random(20261126)
    scenarios = [any_machine(chance) for _ in range(scaled(150))]
    for scenario, found in zip(scenarios, machine.discover_each(scenarios), strict=True):
        usable = [card for card in found["gpus"] if card["plannable"]]
        assert (found["state"] == "ok") == bool(usable), scenario
        for card in found["gpus"]:
            assert (card["state"] == "ok") == card["plannable"], scenario
            assert card["plannable"] or card["reason"], scenario
            assert not card["plannable"] or card["total_gib"] > 0, scenario
            assert set(card["nvlink_peers"]) <= set(card["peers"]) <= {other["uuid"] for other in usable}, (
                scenario
            )
        uuids = [card["uuid"] for card in found["gpus"]]
        assert len(set(uuids)) == len(uuids), scenario
