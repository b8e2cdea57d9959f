"""What doctor says of the machine: software, GPUs, ports, disks."""

import socket
import sqlite3
from pathlib import Path

import pytest

from trivet.cli import doctor_machine
from trivet.domain.gpus import GIB, Gpu, GpuState, Host, Inventory, InventoryState
from trivet.lab.scratch_redis import ScratchRedis

HOST = Host(ram_total_bytes=64 * GIB, ram_available_bytes=32 * GIB, cpu_cores=8)
CARD = Gpu(uuid="GPU-1", name="NVIDIA L4", total_bytes=22 * GIB, used_bytes=GIB, others_bytes=GIB)


def mounts(root: Path, text: str) -> Path:
    """Write a table of mounts."""
    (root / "proc").mkdir()
    (root / "proc/mounts").write_text(text)
    return root


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 40, 1), "warning"),
        ((3, 44, 5), "warning"),
        ((3, 44, 6), "ok"),
        ((3, 50, 6), "warning"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "warning"),
        ((3, 51, 3), "ok"),
        ((4, 0, 0), "ok"),
    ],
)
def test_sqlites_fault_by_version(version: tuple[int, ...], state: str) -> None:
    """The lines that were mended are known; what comes after the newest is mended, too."""
    assert doctor_machine.sqlite(version).state == state


def test_a_malicious_release_is_an_error() -> None:
    """And no other release is."""
    assert [doctor_machine.litellm(version).state for version in ("1.82.7", "1.82.8", "1.82.9")] == [
        "error",
        "error",
        "ok",
    ]


def test_the_software_that_runs_the_tests() -> None:
    """It is fit to run Trivet."""
    checks = {finding.check: finding for finding in doctor_machine.software()}
    assert checks["sqlite"].detail.startswith(sqlite3.sqlite_version)
    assert {finding.state for finding in checks.values()} <= {"ok", "warning"}


@pytest.mark.parametrize(
    ("inventory", "states"),
    [
        (Inventory(host=HOST, gpus=(CARD,), state=InventoryState.OK, driver_version="575"), ["ok", "ok"]),
        (
            Inventory(host=HOST, gpus=(CARD,), state=InventoryState.OK, reason="doubtful order"),
            ["warning", "ok"],
        ),
        (Inventory(host=HOST, state=InventoryState.NO_GPU, reason="None."), ["warning"]),
        (Inventory(host=HOST, state=InventoryState.HIDDEN, reason="Unset it."), ["warning"]),
        (Inventory(host=HOST, state=InventoryState.DRIVER_MISMATCH, reason="Reboot."), ["error"]),
        (
            Inventory(
                host=HOST,
                state=InventoryState.OK,
                reason="1 of 3",
                gpus=(
                    CARD,
                    Gpu(uuid="GPU-2", name="NVIDIA L4", state=GpuState.LOST, reason="Reboot."),
                    Gpu(uuid="GPU-3", name="NVIDIA L4", total_bytes=22 * GIB, others_bytes=12 * GIB),
                ),
            ),
            ["warning", "ok", "error", "warning"],
        ),
    ],
    ids=lambda value: str(value.state) if isinstance(value, Inventory) else "",
)
def test_gpus(inventory: Inventory, states: list[str]) -> None:
    """The driver has a line, each GPU has one, and what is not ok has a fix."""
    findings = list(doctor_machine.gpus(inventory))
    assert [finding.state for finding in findings] == states
    assert [bool(finding.fix) for finding in findings] == [state != "ok" for state in states]


def test_a_port_that_somebody_has() -> None:
    """A port in use is an error, unless the server of this store has it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        taken = doctor_machine.port("127.0.0.1", number, None)
        assert (taken.state, str(number) in taken.fix) == ("error", True)
        assert doctor_machine.port("127.0.0.1", number, f"http://127.0.0.1:{number}").state == "ok"
    assert doctor_machine.port("127.0.0.1", number, None).state == "ok"
    assert doctor_machine.port("192.0.2.1", 0, None).state == "ok"
    assert doctor_machine.port("192.0.2.1", 8748, None).state == "error"


def test_room_on_a_disk(tmp_path: Path) -> None:
    """A folder that is not there yet lies on its parent's disk."""
    folder = tmp_path / "not" / "yet"
    assert doctor_machine.disk("models", folder, 1, "Make room.").state == "ok"
    full = doctor_machine.disk("models", folder, 1 << 60, "Make room.")
    assert (full.state, full.fix, str(folder) in full.detail) == ("warning", "Make room.", True)


def test_shared_memory(tmp_path: Path) -> None:
    """A machine without any is broken; a disk of some GiB is room enough."""
    assert doctor_machine.shared_memory(tmp_path).state == "ok"
    assert doctor_machine.shared_memory(tmp_path / "none").state == "error"


@pytest.mark.parametrize(
    ("kind", "state"),
    [("ext4", "ok"), ("nfs4", "error"), ("cifs", "error"), ("9p", "error"), ("overlay", "ok")],
)
def test_a_store_on_a_network_file_system(tmp_path: Path, kind: str, state: str) -> None:
    """The innermost mount decides, and of two on one place the later."""
    place = tmp_path / "data"
    table = (
        f"none / nfs4 rw\nnone {tmp_path} ext2 rw\n"
        f"server:/x {tmp_path} {kind} rw 0 0\nnone /elsewhere nfs rw\n"
    )
    root = mounts(tmp_path, table)
    found = doctor_machine.store_place(place / "trivet.db", root)
    assert doctor_machine.file_system(place, root) == kind
    assert (found.state == "error") == (state == "error")


def test_a_mount_with_a_space_and_a_machine_without_proc(tmp_path: Path) -> None:
    """The kernel writes a space as \\040."""
    assert doctor_machine.file_system(tmp_path, tmp_path) is None
    root = mounts(tmp_path, "none / ext4 rw\nnone /mnt/my\\040disk xfs rw\n")
    assert doctor_machine.file_system(Path("/mnt/my disk/x"), root) == "xfs"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (".ollama/models", ".cache/huggingface/hub")),
        ({"OLLAMA_MODELS": "/m", "HF_HOME": "/h"}, ("/m", "/h/hub")),
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, (".ollama/models", "/c")),
        ({"XDG_CACHE_HOME": "/x"}, (".ollama/models", "/x/huggingface/hub")),
    ],
)
def test_where_models_go(tmp_path: Path, environment: dict[str, str], expected: tuple[str, str]) -> None:
    """Each program's own variables count."""
    found = doctor_machine.model_folders(environment, tmp_path)
    assert found == tuple(tmp_path / place for place in expected)


def test_a_shared_store_is_asked(postgres_url: str) -> None:
    """A server that does not wait for its disk is warned of, one that is not there is an error."""
    careless = doctor_machine.shared_store(postgres_url)
    assert (careless.state, "disk" in careless.detail) == ("warning", True)
    gone = doctor_machine.shared_store("postgresql://user:hunter2@127.0.0.1:1/nothing")
    assert gone.state == "error"
    assert "hunter2" not in f"{gone.detail} {gone.fix}"


def test_redis_is_asked() -> None:
    """One that answers tells its version; one that does not is a warning, without the password."""
    with ScratchRedis(password="hunter2") as server:
        found = doctor_machine.redis(server.url, 2.0)
        assert (found.state, found.detail.startswith("Redis ")) == ("ok", True)
        wrong = doctor_machine.redis(server.url.replace("hunter2", "hunter3"), 2.0)
    gone = doctor_machine.redis(server.url, 0.5)
    for finding in (wrong, gone):
        assert finding.state == "warning"
        assert "hunter" not in f"{finding.detail} {finding.fix}"
