"""kill -9 of the server under load: every hold is resolved at the next start, no engine is left."""

import asyncio
import signal
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.counts import scaled
from tests.e2e.conftest import ServerProcess, server_process, write_config

BODY = {
    "model": "auto",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 200,
    "stream": True,
}


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie that init has not yet collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def load(server: ServerProcess, seconds: float) -> None:
    """Keep sixteen clients busy until the server is gone or the time is over."""

    async def client(number: int) -> None:
        headers = server.owner | {"x-trivet-scope": f"load.team{number % 3}"}
        async with httpx.AsyncClient(
            base_url=server.url, headers=headers, trust_env=False, timeout=30
        ) as http:
            while True:
                await http.post("/v1/chat/completions", json=BODY)

    tasks = [asyncio.create_task(client(number)) for number in range(16)]
    try:
        await asyncio.sleep(seconds)
        while await in_flight(server) < 4:  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(0.02)
        server.process.send_signal(signal.SIGKILL)
        await asyncio.wait(tasks, timeout=10)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_flight(server: ServerProcess) -> int:
    """Return how many requests the engines hold."""
    async with httpx.AsyncClient(base_url=server.url, headers=server.owner, trust_env=False) as http:
        engines = (await http.get("/api/v1/deployments")).json()["deployments"]
    return sum(engine["in_flight"] for engine in engines)


async def pids_of(server: ServerProcess) -> list[int]:
    """Return the engines' process ids."""
    async with httpx.AsyncClient(base_url=server.url, headers=server.owner, trust_env=False) as http:
        engines = (await http.get("/api/v1/deployments")).json()["deployments"]
    return [engine["pid"] for engine in engines]


@pytest.mark.parametrize("round_", range(scaled(1)))
async def test_kill_under_load(tiny_models: Mapping[str, Path], tmp_path: Path, round_: int) -> None:
    """After the kill there are open holds; after the restart there are none, and the ledger verifies."""
    config, store, log = write_config(tmp_path, tiny_models), tmp_path / "trivet.db", tmp_path / "serve.log"
    with server_process(config, store, log) as server:
        pids = await pids_of(server)
        await load(server, 1.0 + 0.1 * round_)
        server.process.wait()
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            break
        await asyncio.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []

    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        open_holds = database.execute("SELECT count(*) FROM reservations WHERE state = 'held'").fetchone()[0]
    assert open_holds > 0

    with server_process(config, store, log) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.owner, trust_env=False) as http:
            rows = (await http.get("/api/v1/budgets")).json()["rows"]
            proof = (await http.post("/api/v1/ledger/verify")).json()
    assert {row["held"] for row in rows} == {0}
    assert any(row["used"] for row in rows)
    assert (proof["ok"], proof["differences"]) == (True, [])


@pytest.mark.parametrize("signals", [1, 2])
async def test_terminate_settles_and_stops_engines(
    tiny_models: Mapping[str, Path], tmp_path: Path, signals: int
) -> None:
    """SIGTERM under load drains, a second one does not wait; both end with status 0, no hold, no engine."""
    drain = {"server": {"port": 0, "drain_timeout_s": 1 if signals == 1 else 60}}
    config, store, log = (
        write_config(tmp_path, tiny_models, **drain),
        tmp_path / "trivet.db",
        tmp_path / "serve.log",
    )
    with server_process(config, store, log) as server:
        pids = await pids_of(server)
        loading = asyncio.create_task(load(server, 30))
        await asyncio.sleep(0.7)
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
        status = await asyncio.to_thread(server.process.wait, 30)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        open_holds = database.execute("SELECT count(*) FROM reservations WHERE state = 'held'").fetchone()[0]
    assert (status, open_holds) == (0, 0)
    assert "Traceback" not in log.read_text()
    assert [pid for pid in pids if alive(pid)] == []
