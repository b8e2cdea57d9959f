"""One engine process that Trivet launched.

The child holds the read end of a pipe on its standard input and exits at end-of-file, so it cannot
outlive Trivet, not even a kill -9 of it: the kernel closes the write end with the process.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Sequence

STOP_GRACE_S = 5.0
LOG_LINES_KEPT = 40
LAST_WORDS_WAIT_S = 1.0


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """A running engine process with the last lines that it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._reader = asyncio.create_task(self._read(), name=f"engine-log-{process.pid}")

    @classmethod
    async def start(cls, command: Sequence[str]) -> "Child":
        """Start the command in its own process group, with the lifeline on its standard input."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Return the exit status once the process has ended and its last words are read."""
        status = await self._process.wait()
        # Bounded, because a process that the engine started may still hold the other end.
        await asyncio.wait({self._reader}, timeout=LAST_WORDS_WAIT_S)
        return status

    def last_words(self) -> str:
        """Return the last line that says something, for an operator's eyes."""
        return next((line for line in reversed(self._lines) if line), "")

    async def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL to its whole group. Idempotent."""
        if self.alive:
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_GRACE_S)
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._reader

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - asked for with PIPE above
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the reader's limit: drop it and go on
                continue
            if not line:
                return
            self._lines.append(line.decode("utf-8", "replace").strip()[:300])
