"""The machine around the GPUs: memory, cores, and what kind of machine it is.

A container sees the whole machine in /proc/meminfo; what it may really use stands in its control group. Both
are read, and the smaller figure counts.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trivet.domain.gpus import Host

UNLIMITED_BYTES = 1 << 60
"""At and above this a control group's limit is none: version 1 writes almost 2^63."""


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group's memory, in bytes, and its share of the CPUs."""

    limit_bytes: int
    used_bytes: int
    """Without the file cache that the kernel gives back first, as Kubernetes counts a working set."""


def read_host(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> Host:
    """Read the machine's memory and cores.

    Args:
        root: the tree that holds `proc` and `sys`.
        environment: NVIDIA's Jetson containers set JETSON_JETPACK there.
    """
    facts = _meminfo(root)
    total = facts.get("MemTotal") or _pages("SC_PHYS_PAGES")
    available = facts.get("MemAvailable") or facts.get("MemFree") or _pages("SC_AVPHYS_PAGES") or total
    for group in _memory_groups(root):
        if group.limit_bytes < UNLIMITED_BYTES:
            total = min(total, group.limit_bytes)
            available = min(available, max(group.limit_bytes - group.used_bytes, 0))
    return Host(
        ram_total_bytes=total,
        ram_available_bytes=min(available, total),
        cpu_cores=_cores(root),
        platform=_platform(root, environment or {}),
    )


def read_text(path: Path) -> str | None:
    """Return a small file's text without the white space around it; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """Return the whole number that a file holds; None where there is none (`max`, or no such file)."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def tegra_compatible(root: Path) -> str | None:
    """Return the device tree's list of names if it is a Tegra's: a Jetson, a DRIVE, an IGX."""
    names = read_text(root / "proc/device-tree/compatible") or ""
    return names.replace("\0", " ") if "nvidia,tegra" in names else None


def _platform(
    root: Path, environment: Mapping[str, str]
) -> Literal["linux", "wsl", "jetson", "macos", "other"]:
    if sys.platform == "darwin":
        return "macos"
    if not sys.platform.startswith("linux"):
        return "other"
    if "microsoft" in (read_text(root / "proc/sys/kernel/osrelease") or "").lower():
        return "wsl"
    if (
        environment.get("JETSON_JETPACK")
        or (root / "etc/nv_tegra_release").exists()
        or tegra_compatible(root)
    ):
        return "jetson"
    return "linux"


def _meminfo(root: Path) -> dict[str, int]:
    """Return the figures of /proc/meminfo in bytes."""
    facts: dict[str, int] = {}
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            facts[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return facts


def _pages(name: str) -> int:
    try:
        return max(os.sysconf(name), 0) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _memory_groups(root: Path) -> Iterator[_Group]:
    """Yield the control groups that this process is in, innermost first; the strictest limit holds."""
    for folder in _folders(root, ("sys/fs/cgroup", "sys/fs/cgroup/unified"), controller=""):
        limit, used = read_number(folder / "memory.max"), read_number(folder / "memory.current")
        if limit is not None and used is not None:
            yield _Group(limit, used - _statistic(folder, "inactive_file"))
    for folder in _folders(root, ("sys/fs/cgroup/memory",), controller="memory"):
        limit = read_number(folder / "memory.limit_in_bytes")
        used = read_number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            yield _Group(limit, used - _statistic(folder, "total_inactive_file"))


def _folders(root: Path, mounts: tuple[str, ...], *, controller: str) -> Iterator[Path]:
    """Yield a controller's folder of this process and all above it.

    In a container the path may be the host's, which is not there; its mount's own top is the container then.
    """
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, inside = rest.partition(":")
        if (controller == "" and number == "0") or (controller and controller in controllers.split(",")):
            for mount in mounts:
                top = root / mount
                folder = top / inside.lstrip("/")
                yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top))


def _statistic(folder: Path, name: str) -> int:
    for line in (read_text(folder / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _cores(root: Path) -> int:
    """Return how many CPUs this process may keep busy: its affinity and its group's quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders(root, ("sys/fs/cgroup",), controller=""):
        quota, _, period = (read_text(folder / "cpu.max") or "max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, math.ceil(int(quota) / int(period)))
    for folder in _folders(root, ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"), controller="cpu"):
        quota_us, period_us = (
            read_number(folder / "cpu.cfs_quota_us"),
            read_number(folder / "cpu.cfs_period_us"),
        )
        if quota_us and quota_us > 0 and period_us:
            cores = min(cores, math.ceil(quota_us / period_us))
    return max(cores, 1)
