"""The `trivet` command, run many times: each run is a fork of a process that has loaded the program already.

Loading takes a second of CPU and most commands a tenth of that. A fork is a process like any other, with its
own environment, files and exit status. That the program loads as it should is told by others, which start it.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

LOADED = (
    *("trivet.cli.main", "trivet.cli.session", "trivet.app", "trivet.sdk.client"),
    *("alembic.command", "httpcore", __name__),
)


def run_command(
    arguments: Sequence[str], environ: Mapping[str, str], *, timeout_s: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """Run `trivet` with these arguments and exactly this environment; return what it did.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(LOADED))
    with tempfile.TemporaryDirectory() as name:
        output, errors = Path(name, "stdout"), Path(name, "stderr")
        process = forks.Process(target=_become, args=(list(arguments), dict(environ), output, errors))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["trivet", *arguments], timeout_s)
        return subprocess.CompletedProcess(
            ["trivet", *arguments], process.exitcode, output.read_text(), errors.read_text()
        )


def _become(arguments: list[str], environ: dict[str, str], output: Path, errors: Path) -> None:
    from trivet.cli.main import run

    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, output, os.O_WRONLY | os.O_CREAT),
        (2, errors, os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["trivet", *arguments]
    run()
