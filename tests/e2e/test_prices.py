"""Dollars from end to end: a priced model is charged by the token, one of unknown price passed over."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.conftest import House, serving, settings_for

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
async def clouds(
    light_url: str, heavy_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """LIGHT is a cloud model that no table knows, STANDARD one at 2 and 10 dollars a million tokens."""
    place = {"context_tokens": 1024, "local": False, "devices": []}
    tiers: dict[str, list[dict[str, Any]]] = {
        "light": [{"name": "unknown", "model": "openai/tiny-light", "url": f"{light_url}/v1", **place}],
        "standard": [{"name": "priced", "model": "openai/tiny-heavy", "url": f"{heavy_url}/v1", **place}],
        "heavy": [{"name": "other", "model": "openai/tiny-heavy", "url": f"{heavy_url}/v1", **place}],
    }
    directory = tmp_path_factory.mktemp("clouds")
    table = directory / "prices.json"
    price = {"input_usd_per_million": 2, "output_usd_per_million": 10}
    table.write_text(json.dumps({"priced": price}))
    async with serving(settings_for(directory, tiers, pricing={"path": table})) as found:
        yield found


async def dollars(house: House, scope: str) -> int:
    """Return what a scope has used of its monthly dollars, in millionths."""
    async with house.http() as admin:
        rows = (await admin.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
    (used,) = (row["used"] for row in rows if (row["meter"], row["scope"]) == ("usd_micros", scope))
    return int(used)


async def test_tokens_are_charged_in_dollars(clouds: House) -> None:
    """The budget and the usage report tell the same amount: 2 for each prompt token, 10 for each other."""
    async with clouds.http() as admin:
        await admin.put("/api/v1/budgets/payer", json={"usd_micros.monthly": 1_000_000})
    async with clouds.http(clouds.key("payer")) as http:
        body = {"model": "priced", "messages": MESSAGES, "max_tokens": 8}
        usage = (await http.post("/v1/chat/completions", json=body)).json()["usage"]
        report = (await http.get("/api/v1/usage", params={"by": "model,month"})).json()
    expected = 2 * usage["prompt_tokens"] + 10 * usage["completion_tokens"]
    assert await dollars(clouds, "payer") == expected
    assert [row["usd_micros"] for row in report["rows"]] == [expected]


async def test_a_decision_tells_dollars_before_they_are_spent(clouds: House) -> None:
    """The estimate is the ceiling at the model's price, and the budget's share is one of the same meter."""
    async with clouds.http() as admin:
        await admin.put("/api/v1/budgets/planner", json={"usd_micros.monthly": 10_000})
    async with clouds.http(clouds.key("planner")) as http:
        body = {"model": "priced", "messages": MESSAGES, "max_tokens": 8}
        told = (await http.post("/api/v1/route", json=body)).json()
        unknown = (await http.post("/api/v1/route", json=body | {"model": "unknown"})).json()
    ceiling = 2 * told["estimated"]["prompt_tokens"] + 10 * 8
    assert told["estimated"]["usd_micros"] == ceiling
    assert (told["budget"]["meter"], told["budget"]["percent_of_remaining"]) == ("usd_micros", ceiling / 100)
    assert unknown["estimated"]["usd_micros"] is None


async def test_an_unknown_price_is_not_risked(clouds: House) -> None:
    """Under a dollar limit an exact model of unknown price is refused; without one it serves."""
    async with clouds.http() as admin:
        await admin.put("/api/v1/budgets/careful", json={"usd_micros.monthly": 1_000_000})
    body = {"model": "unknown", "messages": MESSAGES, "max_tokens": 8}
    async with clouds.http(clouds.key("careful")) as http:
        refused = await http.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "price_unknown")
    assert await dollars(clouds, "careful") == 0
    async with clouds.http(clouds.key("carefree")) as http:
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
