"""The programs that are measured, each in a process of its own on one processor, all open at once."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from tests.doubles.programs import free_port
from tests.proofs.overhead.load import Goal
from tests.proofs.servers import COMPLEXITY, PEPPER, TIERS, WEIGHTS
from trivet.access import Keyring
from trivet.app import open_trivet
from trivet.config.settings import Settings
from trivet.domain.budgets import LimitKind
from trivet.domain.clock import SystemClock
from trivet.domain.scopes import Scope
from trivet.storage.database import Database

ROOT = Path(__file__).parents[3]
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
SCOPES = ("bench", "bench.team", "bench.team.user")
WINDOWS: tuple[LimitKind, ...] = ("daily", "monthly")
PLENTY = 10**15
START_TIMEOUT_S = 90.0
_LITELLM_KEY = "sk-bench"


class Cores:
    """Which processors the servers get, and which the load and the engine."""

    def __init__(self) -> None:
        """Split what this process may use; where there is only one, all share it."""
        self._all = sorted(os.sched_getaffinity(0))
        self.pinned = len(self._all) > 1

    @contextlib.contextmanager
    def of_servers(self) -> Iterator[None]:
        """Start servers here: a process keeps what it is started with."""
        os.sched_setaffinity(0, self._all[:1])
        try:
            yield
        finally:
            self.of_load()

    def of_load(self) -> None:
        """Move this process, and what it starts from now on, away from the servers."""
        os.sched_setaffinity(0, self._all[1:] or self._all)

    def release(self) -> None:
        """Give this process all its processors back."""
        os.sched_setaffinity(0, self._all)


class Programs:
    """Started programs; a context manager that ends them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def start(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        ready: str,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[str, int]:
        """Start a program on a free port and wait until it answers.

        Args:
            name: of its log.
            command: makes the command line of a port.
            ready: the path that answers 200 when it is ready.
            environment: variables besides this process's own.

        Returns:
            Its URL and process id.

        Raises:
            RuntimeError: it ended or did not become ready; the message is the end of its log.
        """
        port = free_port()
        path = self._logs / f"{name}.log"
        log = self._exits.enter_context(path.open("ab"))
        process = subprocess.Popen(
            [*command(port)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**_clean_environment(), **(environment or {})},
        )
        self._exits.callback(_stop, process)
        url = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + START_TIMEOUT_S
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{name} did not start: {path.read_text()[-2000:]}")
            time.sleep(0.05)
        return url, process.pid


def start_upstream(programs: Programs, *, gap_ms: float) -> Goal:
    """Start the engine."""
    url, pid = programs.start(
        "upstream",
        lambda port: _module("tests.proofs.overhead.upstream", "--port", str(port), "--gap-ms", str(gap_ms)),
        ready="/v1/models",
    )
    return Goal(url=url, pid=pid)


def start_relay(programs: Programs, upstream: str) -> Goal:
    """Start the bare relay."""
    url, pid = programs.start(
        "relay",
        lambda port: _module("tests.proofs.overhead.bare_relay", "--port", str(port), "--upstream", upstream),
        ready="/v1/models",
    )
    return Goal(url=url, pid=pid)


def start_trivet(
    programs: Programs, upstream: str, directory: Path, *, name: str = "trivet", wrapped: Sequence[str] = ()
) -> Goal:
    """Start Trivet with all that it does: a key, three tiers to choose from, three scopes with two limits
    each, a durable ledger, usage records, metrics, its log.

    Args:
        programs: where it is started.
        upstream: the engine.
        directory: where the store is made.
        name: of its configuration, its store and its log.
        wrapped: what stands before `serve` in the command line instead of `python -m trivet`.
    """
    config = directory / f"{name}.yaml"
    tree = _trivet_tree(upstream, directory / name / "trivet.db")
    config.write_text(yaml.safe_dump(tree))
    settings = Settings.model_validate(tree)
    asyncio.run(_limit(settings))
    with contextlib.closing(Database.open(settings.store.path)) as database:
        keyring = Keyring(database, settings.access, settings.store.path, SystemClock())
        key, _ = keyring.create(Scope(SCOPES[-1]), label="bench")
    command = wrapped or _module("trivet")
    url, pid = programs.start(
        name,
        lambda port: [*command, "serve", "--config", str(config), "--port", str(port)],
        ready="/readyz",
    )
    return Goal(url=url, key=key, model="auto", pid=pid)


def start_litellm(programs: Programs, upstream: str, directory: Path) -> Goal:
    """Start the LiteLLM proxy with a key and one model; no database, no budgets, its production settings."""
    config = directory / "litellm.yaml"
    model = {"model": "openai/mock", "api_base": f"{upstream}/v1", "api_key": "none"}
    tree = {
        "model_list": [{"model_name": "mock", "litellm_params": model}],
        "litellm_settings": {"telemetry": False, "set_verbose": False, "num_retries": 0},
        "general_settings": {"master_key": _LITELLM_KEY},
    }
    config.write_text(yaml.safe_dump(tree))
    url, pid = programs.start(
        "litellm",
        lambda port: [
            *(str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1"),
        ],
        ready="/health/liveliness",
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "DISABLE_ADMIN_UI": "True",
        },
    )
    return Goal(url=url, key=_LITELLM_KEY, pid=pid)


def _trivet_tree(upstream: str, store: Path) -> dict[str, object]:
    """Return the configuration; the store is a file, which is flushed to the disk at each commit (FULL)."""
    deployment = {"url": f"{upstream}/v1", "context_tokens": 8192, "slots": 1024}
    tiers = [
        {
            "name": tier,
            "cost_weight": WEIGHTS[tier],
            "complexity": list(COMPLEXITY[tier]),
            "max_output_tokens": 512,
            "deployments": [
                {"model": "openai/mock", "name": f"{tier}-mock", "devices": ["host"], **deployment}
            ],
        }
        for tier in TIERS
    ]
    return {"store": {"path": str(store)}, "access": {"pepper": PEPPER}, "tiers": tiers}


async def _limit(settings: Settings) -> None:
    async with open_trivet(settings, with_engines=False) as trivet:
        for scope in SCOPES:
            for window in WINDOWS:
                await asyncio.wrap_future(
                    trivet.ledger.set_limit(Scope(scope), window, PLENTY, author="bench")
                )


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRIVET_", "MODEL_", "TOKEN_", "LITELLM_"))
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            answer.read()
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
