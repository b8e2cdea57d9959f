"""One deployment on two servers: conversations stay, load spreads, and one that dies is done without."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.doubles.programs import Program, Programs
from tests.e2e.conftest import House, serving, settings_for

SLOTS = 4


@pytest.fixture(scope="module")
async def twins(
    programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[House, list[Program]]]:
    """LIGHT is one deployment on two engines; STANDARD and HEAVY do not answer."""
    pace = ("--slots", str(SLOTS), "--first-ms", "20", "--total-ms", "60")
    engines = [programs.start("tests.doubles.paced_engine", *pace) for _ in range(2)]
    place = {"context_tokens": 4096, "local": True, "devices": ["host"], "slots": SLOTS}
    endpoints = [{"url": f"{engine.url}/v1"} for engine in engines]
    gone = {"url": "http://127.0.0.1:9", **place}
    tiers = {
        "light": [{"name": "twin", "model": "openai/light", "endpoints": endpoints, **place}],
        "standard": [{"model": "openai/standard", **gone}],
        "heavy": [{"model": "openai/heavy", **gone}],
    }
    async with serving(settings_for(tmp_path_factory.mktemp("twins"), tiers)) as found:
        yield found, engines


async def ask(http: httpx.AsyncClient, text: str, *more: str) -> httpx.Response:
    """Ask the deployment by its name, as a turn of a conversation that begins with the text."""
    turns = [{"role": "user", "content": each} for each in (text, *more)]
    body: dict[str, Any] = {"model": "twin", "messages": turns, "max_tokens": 8}
    return await http.post("/v1/chat/completions", json=body)


async def served(house: House) -> dict[str, int]:
    """Return how many attempts each endpoint has answered, by name, as the metrics count."""
    async with house.http() as http:
        lines = (await http.get("/metrics")).text.splitlines()
    begin, end = 'trivet_attempts_total{deployment="', '",result="ok"}'
    return {
        line.removeprefix(begin).partition(end)[0]: int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith(begin) and end in line
    }


async def test_conversations_stay_and_load_spreads(twins: tuple[House, list[Program]]) -> None:
    """Each conversation keeps its endpoint; together they use both; the name is one for callers and keys."""
    house, _ = twins
    async with house.http(house.key("acme", models=("twin",))) as http:
        for number in range(6):
            before = await served(house)
            for more in ((), ("Go on.",), ("Go on.", "And on.")):
                answer = await ask(http, f"Conversation {number}", *more)
                assert answer.status_code == 200
            after = await served(house)
            assert sorted(after[name] - before.get(name, 0) for name in after)[-1] == 3
        names = [each["id"] for each in (await http.get("/v1/models")).json()["data"]]
    async with house.http() as owner:
        listed = (await owner.get("/api/v1/deployments")).json()["deployments"]
    assert set(await served(house)) == {"twin#1", "twin#2"}
    assert names == ["auto", "light", "twin"]
    assert [each["name"] for each in listed][:2] == ["twin#1", "twin#2"]
    assert all(each["admission"]["limit"] == SLOTS for each in listed[:2])


async def test_both_together_do_what_both_can(twins: tuple[House, list[Program]]) -> None:
    """Of one conversation that everybody has, what its endpoint has no room for goes to the other."""
    house, _ = twins
    before = await served(house)
    async with house.http(house.key("beta")) as http:
        answers = await asyncio.gather(*(ask(http, "The same for all") for _ in range(2 * SLOTS)))
    after = await served(house)
    assert {answer.status_code for answer in answers} == {200}
    assert all(after[name] > before[name] for name in before)


async def test_one_that_dies_is_done_without(twins: tuple[House, list[Program]]) -> None:
    """Its conversations go to the other at once, and no caller sees an error."""
    house, engines = twins
    engines[0].kill()
    async with house.http(house.key("gamma")) as http:
        answers = [await ask(http, f"Conversation {number}") for number in range(12)]
    assert {answer.status_code for answer in answers} == {200}
