"""Launched engines and what is killed: `trivet serve`, an engine under load, and who is there afterwards."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import ServerProcess, server_process, write_config
from tests.e2e.test_kill import alive

BODY = {"model": "auto", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 8}
KEEP = {"fleet": {"on_exit": "keep", "probe_interval_s": 0.2}}


def client_of(server: ServerProcess) -> httpx.AsyncClient:
    """Return a client with the owner's rights."""
    return httpx.AsyncClient(base_url=server.url, headers=server.owner, trust_env=False, timeout=60)


async def engines_of(server: ServerProcess) -> dict[str, dict[str, Any]]:
    """Return the engines by tier."""
    async with client_of(server) as http:
        reports = (await http.get("/api/v1/deployments")).json()["deployments"]
    return {report["tier"]: report for report in reports}


async def none_left(pids: set[int]) -> None:
    """Wait until no process of these runs, ten seconds at most: the promise after a kill."""
    async with asyncio.timeout(10):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)


async def test_kept_engines_are_adopted_after_a_kill(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """kill -9, then a start: the same processes serve on. SIGTERM leaves them too; `stop` ends them."""
    store, log = tmp_path / "trivet.db", tmp_path / "serve.log"
    config = write_config(tmp_path, tiny_models, **KEEP)
    pids = []
    for way in (signal.SIGKILL, signal.SIGTERM):
        with server_process(config, store, log) as server:
            engines = await engines_of(server)
            async with client_of(server) as http:
                answer = await http.post("/v1/chat/completions", json=BODY)
            server.process.send_signal(way)
            server.process.wait(30)
        pids.append({engine["pid"] for engine in engines.values()})
        assert [engine["state"] for engine in engines.values()] == ["ready"] * 3
        assert answer.status_code == 200, answer.text
    assert pids[0] == pids[1]
    assert all(alive(pid) for pid in pids[0])
    with server_process(write_config(tmp_path, tiny_models), store, log) as server:
        anew = {engine["pid"] for engine in (await engines_of(server)).values()}
        assert not anew & pids[0]
        assert not any(alive(pid) for pid in pids[0])
        server.process.kill()
    await none_left(anew)
    assert "Traceback" not in log.read_text()


async def test_an_engine_killed_under_load_loses_no_request(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """While LIGHT's engine is killed again and again, others answer; it comes back as another process."""
    config = write_config(tmp_path, tiny_models, fleet={"probe_interval_s": 0.2})
    statuses: list[int] = []
    done = asyncio.Event()

    async def ask(http: httpx.AsyncClient) -> None:
        while not done.is_set():
            statuses.append((await http.post("/v1/chat/completions", json=BODY)).status_code)

    with server_process(config, tmp_path / "trivet.db", tmp_path / "serve.log") as server:
        async with client_of(server) as http:
            askers = [asyncio.create_task(ask(http)) for _ in range(4)]
            killed: set[int] = set()
            async with asyncio.timeout(60):
                while True:
                    back = (await engines_of(server))["light"]
                    if back["state"] == "ready" and back["pid"] not in {None, *killed}:
                        if len(killed) == 2:
                            break
                        killed.add(back["pid"])
                        os.kill(back["pid"], signal.SIGKILL)
                    await asyncio.sleep(0.05)
            done.set()
            await asyncio.gather(*askers)
    assert back["restarts"] >= 2
    assert len(statuses) > 20
    assert set(statuses) == {200}
