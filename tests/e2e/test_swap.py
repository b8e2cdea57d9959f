"""A swap group through the whole of Trivet: two real models on one device, and one that cannot be loaded."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import APIError, AsyncOpenAI

from tests.e2e.conftest import House, launched, serving, settings_for

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def turns(
    tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Trivet whose light and heavy models, and a broken standard one, share memory by quick turns."""
    directory = tmp_path_factory.mktemp("turns")
    tiers = {tier: launched(tiny_models, tier) for tier in tiny_models}
    tiers["standard"][0]["launch"] = {"path": str(directory / "none.gguf")}
    for deployments in tiers.values():
        deployments[0]["swap_group"] = "gpu"
    settings = settings_for(
        directory,
        tiers,
        server={"port": 0, "keep_alive_interval_s": 0.05},
        fleet={"probe_interval_s": 0.2, "swap": {"minimum_residency_s": 0.3, "max_wait_s": 1.5}},
    )
    async with serving(settings) as found:
        yield found


def body(tier: str, **fields: Any) -> dict[str, Any]:
    """Return a small request that only this tier's model may serve."""
    return {"model": f"llamacpp/tiny-{tier}", "messages": MESSAGES, "max_tokens": 4, **fields}


def report(house: House, tier: str) -> dict[str, Any]:
    """Return the report of a tier's deployment."""
    return next(each for each in house.trivet.fleet.report() if each["tier"] == tier)


async def bring(house: House, tier: str) -> None:
    """Have a tier's model in memory, fresh from a swap, so that it stays for its minimum residency."""
    is_there = report(house, tier)["state"] == "ready"
    other = {"light": "heavy", "heavy": "light"}[tier]
    async with house.http() as http:
        for each in (other, tier) if is_there else (tier,):
            assert (await http.post("/v1/chat/completions", json=body(each))).status_code == 200


async def test_alternating_traffic_swaps_seldom_and_serves_all(turns: House) -> None:
    """Forty requests in turn, 25 ms apart: each is answered by its own model, with a fifth of the swaps."""
    await bring(turns, "light")
    before = turns.trivet.fleet.swap_counts["gpu"]
    count = 40

    async def later(http: httpx.AsyncClient, index: int) -> httpx.Response:
        await asyncio.sleep(0.025 * index)
        return await http.post("/v1/chat/completions", json=body(("light", "heavy")[index % 2]))

    async with turns.http() as http:
        answers = await asyncio.gather(*(later(http, index) for index in range(count)))
        savings = (await http.get("/api/v1/savings")).json()
    assert [answer.status_code for answer in answers] == [200] * count
    assert {answer.headers["x-trivet-model"] for answer in answers} == {"tiny-light", "tiny-heavy"}
    assert 1 <= turns.trivet.fleet.swap_counts["gpu"] - before <= count // 5
    # Waiting for a model is no device time, neither by the clock nor by the recorded intervals.
    assert savings["attributed"] == pytest.approx(savings["busy"], rel=0.001)
    assert savings["busy_check"] == pytest.approx(savings["busy"], rel=0.05)


async def test_a_waiting_stream_shows_signs_of_life(turns: House) -> None:
    """Comments come while the model is loaded, then the whole answer; plain requests just wait."""
    await bring(turns, "heavy")
    async with (
        turns.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body("light", stream=True)) as answer,
    ):
        lines = [line async for line in answer.aiter_lines() if line]
    assert answer.status_code == 200
    assert lines.count(": keep-alive") >= 3
    assert lines[0] == ": keep-alive"
    assert lines[-1] == "data: [DONE]"
    assert answer.headers["x-trivet-decision-id"]
    assert "x-trivet-tier" not in answer.headers


async def test_the_openai_client_does_not_notice(turns: House) -> None:
    """Its stream holds the answer and nothing else."""
    await bring(turns, "heavy")
    async with AsyncOpenAI(
        base_url=turns.url + "/v1", api_key=turns.trivet.owner_token, max_retries=0
    ) as client:
        stream = await client.chat.completions.create(**body("light", stream=True))
        chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


async def test_an_error_after_the_wait_is_the_streams_last_event(turns: House) -> None:
    """The status was 200 by then, so there is an error event and no [DONE]. A plain request gets 502."""
    await bring(turns, "light")
    async with AsyncOpenAI(
        base_url=turns.url + "/v1", api_key=turns.trivet.owner_token, max_retries=0
    ) as client:
        stream = await client.chat.completions.create(**body("standard", stream=True))
        with pytest.raises(APIError, match=r"none\.gguf"):
            _ = [chunk async for chunk in stream]
    async with turns.http() as http:
        plain = await http.post("/v1/chat/completions", json=body("standard"))
    assert plain.status_code == 502
    assert plain.json()["error"]["code"] == "upstream_unavailable"
    assert int(plain.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_waiting_costs_and_leaves_nothing(turns: House, stream: bool) -> None:
    """No engine was at work: nothing is charged or held, and nobody waits any more."""
    await bring(turns, "heavy")
    scope = f"leaver-{'stream' if stream else 'plain'}"
    async with turns.http(turns.key(scope)) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await http.post("/v1/chat/completions", json=body("light", stream=stream, max_tokens=64))
        async with asyncio.timeout(10):
            while report(turns, "light")["waiting"]:  # noqa: ASYNC110 - it is the server's
                await asyncio.sleep(0.01)
        for _ in range(100):
            rows = (await http.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
            if not any(row["held"] for row in rows):
                break
            await asyncio.sleep(0.02)
    assert [(row["used"], row["held"]) for row in rows if row["scope"] == scope] == [(0, 0), (0, 0)]


async def test_the_decision_tells_the_wait(turns: House) -> None:
    """Asleep is a term and a reason; a tier that is asked for waits rather than goes down."""
    await bring(turns, "light")
    async with turns.http() as http:
        decision = (await http.post("/api/v1/route", json={"model": "heavy", "messages": MESSAGES})).json()
    heavy, light = (
        next(c for c in decision["candidates"] if c["tier"] == tier) for tier in ("heavy", "light")
    )
    assert decision["tier"] == "heavy"
    assert heavy["terms"]["wait"] < 0 == light["terms"]["wait"]
    assert "worth_waiting" in [reason["code"] for reason in decision["reasons"]]


async def test_a_stream_that_waits_when_trivet_stops_is_told(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """Its response had begun with a sign of life, so it ends with an error event and without [DONE]."""
    tiers = {tier: launched(tiny_models, tier) for tier in tiny_models}
    for tier in ("light", "heavy"):
        tiers[tier][0]["swap_group"] = "gpu"
    settings = settings_for(
        tmp_path,
        tiers,
        server={"port": 0, "keep_alive_interval_s": 0.05, "drain_timeout_s": 0.2},
        fleet={"swap": {"minimum_residency_s": 60.0, "max_wait_s": 60.0}},
    )
    lines: list[str] = []

    async def read(house: House) -> None:
        async with (
            house.http() as http,
            http.stream("POST", "/v1/chat/completions", json=body("heavy", stream=True)) as answer,
        ):
            lines.extend([line async for line in answer.aiter_lines() if line])

    async with serving(settings) as house:
        reading = asyncio.create_task(read(house))
        async with asyncio.timeout(20):
            while not report(house, "heavy")["waiting"]:  # noqa: ASYNC110 - it is the server's
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
    await reading
    assert lines[0] == ": keep-alive"
    assert "Trivet is stopping." in lines[-1]
    assert "data: [DONE]" not in lines
