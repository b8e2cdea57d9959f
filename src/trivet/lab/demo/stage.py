"""The stage: models, a configuration file and a Trivet server in a directory that goes away after it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import yaml

from trivet.domain.errors import ServerUnreachable
from trivet.lab.tiny_models import write_tiny_models
from trivet.storage import StoreLock

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
CONTEXT_TOKENS = 2048
SLOTS = 4
SEED_NAMES = ("MODEL_", "TOKEN_BUDGET_", "TRIVET_", "OLLAMA_", "VLLM_")


@dataclass(frozen=True, slots=True)
class Stage:
    """A running server and the owner's key to it."""

    url: str
    owner_token: str


def write_config(directory: Path, models: dict[str, Path], *, port: int) -> Path:
    """Write a configuration with one launched llama.cpp server per tier."""
    shapes = {"light": (1.0, (0.0, 0.3)), "standard": (3.0, (0.3, 0.7)), "heavy": (10.0, (0.7, 1.0))}
    tiers = [
        {
            "name": tier,
            "cost_weight": weight,
            "complexity": list(span),
            "max_output_tokens": 256,
            "deployments": [
                {
                    "model": f"llamacpp/tiny-{tier}",
                    "context_tokens": CONTEXT_TOKENS,
                    "slots": SLOTS,
                    "launch": {"path": str(models[tier]), "threads": 1},
                }
            ],
        }
        for tier, (weight, span) in shapes.items()
    ]
    path = directory / "trivet.yaml"
    settings = {
        "server": {"port": port},
        "store": {"path": str(directory / "trivet.db")},
        "tiers": tiers,
        "logging": {"level": "warning"},
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@asynccontextmanager
async def open_stage(port: int) -> AsyncIterator[Stage]:
    """Write models and configuration, start `trivet serve` on them, wait until all engines are ready.

    Raises:
        ServerUnreachable: the server did not become ready; the message has its last words.
    """
    with TemporaryDirectory(prefix="trivet-demo-") as name:
        directory = Path(name)
        models = await asyncio.to_thread(write_tiny_models, directory, context_tokens=CONTEXT_TOKENS)
        config = write_config(directory, models, port=port)
        log_path = directory / "serve.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(SEED_NAMES)}
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trivet", "serve", "--exit-with-stdin", "--config", str(config)),
                env=environment,
                # Never written to: its other end closes with this process, however that ends.
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield await _ready(process, directory / "trivet.db", log_path)
        finally:
            await _stop(process)


async def _ready(process: asyncio.subprocess.Process, store: Path, log_path: Path) -> Stage:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT_S
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:
        while process.returncode is None and loop.time() < deadline:
            owner = StoreLock.owner(store)
            if owner is not None and owner.url:
                with contextlib.suppress(httpx.TransportError):
                    states = (await http.get(f"{owner.url}/readyz")).json()["deployments"].values()
                    if all(state == "ready" for state in states):
                        return Stage(owner.url, owner.token)
            await asyncio.sleep(0.05)
    words = (await asyncio.to_thread(log_path.read_text, errors="replace")).strip()[-1500:]
    raise ServerUnreachable("The demo's server did not become ready.", hint=f"Its last words:\n{words}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
    if process.stdin is not None:
        process.stdin.close()
