"""The machine's memory, cores and kind, from trees of proc and sys."""

import pytest

from tests.unit.gpu.conftest import Tree
from trivet.domain.gpus import GIB
from trivet.gpu.host import read_host
from trivet.gpu.tegra import tegra_gpu

MEMINFO = {
    "proc/meminfo": "MemTotal: 67108864 kB\nMemFree: 1048576 kB\nMemAvailable: 50331648 kB\nHugePages_Total: "
    "0\n"
}


def test_available_is_not_free(tree: Tree) -> None:
    """File cache counts as available: the kernel's own estimate is taken."""
    host = read_host(tree(MEMINFO))
    assert (host.ram_total_bytes, host.ram_available_bytes, host.platform) == (64 * GIB, 48 * GIB, "linux")


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": str(16 * GIB),
            "sys/fs/cgroup/memory.current": str(10 * GIB),
            "sys/fs/cgroup/memory.stat": f"anon 1\nfile 9\ninactive_file {4 * GIB}\n",
        },
        {
            "proc/self/cgroup": "0::/a.slice/b.scope\n",
            "sys/fs/cgroup/a.slice/b.scope/memory.max": "max",
            "sys/fs/cgroup/a.slice/b.scope/memory.current": str(GIB),
            "sys/fs/cgroup/a.slice/memory.max": str(16 * GIB),
            "sys/fs/cgroup/a.slice/memory.current": str(6 * GIB),
        },
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/ignored\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(16 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(7 * GIB),
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
        },
    ],
    ids=["version 2", "version 2, set above", "version 1 in a container"],
)
def test_a_control_groups_limit_counts(tree: Tree, files: dict[str, str]) -> None:
    """In a container the limit is the memory, and what the group uses for good is gone."""
    host = read_host(tree({**MEMINFO, **files}))
    assert (host.ram_total_bytes, host.ram_available_bytes) == (16 * GIB, 10 * GIB)


def test_no_limit(tree: Tree) -> None:
    """`max`, and version 1's enormous number, are no limits."""
    files = {
        "proc/self/cgroup": "4:memory:/\n0::/\n",
        "sys/fs/cgroup/memory.max": "max",
        "sys/fs/cgroup/memory.current": "5",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
    }
    assert read_host(tree({**MEMINFO, **files})).ram_total_bytes == 64 * GIB


def test_a_group_over_its_limit_leaves_nothing(tree: Tree) -> None:
    """A group may use more than its limit for a moment; nothing is left then, and not less."""
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": str(GIB),
        "sys/fs/cgroup/memory.current": str(2 * GIB),
    }
    assert read_host(tree({**MEMINFO, **files})).ram_available_bytes == 0


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"},
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_quota_of_cpus_counts(tree: Tree, files: dict[str, str]) -> None:
    """Half a CPU is one core to plan with."""
    assert read_host(tree({**MEMINFO, **files})).cpu_cores == 1


def test_a_machine_without_proc_is_still_a_machine(tree: Tree) -> None:
    """Where nothing can be read the C library is asked."""
    host = read_host(tree({"etc/none": ""}))
    assert host.ram_total_bytes >= host.ram_available_bytes > 0
    assert host.cpu_cores >= 1


def test_wsl(tree: Tree) -> None:
    """WSL is known by its kernel's name."""
    kernel = {"proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n"}
    assert read_host(tree({**MEMINFO, **kernel})).platform == "wsl"


ORIN = {
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
}


def test_a_jetson(tree: Tree) -> None:
    """Without NVML a Jetson's GPU is known from the device tree; CUDA knows it as 0."""
    root = tree({**MEMINFO, **ORIN})
    host = read_host(root)
    gpu = tegra_gpu(host, root)
    assert host.platform == "jetson"
    assert gpu is not None
    assert (gpu.uuid, gpu.name) == ("0", "Orin (nvgpu)")
    assert "NVIDIA Jetson AGX Orin Developer Kit" in gpu.reason
    assert (gpu.compute_capability, gpu.unified, gpu.plannable) == ((8, 7), True, True)
    assert (gpu.total_bytes, gpu.free_bytes) == (64 * GIB, 48 * GIB)


def test_a_jetsons_container_says_so_by_a_variable(tree: Tree) -> None:
    """The device tree may be hidden in a container; then the chip is not known."""
    root = tree(MEMINFO)
    host = read_host(root, {"JETSON_JETPACK": "6.2"})
    gpu = tegra_gpu(host, root)
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability) == ("Tegra (nvgpu)", None)


def test_other_machines_are_no_jetson(tree: Tree) -> None:
    """An ARM server with a device tree is none."""
    root = tree({**MEMINFO, "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"})
    host = read_host(root)
    assert (host.platform, tegra_gpu(host, root)) == ("linux", None)
