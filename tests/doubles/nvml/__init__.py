"""A fake NVML, written in C, that the real pynvml loads; compiled when a test first needs it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1024**3
SOURCE = Path(__file__).with_name("nvml.c")
_ASK = """
import json, os, pathlib, sys
from trivet.gpu import discover
arguments = {**json.loads(sys.argv[1]), "root": pathlib.Path(sys.argv[2])}
for scenario in sys.argv[3:]:
    os.environ["FAKE_NVML"] = scenario
    print(json.dumps(discover(**arguments).as_json()))
"""


def compile_nvml(folder: Path, *, old: bool = False) -> Path:
    """Compile the library into a folder and return the folder, for LD_LIBRARY_PATH.

    Args:
        folder: made if it is not there.
        old: leave out what drivers before R510 do not have.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "These tests compile a small C file: install a C compiler (gcc) on this machine."
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    flags = [
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Wl,-soname,libnvidia-ml.so.1",
        *(["-DOLD"] if old else []),
    ]
    done = subprocess.run([compiler, *flags, "-o", library, SOURCE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def gpu(number: int, name: str, total_gib: float, **facts: Any) -> str:
    """Return the lines of one GPU: number 1 has UUID `GPU-00000001-...` and bus 1; facts are nvml.c's.

    A list gives a fact several times.
    """
    ordinary = {"uuid": uuid(number), "bus": number, "name": name, "total": round(total_gib * GIB)}
    return "gpu\n" + _lines(ordinary | facts)


def mig(number: int, name: str, total_gib: float, **facts: Any) -> str:
    """Return the lines of a MIG instance of the GPU before it."""
    ordinary = {"uuid": uuid(number, "MIG"), "name": name, "total": round(total_gib * GIB)}
    return "mig\n" + _lines(ordinary | facts)


def uuid(number: int, kind: str = "GPU") -> str:
    """Return the UUID that `gpu` and `mig` give."""
    return f"{kind}-{number:08d}-aaaa-bbbb-cccc-dddddddddddd"


def _lines(facts: Mapping[str, Any]) -> str:
    return "".join(
        f"{name} {value}\n"
        for name, given in facts.items()
        for value in (given if isinstance(given, list) else [given])
    )


@dataclass(frozen=True, slots=True)
class FakeMachine:
    """A machine with the fake library, whose scenario a test chooses."""

    library: Path
    folder: Path
    """Where the scenario is written."""

    def environment(self, scenario: str, **variables: str) -> dict[str, str]:
        """Return the environment of a process that meets this scenario."""
        path = self.folder / "scenario.txt"
        path.write_text(scenario, errors="surrogateescape")
        clean = {name: value for name, value in os.environ.items() if "VISIBLE_DEVICES" not in name}
        return clean | {"LD_LIBRARY_PATH": str(self.library), "FAKE_NVML": str(path)} | variables

    def discover(
        self,
        scenario: str,
        *,
        root: Path = Path("/"),
        arguments: Mapping[str, Any] | None = None,
        **variables: str,
    ) -> dict[str, Any]:
        """Return what `discover` finds in a process of its own, as JSON.

        Args:
            scenario: what nvml.c shall answer.
            root: the tree that holds proc and sys.
            arguments: further ones of `discover`.
            variables: the process's environment, CUDA_VISIBLE_DEVICES and such.
        """
        (found,) = self.discover_each([scenario], root=root, arguments=arguments, **variables)
        return found

    def discover_each(
        self,
        scenarios: Sequence[str],
        *,
        root: Path = Path("/"),
        arguments: Mapping[str, Any] | None = None,
        **variables: str,
    ) -> list[dict[str, Any]]:
        """Return what `discover` finds in each of several scenarios, one after the other in one process."""
        paths = [self.folder / f"scenario-{number}.txt" for number in range(len(scenarios))]
        for path, scenario in zip(paths, scenarios, strict=True):
            path.write_text(scenario, errors="surrogateescape")
        done = subprocess.run(
            [sys.executable, "-c", _ASK, json.dumps(arguments or {}), str(root), *map(str, paths)],
            capture_output=True,
            text=True,
            env=self.environment("", **variables),
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return [json.loads(line) for line in done.stdout.splitlines()]
