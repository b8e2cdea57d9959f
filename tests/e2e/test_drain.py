"""A Trivet that is told to stop: it says so, takes nothing, lets run what runs, and leaves nothing held."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.doubles.programs import Programs
from tests.e2e.conftest import House, ServerProcess, launched, server_process, serving, settings_for
from trivet.app import serve
from trivet.app.logs import configure_logging
from trivet.config.settings import Settings

CHAT = "/v1/chat/completions"
SLOW = 1433
"""With this number the counting engine's dice give the first four requests nearly the longest delay."""


def body(model: str = "light", **fields: Any) -> dict[str, Any]:
    """Return a request of the tenant acme."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"acme {SLOW} hello"}],
        "max_tokens": 200,
        **fields,
    }


def slow(directory: Path, programs: Programs, **sections: Any) -> Settings:
    """Return settings of a Trivet in front of an engine that takes its time."""
    engine = programs.start("tests.doubles.counting_engine", "--delay-ms", "800").url
    deployments = {
        tier: [{"model": f"openai/{tier}", "url": f"{engine}/v1", "context_tokens": 4096, "slots": 64}]
        for tier in ("light", "standard", "heavy")
    }
    return settings_for(directory, deployments, **sections)


def client_of(server: ServerProcess) -> httpx.AsyncClient:
    """Return a client of the owner's for many connections."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
    return httpx.AsyncClient(
        base_url=server.url, headers=server.owner, trust_env=False, timeout=30, limits=limits
    )


async def in_flight(house: House, count: int) -> None:
    """Wait until engines have so many requests."""
    async with asyncio.timeout(20):
        while sum(each["in_flight"] for each in house.trivet.fleet.report()) < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def at_engines(http: httpx.AsyncClient, count: int) -> None:
    """Wait until engines have so many requests of another process."""
    async with asyncio.timeout(20):
        while True:
            engines = (await http.get("/api/v1/deployments")).json()["deployments"]
            if sum(engine["in_flight"] for engine in engines) >= count:
                return
            await asyncio.sleep(0.01)


def holds_of(store: Path) -> tuple[int, int]:
    """Return how many reservations there are, and how many are open."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        query = "SELECT count(*), count(*) FILTER (WHERE state = 'held') FROM reservations"
        found = database.execute(query).fetchone()
    return int(found[0]), int(found[1])


async def test_a_stopping_server_says_so_and_lets_run_what_runs(programs: Programs, tmp_path: Path) -> None:
    """Running answers come whole; probes and new requests get 503 at once; the status is 0, nothing held."""
    config, store, log = tmp_path / "trivet.yaml", tmp_path / "trivet.db", tmp_path / "serve.log"
    settings = slow(tmp_path, programs)
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    with server_process(config, store, log) as server:
        async with client_of(server) as http:
            asked = [
                asyncio.create_task(http.post(CHAT, json=body(stream=number % 2 == 0))) for number in range(4)
            ]
            await at_engines(http, 4)
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while (ready := await http.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.005)
            refused = await http.post(CHAT, json=body())
            reserved = await http.post("/api/v1/route", json=body() | {"reserve": True})
            alive = await http.get("/healthz")
            answers = await asyncio.gather(*asked)
        status = await asyncio.to_thread(server.process.wait, 30)
    assert (ready.json()["status"], alive.status_code) == ("stopping", 200)
    assert [(a.status_code, a.json()["error"]["code"]) for a in (refused, reserved)] == [
        (503, "stopping")
    ] * 2
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    assert {answer.status_code for answer in answers} == {200}
    assert [a.text.rstrip().endswith("data: [DONE]") for a in answers] == [n % 2 == 0 for n in range(4)]
    assert (status, holds_of(store)) == (0, (4, 0))


@asynccontextmanager
async def stoppable(settings: Settings) -> AsyncIterator[tuple[House, Callable[[], None]]]:
    """Serve in this process; the second value stops it as a first signal does. At the end it has stopped."""
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
        yield ready.result(), stop.set
    finally:
        stop.set()
        await task


async def test_a_stream_that_is_not_through_in_time_is_told(programs: Programs, tmp_path: Path) -> None:
    """After the drain's time it ends with an error event, without [DONE]; what came until then is charged."""
    settings = slow(tmp_path, programs, server={"port": 0, "drain_timeout_s": 0.05})
    async with stoppable(settings) as (house, stop), house.http(house.key("acme")) as http:
        asked = [asyncio.create_task(http.post(CHAT, json=body(stream=True))) for _ in range(4)]
        await in_flight(house, 4)
        stop()
        texts = [answer.text for answer in await asyncio.gather(*asked)]
    told = ['"code":"stopping"' in text.replace(" ", "") for text in texts]
    whole = [text.rstrip().endswith("data: [DONE]") for text in texts]
    assert any(told)
    assert [a != b for a, b in zip(whole, told, strict=True)] == [True] * 4
    assert holds_of(tmp_path / "trivet.db") == (4, 0)


async def test_what_waits_is_refused_at_once(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """A request that waits for its model has reached no engine: 503, and nothing is charged."""
    tiers = {tier: launched(tiny_models, tier) for tier in tiny_models}
    for tier in ("light", "heavy"):
        tiers[tier][0]["swap_group"] = "gpu"
    settings = settings_for(
        tmp_path, tiers, fleet={"swap": {"minimum_residency_s": 60.0, "max_wait_s": 60.0}}
    )
    async with stoppable(settings) as (house, stop), house.http() as http:
        asked = asyncio.create_task(http.post(CHAT, json=body("llamacpp/tiny-heavy")))
        async with asyncio.timeout(20):
            while not any(each["waiting"] for each in house.trivet.fleet.report()):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        stop()
        answer = await asked
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert holds_of(tmp_path / "trivet.db") == (1, 0)
    with sqlite3.connect(f"file:{tmp_path / 'trivet.db'}?mode=ro", uri=True) as database:
        assert database.execute("SELECT sum(charged_tokens) FROM reservations").fetchone() == (0,)


async def test_a_batch_goes_on_after_a_stop(programs: Programs, tmp_path: Path) -> None:
    """Its running lines end, no further one begins; the next start works off the rest."""
    settings = slow(tmp_path, programs)
    lines = "".join(
        f'{{"custom_id": "{n}", "url": "{CHAT}", "body": {{"model": "light", "max_tokens": 8, "messages":'
        f' [{{"role": "user", "content": "acme {SLOW}"}}]}}}}\n'
        for n in range(6)
    )
    async with stoppable(settings) as (house, stop), house.http() as http:
        batch = (await http.post("/api/v1/batch", content=lines)).json()
        await in_flight(house, 4)
        stop()
    with sqlite3.connect(f"file:{tmp_path / 'trivet.db'}?mode=ro", uri=True) as database:
        states = dict(database.execute("SELECT state, count(*) FROM batch_lines GROUP BY state").fetchall())
    assert (states, holds_of(tmp_path / "trivet.db")) == ({"completed": 4, "waiting": 2}, (4, 0))
    async with serving(settings) as house, house.http() as http, asyncio.timeout(30):
        while (found := (await http.get(f"/api/v1/batch/{batch['id']}")).json())["status"] != "completed":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    assert found["counts"]["completed"] == 6
