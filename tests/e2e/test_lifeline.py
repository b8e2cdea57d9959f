"""A server that is bound to its standard input ends with it, whoever held the other end, and however."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import write_config
from tests.e2e.test_kill import alive
from trivet.lab.demo.play import kill_engine
from trivet.lab.demo.stage import Stage
from trivet.storage import Owner, StoreLock

STAGE = """
import asyncio
from trivet.lab.demo.stage import open_stage

async def main():
    async with open_stage(0) as stage:
        print(stage.url, stage.owner_token, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would configure Trivet."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TRIVET_", "MODEL_", "TOKEN_"))}


@pytest.fixture
def bound(tiny_models: Mapping[str, Path], tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Give a `trivet serve --exit-with-stdin` with a pipe as its standard input."""
    config = write_config(tmp_path, tiny_models)
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trivet", "serve", "--exit-with-stdin", "--config", str(config)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


async def owner_of(store: Path) -> Owner:
    """Return the owner of a store once it listens."""
    async with asyncio.timeout(60):
        while (owner := StoreLock.owner(store)) is None or not owner.url:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)
    return owner


async def pids_at(url: str, token: str) -> list[int]:
    """Return the process ids of a server's engines."""
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        engines = (await http.get("/api/v1/deployments")).json()["deployments"]
    return [engine["pid"] for engine in engines]


async def none_alive(pids: list[int]) -> None:
    """Wait until none of the processes runs."""
    async with asyncio.timeout(30):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - other processes'
            await asyncio.sleep(0.02)


async def test_a_bound_server_ends_with_its_input(bound: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """When its standard input closes it stops as on SIGTERM: status 0, no engine left.

    Before that, the demo's kill finds nothing in flight on the engine, and kills it all the same.
    """
    owner = await owner_of(tmp_path / "trivet.db")
    stage = Stage(owner.url, owner.token)
    pids = await pids_at(owner.url, owner.token)
    killed = await kill_engine(stage, patience_s=0.1)
    assert killed in pids
    assert bound.stdin is not None
    bound.stdin.close()
    assert await asyncio.to_thread(bound.wait, 30) == 0
    await none_alive(pids)
    assert StoreLock.owner(tmp_path / "trivet.db") is None


async def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """kill -9 of the demo ends its server, and with it the engines."""
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STAGE),
        stdout=subprocess.PIPE,
        env=clean_environment() | {"TMPDIR": str(tmp_path)},
    )
    try:
        assert demo.stdout is not None
        url, token = (await demo.stdout.readline()).decode().split()
        pids = await pids_at(url, token)
    finally:
        demo.kill()
        await demo.communicate()
    await none_alive(pids)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http, asyncio.timeout(30):
        while True:
            try:
                await http.get("/healthz")
            except httpx.TransportError:
                break
            await asyncio.sleep(0.02)
