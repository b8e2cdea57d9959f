"""Start real programs for tests on free loopback ports, and end them for certain."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 60.0


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Program:
    """A started HTTP server program; its standard input is a pipe whose end tells it to end."""

    url: str
    """Base URL without a trailing slash."""
    process: subprocess.Popen[bytes]

    def wait_ready(self, path: str) -> None:
        """Return when GET `path` answers 200.

        Raises:
            RuntimeError: the process ended, or time ran out.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args!r} ended with code {self.process.returncode}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                if urllib.request.urlopen(self.url + path, timeout=5).status == 200:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self.process.args!r} did not become ready")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, whatever its state; idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@dataclass(slots=True)
class Programs:
    """Everything one session has started."""

    started: list[Program] = field(default_factory=list)

    def start(self, module: str, *arguments: str, port: int | None = None, ready: str = "/health") -> Program:
        """Run `python -m module ... --port N` and return once the path `ready` answers 200.

        Raises:
            RuntimeError: it did not start.
        """
        port = port or free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        program = Program(url=f"http://127.0.0.1:{port}", process=process)
        self.started.append(program)
        program.wait_ready(ready)
        return program

    def start_llama(
        self,
        model: Path,
        *,
        alias: str | None = None,
        context_tokens: int = 2048,
        slots: int = 4,
        port: int | None = None,
        vectors: bool = False,
    ) -> Program:
        """Start a real llama.cpp server on a GGUF file, served as `alias`, by default the file's stem."""
        return self.start(
            "trivet.engines.llamacpp_server",
            *("--model", str(model), "--alias", alias or model.stem),
            *("--context", str(context_tokens), "--slots", str(slots)),
            *(("--embeddings", "--pooling", "mean") if vectors else ()),
            port=port,
        )

    def start_fault_server(self, *, port: int | None = None) -> Program:
        """Start the server that misbehaves as its callers ask."""
        return self.start("tests.doubles.fault_server", port=port)

    def stop(self) -> None:
        """End all of them; idempotent."""
        for program in self.started:
            program.stop()
        self.started.clear()
