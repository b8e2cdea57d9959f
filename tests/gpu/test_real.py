"""Discovery on a machine that has an NVIDIA GPU, against what nvidia-smi says of it.

Run with `scripts/test --gpu`.
"""

import os
import subprocess

import pytest

from trivet.domain.gpus import GIB, MIB, GpuState, InventoryState
from trivet.gpu import discover, gpu_uuids

pytestmark = pytest.mark.gpu
WITHOUT_LIMITS = {name: text for name, text in os.environ.items() if "VISIBLE_DEVICES" not in name}


def nvidia_smi(*fields: str) -> list[list[str]]:
    """Return one row of texts per GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]


def test_what_nvidia_smi_says() -> None:
    """The same GPUs in the same order, with the same names, memory and driver."""
    found = discover(environment=WITHOUT_LIMITS)
    rows = nvidia_smi("uuid", "name", "memory.total", "driver_version", "compute_cap", "mig.mode.current")
    assert found.state is InventoryState.OK, found.reason
    whole = [gpu for gpu in found.gpus if gpu.mig_parent is None]
    uncut = [row for row in rows if row[5] != "Enabled"]
    assert [(gpu.uuid, gpu.name) for gpu in whole] == [(row[0], row[1]) for row in uncut]
    assert {found.driver_version} == {row[3] for row in rows}
    for gpu, row in zip(whole, uncut, strict=True):
        assert gpu.state is GpuState.OK, gpu.reason
        assert ".".join(map(str, gpu.compute_capability or ())) == row[4]
        if row[2].isdigit():  # not of a GPU that shares the host's memory
            assert abs((gpu.total_bytes or 0) - int(row[2]) * MIB) <= MIB


def test_memory_adds_up() -> None:
    """Used, free and reserved are the whole, where the driver tells the reserved."""
    for gpu in discover(environment=WITHOUT_LIMITS).gpus:
        assert gpu.total_bytes is not None
        assert (gpu.used_bytes or 0) + (gpu.free_bytes or 0) + (gpu.reserved_bytes or 0) <= gpu.total_bytes
        assert gpu.total_bytes > GIB
        if gpu.reserved_bytes is not None:
            assert (
                abs(gpu.total_bytes - sum((gpu.used_bytes or 0, gpu.free_bytes or 0, gpu.reserved_bytes)))
                < MIB
            )


def test_energy_grows() -> None:
    """The counter never goes back while the driver stays."""
    before, after = ({gpu.uuid: gpu.energy_mj for gpu in discover().gpus} for _ in range(2))
    for uuid, energy_mj in before.items():
        assert energy_mj is None or (after[uuid] or 0) >= energy_mj


def test_cuda_visible_devices() -> None:
    """A UUID, the beginning of one and nothing choose that one GPU and none."""
    everything = discover(environment=WITHOUT_LIMITS)
    first = everything.gpus[0].uuid
    for value in (first, first[:-2]):
        chosen = discover(environment={"CUDA_VISIBLE_DEVICES": value})
        assert gpu_uuids(chosen) == (first,)
    assert discover(environment={"CUDA_VISIBLE_DEVICES": "-1"}).state is InventoryState.HIDDEN
