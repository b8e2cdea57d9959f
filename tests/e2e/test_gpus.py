"""`trivet gpus` on machines that a fake NVML makes up."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.nvml import GIB, FakeMachine, compile_nvml, gpu, uuid


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> FakeMachine:
    """Give a machine whose NVML answers what the test says."""
    folder = tmp_path_factory.mktemp("gpus")
    return FakeMachine(compile_nvml(folder / "library"), folder)


def trivet(machine: FakeMachine, scenario: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the machine."""
    return subprocess.run(
        [sys.executable, "-m", "trivet", *arguments],
        capture_output=True,
        text=True,
        env=machine.environment(scenario, TRIVET_STORE__PATH=str(machine.folder / "none.db")),
        timeout=60,
    )


TWO = gpu(
    1, "NVIDIA RTX A6000", 47.5, used=12 * GIB, capability="8.6", link=[2], p2p=1, power_mw=71_000
) + gpu(2, "NVIDIA RTX A6000", 47.5, capability="8.6", link=[1], p2p=1, fail_memory=4)


def test_the_table(machine: FakeMachine) -> None:
    """People read memory, links, state and, below, the reason of what is not ok."""
    done = trivet(machine, TWO, "gpus")
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stdout.splitlines() if "A6000" in line)
    assert "12.0 / 47.5" in first
    assert "71 W" in first
    assert f"{uuid(1)[:12]}…" in first
    assert "Host: " in done.stdout
    assert "gpu 1: The driver does not let this user see it." in done.stderr


def test_the_json(machine: FakeMachine) -> None:
    """Programs get the inventory."""
    done = trivet(machine, TWO, "gpus", "--json")
    found = json.loads(done.stdout)
    assert set(found) == {"state", "reason", "driver_version", "measured", "host", "gpus"}
    assert [(card["uuid"], card["state"]) for card in found["gpus"]] == [
        (uuid(1), "ok"),
        (uuid(2), "no_permission"),
    ]


def test_a_broken_driver_is_an_exit_status(machine: FakeMachine) -> None:
    """A script notices, and a person reads what to do."""
    done = trivet(machine, "fail_init 18\n", "gpus")
    assert (done.returncode, "reboot" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_a_broken_configuration_is_no_matter(machine: FakeMachine, tmp_path: Path) -> None:
    """To look at the GPUs no configuration is needed, so none can be in the way."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("server:\n  prot: 9\n")
    assert trivet(machine, TWO, "gpus", "--config", str(broken)).returncode == 0


def test_watching(machine: FakeMachine) -> None:
    """It shows the machine again and again, with --json an object a line, and ends with Ctrl-C."""
    with subprocess.Popen(
        [sys.executable, "-m", "trivet", "gpus", "--watch", "0.1", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=machine.environment(TWO, TRIVET_STORE__PATH=str(machine.folder / "none.db")),
    ) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert [len(inventory["gpus"]) for inventory in seen] == [2, 2]
