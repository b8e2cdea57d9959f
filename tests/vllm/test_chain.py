"""A whole Trivet in front of a real vLLM that is full, hangs, or has too small a window."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import House, serving, settings_for
from tests.vllm.calls import ask, read_stream
from tests.vllm.server import QUEUE_LIMIT, VllmServer
from trivet.engines.protocol import Transport

TRANSPORTS = ("relay", "litellm")
MESSAGES = [{"role": "user", "content": "hi"}]
LONG = [{"role": "user", "content": "qzxj " * 300}]
CROWD_ARRIVES_S = 1.0


def settings_of(directory: Path, vllm_url: str, fault_server: str, context_tokens: int) -> Any:
    """Return settings with vLLM as the light tier, over both transports, and a well engine behind it."""
    light = [
        {
            "name": f"{way}-vllm",
            "model": "vllm/tiny",
            "url": vllm_url,
            "transport": way,
            "context_tokens": context_tokens,
        }
        for way in TRANSPORTS
    ]
    well = {"name": "well", "model": "openai/ok", "url": fault_server, "context_tokens": 4096}
    settings = settings_for(
        directory,
        {"light": light, "standard": [well], "heavy": [well | {"name": "spare"}]},
        execution={"first_content_timeout_s": 5.0, "idle_timeout_s": 5.0, "deadline_s": 60.0},
    )
    tree = settings.model_dump(exclude_unset=True)
    tree["tiers"][0]["max_output_tokens"] = context_tokens - 200
    return type(settings).model_validate(tree)


@pytest.fixture(scope="module")
async def house(
    vllm_server: VllmServer, fault_server: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """Give a Trivet in front of the shared server."""
    directory = tmp_path_factory.mktemp("chain")
    settings = settings_of(directory, vllm_server.url, fault_server, vllm_server.context_tokens)
    async with serving(settings) as found:
        yield found


async def post(house: House, scope: str, models: tuple[str, ...], **fields: Any) -> Any:
    """Ask by a key that may use these deployments only."""
    body = {"model": "light", "messages": MESSAGES, "max_tokens": 8, **fields}
    async with house.http(house.key(scope, models=models)) as http:
        return await http.post("/v1/chat/completions", json=body)


async def books(house: House, scope: str) -> tuple[int, int]:
    """Return what a scope has used and holds, after a proof of all of it."""
    async with house.http() as http:
        assert (await http.post("/api/v1/ledger/verify")).json()["ok"]
        rows = (await http.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
        savings = (await http.get("/api/v1/savings")).json()
    assert savings["attributed"] == pytest.approx(savings["busy"], abs=1e-4)
    own = next(row for row in rows if (row["scope"], row["meter"]) == (scope, "tokens"))
    return own["used"], own["held"]


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_a_window_that_is_too_small(house: House, way: str) -> None:
    """vLLM's own word that the prompt is too long leads to a larger window, or to an honest 400."""
    answer = await post(house, f"vllm.{way}-over", (f"{way}-vllm", "well"), messages=LONG)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-trivet-attempt-path"] == (
        f"light/{way}-vllm:context_length_exceeded, standard/well:ok"
    )
    alone = await post(house, f"vllm.{way}-alone", (f"{way}-vllm",), messages=LONG)
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert alone.json()["error"]["trivet"]["largest_context_tokens"] == 256
    assert await books(house, f"vllm.{way}-alone") == (0, 0)


async def test_a_full_queue_is_busy(house: House, vllm_server: VllmServer, transport: Transport) -> None:
    """While vLLM takes no more, plain and streamed requests go to the next engine, over both transports."""
    with vllm_server.paused():
        crowd = [
            asyncio.create_task(read_stream(transport, ask(max_tokens=5, stream=True)))
            for _ in range(QUEUE_LIMIT)
        ]
        await asyncio.sleep(CROWD_ARRIVES_S)
        cases = [(way, stream) for way in TRANSPORTS for stream in (False, True)]
        answers = [
            await post(house, f"vllm.{way}-full", (f"{way}-vllm", "well"), stream=stream)
            for way, stream in cases
        ]
    await asyncio.gather(*crowd)
    assert [answer.headers["x-trivet-attempt-path"] for answer in answers] == [
        f"light/{way}-vllm:busy, standard/well:ok" for way, _ in cases
    ]
    for way in TRANSPORTS:
        assert (await books(house, f"vllm.{way}-full"))[1] == 0


async def test_an_engine_that_hangs_is_left(house: House, vllm_server: VllmServer) -> None:
    """A scheduler that stands still is left after the time for first content; the prompt is charged."""
    async with house.http() as http:
        body = {"model": "relay-vllm", "messages": MESSAGES, "max_tokens": 8}
        estimated = (await http.post("/api/v1/route", json=body)).json()["estimated"]["prompt_tokens"]
    with vllm_server.paused():
        asked = (post(house, f"vllm.{w}-hang", (f"{w}-vllm", "well"), stream=True) for w in TRANSPORTS)
        answers = await asyncio.gather(*asked)
    for way, answer in zip(TRANSPORTS, answers, strict=True):
        assert answer.headers["x-trivet-attempt-path"] == f"light/{way}-vllm:timeout, standard/well:ok"
        used, held = await books(house, f"vllm.{way}-hang")
        assert held == 0
        assert used > estimated
