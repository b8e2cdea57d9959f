"""The guardian: what it starts, and that nothing of it is left, however its own end comes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trivet.fleet import guardian
from trivet.fleet.child import Starting
from trivet.fleet.processes import Process

PATIENCE_S = 20.0
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"
"""An engine that does not end when told to."""
SCATTERED = "setsid sleep 600 & sleep 600 & echo up $! ; wait"
"""An engine with a child in its group and another in a session of its own."""


@contextmanager
def guarded(
    log: Path, script: str, *, on_exit: str = "stop", grace_s: float = 10.0
) -> Iterator[tuple["subprocess.Popen[bytes]", Process]]:
    """Guard a shell script; give the guardian and the script's process."""
    with subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", guardian.__file__),
            *("--on-exit", on_exit, "--grace", str(grace_s), "--log", str(log), "--", "bash", "-c", script),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        pid = int(process.stdout.readline())
        engine = Process.of(pid) or Process(pid, 0)  # it may be dead already
        try:
            yield process, engine
        finally:
            if engine.alive:
                os.killpg(engine.pid, signal.SIGKILL)
            process.kill()


def until_said(log: Path, words: str) -> str:
    """Return the log once the words stand in it."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        if log.exists() and words in (text := log.read_text()):
            return text
        time.sleep(0.01)
    raise AssertionError(f"{words!r} is not in {log.read_text() if log.exists() else 'a missing file'}")


def running_below(session_of: Process) -> list[int]:
    """Return what still runs of a script: by its words, whatever its session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TRIVET_TEST_SESSION={session_of.pid}\0".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def until_scattered(engine: Process) -> None:
    """Wait until both children of the script run their programs."""
    give_up = time.monotonic() + PATIENCE_S
    while len(running_below(engine)) < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert len(running_below(engine)) == 2


def tagged(script: str) -> str:
    """Mark all that a script starts with its process id, which its descendants inherit."""
    return f"export TRIVET_TEST_SESSION=$$; {script}"


def test_the_engines_end_is_the_guardians(tmp_path: Path) -> None:
    """Its output is in a private log, its status is the guardian's, its standard input is a pipe."""
    log = tmp_path / "engine.log"
    with guarded(log, "[ -p /dev/stdin ] && echo piped; echo oops >&2; exit 7") as (process, _):
        assert process.wait(PATIENCE_S) == 7
    text = log.read_text()
    assert "piped\noops\n" in text
    assert text.splitlines()[-1].endswith("the engine has ended with status 7")
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_signal_that_ends_the_engine_is_told(tmp_path: Path) -> None:
    """A crash of the engine is 128 and the signal's number."""
    with guarded(tmp_path / "log", "kill -SEGV $$") as (process, _):
        assert process.wait(PATIENCE_S) == 128 + signal.SIGSEGV


@pytest.mark.parametrize("way", ["lifeline", "terminate"])
def test_told_to_end_it_leaves_nothing(tmp_path: Path, way: str) -> None:
    """When Trivet is gone, or says so, the engine ends with all it started, in whatever session."""
    with guarded(tmp_path / "log", tagged(SCATTERED)) as (process, engine):
        until_scattered(engine)
        assert process.stdin is not None
        process.stdin.close() if way == "lifeline" else process.terminate()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
        assert running_below(engine) == []


def test_an_engine_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    """After the grace comes SIGKILL."""
    with guarded(tmp_path / "log", STUBBORN, grace_s=0.3) as (process, engine):
        until_said(tmp_path / "log", "up")
        process.terminate()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGKILL
        assert not engine.alive


def test_an_engine_that_dies_leaves_no_orphan(tmp_path: Path) -> None:
    """kill -9 of the leader: its group and whoever left it are killed too."""
    with guarded(tmp_path / "log", tagged(SCATTERED)) as (process, engine):
        until_scattered(engine)
        os.kill(engine.pid, signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGKILL
        assert running_below(engine) == []


def test_a_kept_engine_outlives_the_lifeline_but_not_the_word(tmp_path: Path) -> None:
    """With `keep` the end of the lifeline means nothing; SIGTERM still ends the engine."""
    log = tmp_path / "log"
    script = "echo up; trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; echo tick; done"
    with guarded(log, script, on_exit="keep") as (process, engine):
        until_said(log, "up")
        assert process.stdin is not None
        process.stdin.close()
        ticks = log.read_text().count("tick")
        until_said(log, "tick\n" * (ticks + 3))
        assert engine.alive
        process.terminate()
        assert process.wait(PATIENCE_S) == 3
    assert "bye" in log.read_text()


def test_a_guardian_that_is_killed_takes_its_engine_along(tmp_path: Path) -> None:
    """The kernel tells the engine."""
    with guarded(tmp_path / "log", "echo up; exec sleep 600") as (process, engine):
        until_said(tmp_path / "log", "up")
        process.kill()
        process.wait(PATIENCE_S)
        give_up = time.monotonic() + PATIENCE_S
        while engine.alive and time.monotonic() < give_up:
            time.sleep(0.01)
        assert not engine.alive


def test_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    """A command that does not exist is status 127 and a sentence."""
    command = [*(sys.executable, "-I", "-S", guardian.__file__), "--on-exit", "keep", "--grace", "1"]
    command += ["--log", str(tmp_path / "log"), "--", "/nowhere/vllm", "serve"]
    done = subprocess.run(command, input=b"go\n", timeout=PATIENCE_S, capture_output=True)
    assert done.returncode == guardian.EXIT_CANNOT_RUN
    assert "cannot run /nowhere/vllm: No such file or directory" in (tmp_path / "log").read_text()


def test_nothing_is_started_before_the_word(tmp_path: Path) -> None:
    """A Trivet that dies before it has written the engine down starts none."""
    command = [*(sys.executable, "-I", "-S", guardian.__file__), "--on-exit", "keep", "--grace", "1"]
    command += ["--log", str(tmp_path / "log"), "--", "touch", str(tmp_path / "started")]
    assert subprocess.run(command, input=b"", timeout=PATIENCE_S).returncode == 0
    assert not (tmp_path / "started").exists()


def test_logs_are_bounded(tmp_path: Path) -> None:
    """A full log is rolled over; three files are kept, and each start begins a new one."""
    log = tmp_path / "log"
    script = f"head -c {guardian.LOG_BYTES_MAX * 4} /dev/zero | tr '\\0' x"
    for _ in range(2):
        with guarded(log, script) as (process, _engine):
            process.wait(PATIENCE_S)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= guardian.LOG_BYTES_MAX
    assert "ended with status 0" in log.read_text()


async def test_a_start_that_is_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    """Before the guardian was told to go: it has ended, and so have both pipes to it."""
    starting = Starting.prepare(["sleep", "600"], {}, keep=False, log_path=tmp_path / "log")
    await starting.give_up()
    assert not starting.guardian.alive
    assert [pipe is None or pipe.closed for pipe in (starting._started.stdin, starting._started.stdout)] == [
        True,
        True,
    ]
