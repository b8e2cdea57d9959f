"""One engine process that Trivet launched, under its guardian.

Trivet talks to the guardian only: it ends the engine when told to, and when Trivet is gone unless the engine
is to be kept. An engine that was kept is adopted by the next Trivet, which is not its parent and so waits for
its end by other means; all else is the same.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from trivet.domain.errors import EngineUnavailable
from trivet.engines.last_words import cause, last_words
from trivet.fleet import guardian
from trivet.fleet.processes import Process, kill_group, running_as
from trivet.fleet.records import LOGS_DIRECTORY, EngineRecord

GRACE_S = 6.0
"""How long an engine may take to end when told to, before it is killed."""
STOP_TIMEOUT_S = GRACE_S + guardian.KILL_WAIT_S + 1.0
"""A guardian that takes longer is itself at fault. Below ten seconds, all in all."""
ANSWER_TIMEOUT_S = 30.0
"""Of a guardian, which takes some 30 ms."""
TAIL_BYTES = 65536
_END_NOTE = re.compile(r"\[guardian [^]]*\] the engine has ended with status (\d+)")


def free_port(taken: Collection[int] = ()) -> int:
    """Return a TCP port on loopback that was free a moment ago, and is none of those taken."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def guardians_of(directory: Path) -> list[Process]:
    """Return the guardians whose engines log into a directory's logs, whoever started them."""
    return running_as(Path(guardian.__file__).name, "--log", f"{directory / LOGS_DIRECTORY}{os.sep}")


class Child:
    """A running engine, and the file with what it writes."""

    def __init__(
        self,
        guardian_process: Process,
        engine: Process,
        log_path: Path,
        started: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        self.guardian = guardian_process
        self.engine = engine
        self._log_path = log_path
        self._started = started
        self._ended = asyncio.create_task(self._wait(), name=f"engine-{engine.pid}")

    @classmethod
    def adopt(cls, record: EngineRecord, log_path: Path) -> "Child":
        """Take charge of an engine that an earlier Trivet kept."""
        if record.engine is None:
            raise ValueError("an engine that was never started cannot be adopted")
        return cls(record.guardian, record.engine, log_path)

    @property
    def pid(self) -> int:
        """Return the engine's process id."""
        return self.engine.pid

    @property
    def alive(self) -> bool:
        """Tell whether the engine, or its guardian with the rest of it, still runs."""
        return not self._ended.done()

    async def wait(self) -> int | None:
        """Return the exit status once nothing of it is left: 128 + N after signal N; None if unknown."""
        return await asyncio.shield(self._ended)

    def when_ended(self, told: Callable[[], None]) -> None:
        """Call `told` once nothing of it is left, or it is released."""
        self._ended.add_done_callback(lambda _ended: told())

    def log_text(self) -> str:
        """Return what it wrote since its start; the beginning is missing when it wrote megabytes."""
        try:
            return self._log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def last_words(self) -> str:
        """Return, for an operator's eyes, the last line of a running engine, or why one ended."""
        return last_words(self._tail()) if self.alive else cause(self._tail())

    async def stop(self) -> None:
        """End the engine and all that belongs to it; idempotent."""
        if not self._ended.done():
            self._close_lifeline()
            self.guardian.send(signal.SIGTERM)
            await asyncio.wait({self._ended}, timeout=STOP_TIMEOUT_S)
        if not self._ended.done():
            self.guardian.send(signal.SIGKILL)
            await self._ended

    def release(self) -> None:
        """Leave the engine to its guardian and watch it no longer."""
        self._ended.cancel()
        self._close_lifeline()
        if self._started is not None:
            self._started.returncode = 0  # else it would warn of a process that still runs, as it shall

    def _close_lifeline(self) -> None:
        if self._started is not None and self._started.stdin is not None:
            self._started.stdin.close()

    async def _wait(self) -> int | None:
        await self.guardian.wait()
        # A guardian that was killed has left this to us.
        kill_group(self.engine.pid, self.engine.start_ticks)
        if self._started is not None:
            self._started.wait()
            self._close_lifeline()
        noted = _END_NOTE.findall(self._tail())
        return int(noted[-1]) if noted else None

    def _tail(self) -> str:
        try:
            with self._log_path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


class Starting:
    """A guardian that has not yet started its engine, so that it can be written down before it does."""

    def __init__(self, started: "subprocess.Popen[bytes]", log_path: Path) -> None:
        self._started = started
        self.guardian = Process.of(started.pid) or Process(started.pid, 0)
        self._log_path = log_path

    @classmethod
    def prepare(
        cls, command: Sequence[str], environment: Mapping[str, str | None], *, keep: bool, log_path: Path
    ) -> "Starting":
        """Start a guardian in a session of its own.

        Raises:
            OSError: there is no process, file or memory left for it.
        """
        # Not asyncio's subprocesses: when their loop closes they kill what runs, and it may be kept.
        started = subprocess.Popen(  # noqa: S603 - what the operator configured
            [
                *(sys.executable, "-I", "-S", guardian.__file__),
                *("--on-exit", "keep" if keep else "stop", "--grace", f"{GRACE_S:g}", "--log", str(log_path)),
                *("--", *command),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(environment),
            start_new_session=True,
            bufsize=0,
        )
        return cls(started, log_path)

    async def go(self) -> Child:
        """Let it start the engine.

        Raises:
            EngineUnavailable: the guardian died before it had.
        """
        try:
            told = await asyncio.wait_for(asyncio.to_thread(self._say_go), ANSWER_TIMEOUT_S)
        except TimeoutError:
            told = b""
        if not told.strip().isdigit():
            raise EngineUnavailable("The guardian of the engine died, or did not start it in time.")
        pid = int(told)
        return Child(self.guardian, Process.of(pid) or Process(pid, 0), self._log_path, self._started)

    async def give_up(self) -> None:
        """End the guardian, whatever it has begun."""
        if self._started.stdin is not None:
            self._started.stdin.close()
        self.guardian.send(signal.SIGTERM)
        await asyncio.to_thread(self._started.wait)
        if self._started.stdout is not None:
            self._started.stdout.close()  # nobody has, where it was given up before it was told to go

    def _say_go(self) -> bytes:
        assert self._started.stdin is not None  # noqa: S101 - asked for with PIPE above
        assert self._started.stdout is not None  # noqa: S101
        with self._started.stdout as answer:
            with contextlib.suppress(OSError):
                self._started.stdin.write(b"go\n")
            return answer.readline()


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with the changes, and without what is Trivet's own business."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment
