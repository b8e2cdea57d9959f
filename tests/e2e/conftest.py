"""Whole Trivets: the real application on a real socket, in front of real engines."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from trivet.app import OpenTrivet, serve
from trivet.app.logs import configure_logging
from trivet.config.settings import Settings
from trivet.storage import StoreLock

ENDLESS: dict[str, Any] = {"logit_bias": {"0": -100, "2": -100}}
"""For a request whose answer must not end by itself: the tiny models' two ends of text."""
WEIGHTS = {"light": (1.0, (0.0, 0.3)), "standard": (3.0, (0.3, 0.7)), "heavy": (10.0, (0.7, 1.0))}


@dataclass(frozen=True, slots=True)
class House:
    """A Trivet that serves in this process."""

    url: str
    trivet: OpenTrivet

    @property
    def owner(self) -> dict[str, str]:
        """Return the owner's headers."""
        return {"authorization": f"Bearer {self.trivet.owner_token}"}

    def http(self, api_key: str | None = None) -> httpx.AsyncClient:
        """Return a client with the key, by default the owner's."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else self.owner
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)

    def key(self, scope: str, **limits: Any) -> str:
        """Make a tenant key."""
        return self.trivet.keyring.create(scope, **limits)[0]  # type: ignore[arg-type]


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[House]:
    """Serve the settings on a free port until the block ends."""
    configure_logging(settings.logging)
    stop = asyncio.Event()
    ready: asyncio.Future[House] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(settings, started=lambda trivet, url, _: ready.set_result(House(url, trivet)), stop=stop)
    )
    while not ready.done():
        await asyncio.sleep(0.01)
        if task.done():
            await task  # raises what went wrong
    try:
        yield ready.result()
    finally:
        stop.set()
        await task


def settings_for(
    directory: Path, deployments: Mapping[str, list[dict[str, Any]]], **sections: Any
) -> Settings:
    """Return settings with the deployments by tier, a store in the directory and a free port."""
    tiers = [
        {
            "name": tier,
            "cost_weight": WEIGHTS[tier][0],
            "complexity": WEIGHTS[tier][1],
            "max_output_tokens": 256,
            "deployments": deployments[tier],
        }
        for tier in WEIGHTS
    ]
    tree: dict[str, Any] = {
        "server": {"port": 0},
        "store": {"path": directory / "trivet.db"},
        "tiers": tiers,
        "logging": {"level": "error"},
    }
    return Settings.model_validate(tree | sections)


def launched(models: Mapping[str, Path], tier: str) -> list[dict[str, Any]]:
    """Return one deployment of the tier's tiny model that Trivet launches itself."""
    return [
        {
            "model": f"llamacpp/tiny-{tier}",
            "context_tokens": 1024,
            "slots": 4,
            "launch": {"path": str(models[tier]), "threads": 1},
        }
    ]


@pytest.fixture(scope="session")
async def house(
    tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Trivet in front of three launched llama.cpp servers, for the whole session."""
    directory = tmp_path_factory.mktemp("house")
    async with serving(
        settings_for(directory, {tier: launched(tiny_models, tier) for tier in WEIGHTS})
    ) as found:
        yield found


@pytest.fixture(scope="session")
async def place(
    light_url: str,
    heavy_url: str,
    tiny_models: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """A Trivet whose LIGHT and HEAVY generate and whose STANDARD, which it launches itself, makes vectors.

    `by-litellm` is LIGHT's engine once more, reached through LiteLLM.
    """
    vectors = {
        "name": "vectors",
        "model": "llamacpp/tiny-vectors",
        "context_tokens": 256,
        "capabilities": ["embeddings"],
        "launch": {"path": str(tiny_models["standard"]), "arguments": ["--pooling", "mean"]},
    }
    through = {
        "name": "by-litellm",
        "model": "llamacpp/tiny-light",
        "url": light_url,
        "transport": "litellm",
    }
    deployments: dict[str, list[dict[str, Any]]] = {
        "light": [{"model": "llamacpp/tiny-light", "url": light_url}, through],
        "standard": [vectors],
        "heavy": [{"model": "llamacpp/tiny-heavy", "url": heavy_url}],
    }
    async with serving(settings_for(tmp_path_factory.mktemp("surfaces"), deployments)) as found:
        yield found


@dataclass(slots=True)
class ServerProcess:
    """A `trivet serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    owner_token: str
    config: Path
    store: Path

    @property
    def owner(self) -> dict[str, str]:
        """Return the owner's headers."""
        return {"authorization": f"Bearer {self.owner_token}"}


def write_config(directory: Path, models: Mapping[str, Path], **sections: Any) -> Path:
    """Write a configuration file with three launched engines."""
    settings = settings_for(directory, {tier: launched(models, tier) for tier in WEIGHTS}, **sections)
    path = directory / "trivet.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    return path


@contextmanager
def server_process(config: Path, store: Path, log: Path) -> Iterator[ServerProcess]:
    """Start `trivet serve` and wait until it listens; killed at the end if it still runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRIVET_", "MODEL_", "TOKEN_"))}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "trivet", "serve", "--config", str(config)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    try:
        owner = None
        for _ in range(600):
            owner = StoreLock.owner(store)
            if process.poll() is not None or (owner is not None and owner.url):
                break
            time.sleep(0.05)
        assert owner is not None, log.read_text()
        assert owner.url, log.read_text()
        yield ServerProcess(process, owner.url, owner.token, config, store)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
