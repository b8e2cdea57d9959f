"""A real vLLM server on the CPU, as a child process in a process group of its own."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

MODEL = "tiny"
START_TIMEOUT_S = 240.0
QUEUE_LIMIT = 6
"""Requests that the server accepts at once, running and waiting together."""

VENV_PYTHON = Path(__file__).resolve().parents[2] / ".venv-vllm" / "bin" / "python"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class VllmServer:
    """A started server; `wait_ready` before use, `stop` always."""

    url: str
    """Base URL without `/v1` and without a trailing slash."""
    model: str
    context_tokens: int
    process: subprocess.Popen[bytes]
    client: httpx.Client
    """For the server's own routes; one client, because each new one costs more than what it asks."""
    log: Path

    def wait_ready(self) -> None:
        """Return when `/health` answers 200, and a first request has been answered.

        vLLM 0.32 on a CPU dies in bfloat16 if the first prompt that it ever sees is a single token; the same
        prompt later is answered.

        Raises:
            RuntimeError: the process ended or time ran out; the log's last lines are in the message.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < give_up:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/health").status_code == 200:
                    self._warm_up()
                    return
            time.sleep(0.25)
        lines = self.log.read_text(errors="replace").splitlines()[-40:]
        raise RuntimeError("vLLM did not get healthy; its last words:\n" + "\n".join(lines))

    def _warm_up(self) -> None:
        body = {"model": self.model, "prompt": "a prompt of several tokens", "max_tokens": 1}
        self.client.post("/v1/completions", json=body, timeout=60).raise_for_status()

    def counter(self, name: str, **labels: str) -> float:
        """Return the sum of a counter or gauge of `/metrics` over the series that carry these labels."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            series = re.fullmatch(r"(?P<name>[^{ #]+)(\{(?P<labels>.*)\})? (?P<value>\S+)", line)
            if series is None or series["name"] != name:
                continue
            if all(f'{key}="{value}"' in (series["labels"] or "") for key, value in labels.items()):
                total += float(series["value"])
        return total

    def unfinished(self) -> int:
        """Return how many requests run or wait, as the engine last said."""
        return int(self.counter("vllm:num_requests_running") + self.counter("vllm:num_requests_waiting"))

    def wait_idle(self) -> None:
        """Return when no request runs or waits.

        Raises:
            RuntimeError: there is still work after 30 s.
        """
        if not wait_until(lambda: self.unfinished() == 0, timeout_s=30):
            raise RuntimeError("vLLM still has work after 30 s")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the engine's scheduler inside the block: requests are accepted and stay unfinished."""
        self.client.post("/pause", params={"mode": "keep"}).raise_for_status()
        try:
            yield
        finally:
            self.client.post("/resume").raise_for_status()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the API process inside the block: what is sent meanwhile is read at once when it goes on."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill_engine(self) -> None:
        """Kill the engine process as the kernel's out-of-memory killer would; the API process lives on."""
        engines = [pid for pid, name in group_members(self.process.pid) if name.startswith("VLLM::EngineCor")]
        if len(engines) != 1:
            raise RuntimeError(f"expected one engine process, found {engines}")
        os.kill(engines[0], signal.SIGKILL)

    def stop(self) -> None:
        """End the whole process group: politely, then by force. A server killed alone leaves its engine."""
        self.client.close()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        if not wait_until(lambda: not group_members(self.process.pid), timeout_s=10):
            raise RuntimeError(f"processes outlived their server: {group_members(self.process.pid)}")


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Return True as soon as a condition holds, False when it does not within the time."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def group_members(group: int) -> list[tuple[int, str]]:
    """Return pid and name of each live process of a process group."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name stands in parentheses and may contain blanks; state, parent and group follow it.
            head, _, tail = entry.read_text().rpartition(")")
            state, _, its_group = tail.split()[:3]
            if int(its_group) == group and state not in "ZX":
                members.append((int(entry.parent.name), head.partition("(")[2]))
    return members


def launch(model: Path, home: Path, *, context_tokens: int, arguments: tuple[str, ...] = ()) -> VllmServer:
    """Start a server for a model directory without waiting for it.

    Args:
        model: directory that `tiny_qwen2.write_model` wrote.
        home: an existing directory for the server's caches and its log.
        context_tokens: its `--max-model-len`.
        arguments: further command line arguments.
    """
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Brings the routes that pause and resume.
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # One process and some seconds of start-up less; an engine process still exists.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # The first request for log-probabilities would compile C++ for ten seconds, and need a compiler.
        "TORCHDYNAMO_DISABLE": "1",
    }
    command = [
        *(str(VENV_PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", MODEL),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(context_tokens)),
        *("--max-num-seqs", "4", "--max-num-queued-reqs", str(QUEUE_LIMIT)),
        *("--enforce-eager", "--dtype", "bfloat16", "--distributed-executor-backend", "uni"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *arguments,
    ]
    if setpriv := shutil.which("setpriv"):
        # A test run that is killed cannot tear down; then the kernel ends the server.
        command = [setpriv, "--pdeathsig", "TERM", *command]
    log = home / f"vllm-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, timeout=10, trust_env=False)
    return VllmServer(url, MODEL, context_tokens, process, client, log)
