"""The embedded engine as a program: how it starts, refuses and ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import xllamacpp

from tests.contract.calls import deployment_of
from tests.doubles.programs import free_port
from trivet.config.settings import LaunchSettings
from trivet.engines.llamacpp import server_command
from trivet.engines.llamacpp_server import EXIT_MODEL_UNUSABLE, EXIT_NO_GPU, EXIT_WHEEL_MISSING

SERVER = [sys.executable, "-m", "trivet.engines.llamacpp_server"]


def test_command(tmp_path: Path) -> None:
    """The command is the program with the deployment's context per slot, slots and threads."""
    deployment = deployment_of(None, "tiny", engine="llamacpp")
    command = server_command(
        deployment, LaunchSettings(path=tmp_path / "m.gguf", threads=2, gpu_layers=3), 1234
    )
    assert command == [
        *SERVER,
        *("--model", str(tmp_path / "m.gguf"), "--port", "1234", "--alias", "tiny"),
        *("--context", "2048", "--slots", "4", "--threads", "2", "--gpu-layers", "3"),
    ]


@contextlib.contextmanager
def listening(model: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program until it says that it listens."""
    command = [*SERVER, "--port", str(free_port()), "--model", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"listening on http://127.0.0.1:")
        yield process


def test_terminate(tiny_models: dict[str, Path]) -> None:
    """SIGTERM ends it with code 0."""
    with listening(tiny_models["light"]) as process:
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_lifeline(tiny_models: dict[str, Path]) -> None:
    """It ends by itself when its standard input does: when the parent is gone, however it went."""
    with listening(tiny_models["light"]) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_lifeline_while_loading(tiny_models: dict[str, Path]) -> None:
    """The end of its standard input ends it at any moment, be it ready or not."""
    command = [*SERVER, "--port", str(free_port()), "--model", str(tiny_models["heavy"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        time.sleep(0.2)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) in (0, -signal.SIGIO)


def test_parent_killed(tiny_models: dict[str, Path]) -> None:
    """After a kill -9 of its parent no engine is left."""
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [*SERVER, "--model", str(tiny_models["light"]), "--port", str(free_port())]
    # The engine keeps this pipe open as long as it lives, so reading its end proves that it is gone.
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=writing
    ) as parent:
        os.close(writing)
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        parent.kill()
    with os.fdopen(reading, "rb") as pipe:
        pipe.read()


def refused(model: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the program with its lifeline held until it ends; return its exit code and its own words.

    llama.cpp writes to the same stream from a thread of its own, so its lines may stand before or after.
    """
    with subprocess.Popen(
        [*SERVER, "--port", str(free_port()), "--model", str(model), *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    ) as process:
        assert process.stderr is not None
        words = process.stderr.read().decode()
        own = [line for line in words.splitlines() if line.startswith("llamacpp_server: ")]
        return process.wait(timeout=60), "\n".join(own)


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"GGUF" + b"\xff" * 100])
def test_model_that_cannot_be_loaded(tmp_path: Path, content: bytes | None) -> None:
    """A missing or broken model file is named, with exit code 4."""
    model = tmp_path / "model.gguf"
    if content is not None:
        model.write_bytes(content)
    code, words = refused(model)
    assert (code, str(model) in words) == (EXIT_MODEL_UNUSABLE, True)


def test_wheel_missing(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """Without the wheel it says which extra to install, with exit code 3."""
    # A package of that name that cannot be imported stands before the real one on the path.
    (tmp_path / "xllamacpp.py").write_text("raise ImportError\n")
    code, words = refused(tiny_models["light"], PYTHONPATH=str(tmp_path))
    assert (code, "trivet[llamacpp]" in words) == (EXIT_WHEEL_MISSING, True)


def test_layers_for_a_gpu_that_is_not_there(tiny_models: dict[str, Path]) -> None:
    """Layers that are to go on a GPU do not go on the CPU in silence: its time would count as the GPU's."""
    if any("GPU" in device["type"].name for device in xllamacpp.get_device_info()):
        pytest.skip("this llama.cpp has a GPU")
    code, words = refused(tiny_models["light"], "--gpu-layers", "3")
    assert (code, "gpu_layers" in words) == (EXIT_NO_GPU, True)
