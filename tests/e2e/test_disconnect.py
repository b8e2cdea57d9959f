"""A client that goes away: the work stops upstream, and what was generated is settled."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ENDLESS, House
from trivet.api.asgi import BodyBounds
from trivet.api.auth import Doorkeeper
from trivet.api.inference import Inference
from trivet.domain.surfaces import Surface
from trivet.execution import Answer, Pipeline

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


class LeftAtTheLastMoment:
    """The house's pipeline for a client that waited for its model and leaves just as the stream begins."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def execute(self, *request: Any, on_wait: Any, **facts: Any) -> Answer:
        """Serve the request; its task is cancelled before it has heard of the answer."""
        answer = await self._pipeline.execute(*request, on_wait=on_wait, **facts)
        on_wait(answer.run.decision)
        await asyncio.sleep(0)  # the signs of life begin, so that ending them takes a moment
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return answer


async def test_leaving_as_the_wait_ends(house: House) -> None:
    """A stream that nobody was told of is closed, and its hold with it."""
    key = house.key("hasty")
    sent: list[Any] = []
    body = json.dumps(LONG | {"stream": True, "model": "light"}).encode()
    arrived = asyncio.Queue[dict[str, Any]]()
    arrived.put_nowait({"type": "http.request", "body": body})

    async def send(message: Any) -> None:
        sent.append(message)

    door = Inference(
        Surface.CHAT,
        LeftAtTheLastMoment(house.trivet.pipeline),  # type: ignore[arg-type]
        Doorkeeper(house.trivet.keyring, house.trivet.owner_token),
        bounds=BodyBounds(limit_bytes=len(body)),
        write_timeout_s=5.0,
        keep_alive_s=5.0,
        exhausted_status=429,
    )
    headers = [(b"authorization", f"Bearer {key}".encode())]
    await asyncio.create_task(door({"type": "http", "headers": headers}, arrived.get, send))
    await until_idle(house, "light")
    _, still_held = await held(house, "hasty")
    assert still_held == 0
