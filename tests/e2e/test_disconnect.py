"""A client that goes away: the work stops upstream, and what was generated is settled."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ENDLESS, House

LONG: dict[str, Any] = {
    "model": "heavy",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 256,
    **ENDLESS,
}


async def engine(house: House, tier: str) -> dict[str, Any]:
    """Return the tier's deployment report."""
    return next(report for report in house.trivet.fleet.report() if report["tier"] == tier)


async def until_idle(house: House, tier: str) -> None:
    """Wait until the real engine's slots are all idle and Trivet counts nothing in flight."""
    url = (await engine(house, tier))["url"]
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(200):
            slots = (await http.get(f"{url}/slots")).json()
            busy = any(slot["is_processing"] for slot in slots)
            if not busy and (await engine(house, tier))["in_flight"] == 0:
                return
            await asyncio.sleep(0.02)
    raise AssertionError("the engine still works for a client that has gone")


async def held(house: House, scope: str) -> tuple[int, int]:
    """Return used and held of the scope's daily row once nothing is held, or after five seconds."""
    async with house.http() as http:
        for _ in range(250):
            rows = (await http.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
            row = next(r for r in rows if r["scope"] == scope and r["window"] == "daily")
            if row["held"] == 0 and row["used"]:
                break
            await asyncio.sleep(0.02)
    return row["used"], row["held"]


async def test_leaving_a_plain_request(house: House) -> None:
    """Closing while a plain answer is being made frees the engine's slot and closes the hold."""
    async with house.http(house.key("plain")) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await http.post("/v1/chat/completions", json=LONG)
    await until_idle(house, "heavy")
    used, still_held = await held(house, "plain")
    assert still_held == 0
    assert used > 0


async def test_leaving_mid_stream(house: House) -> None:
    """Closing in the middle of a stream charges the prompt and what was generated until then."""
    async with (
        house.http(house.key("midway")) as http,
        http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as answer,
    ):
        lines = answer.aiter_lines()
        seen = 0
        async for line in lines:
            seen += line.startswith("data: ")
            if seen == 5:
                break
    await until_idle(house, "heavy")
    used, still_held = await held(house, "midway")
    ceiling = len(json.dumps(LONG)) + 256 + 100
    assert still_held == 0
    assert 5 <= used < ceiling


async def test_a_crowd_leaves(house: House) -> None:
    """Thirty clients that leave at odd moments leave no hold and no work behind."""

    async def leave(number: int) -> None:
        async with house.http(house.key("leavers")) as http:
            with contextlib.suppress(httpx.TimeoutException):
                await http.post(
                    "/v1/chat/completions",
                    json=LONG | {"model": "light", "stream": number % 2 == 0},
                    timeout=0.002 + 0.004 * number,
                )

    await asyncio.gather(*(leave(number) for number in range(30)))
    await until_idle(house, "light")
    _, still_held = await held(house, "leavers")
    async with house.http() as http:
        proof = (await http.post("/api/v1/ledger/verify")).json()
    assert still_held == 0
    assert (proof["ok"], proof["differences"]) == (True, [])
