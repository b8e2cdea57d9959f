"""Budgets over the wire: never overspent, nothing left held, refusals that explain themselves."""

import asyncio
from typing import Any

import httpx

from tests.e2e.conftest import House

MESSAGES = [{"role": "user", "content": "Hello"}]


async def rows_of(http: httpx.AsyncClient, scope: str) -> dict[str, dict[str, Any]]:
    """Return a scope's own rows by window."""
    answer = (await http.get(f"/api/v1/budgets/{scope}/status")).json()
    return {row["window"]: row for row in answer["rows"] if row["scope"] == scope}


async def test_a_crowd_cannot_overspend(house: House) -> None:
    """64 clients at once against an almost empty budget: within the limit, nothing held at the end."""
    key = house.key("crowd.team.user")
    limit = 2_000
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/crowd.team", json={"daily": limit})
    async with house.http(key) as http:

        async def ask(number: int) -> int:
            body = {"model": "light", "messages": MESSAGES, "max_tokens": 24, "stream": number % 2 == 0}
            return (await http.post("/v1/chat/completions", json=body)).status_code

        statuses = await asyncio.gather(*(ask(number) for number in range(64)))
    async with house.http() as admin:
        row = (await rows_of(admin, "crowd.team"))["daily"]
    assert set(statuses) <= {200, 429}
    assert {200, 429} <= set(statuses)
    assert row["held"] == 0
    assert 0 < row["used"] <= limit


async def test_refusal_explains_itself(house: House) -> None:
    """An exhausted budget names level, window, figures and reset, and tells clients not to retry."""
    key = house.key("spent.team")
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/spent", json={"daily": 150})
    async with house.http(key) as http:
        for _ in range(20):
            answer = await http.post(
                "/v1/chat/completions", json={"model": "light", "messages": MESSAGES, "max_tokens": 24}
            )
            if answer.status_code != 200:
                break
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (
        429,
        "budget_exhausted",
        "insufficient_quota",
    )
    assert answer.headers["x-should-retry"] == "false"
    details = error["trivet"]
    assert (details["scope"], details["meter"], details["window"], details["limit"]) == (
        "spent",
        "tokens",
        "daily",
        150,
    )
    assert details["resets_at"] > "2026"


async def test_larger_than_the_whole_limit(house: House) -> None:
    """A request that could never fit is told so, and no budget is touched."""
    key = house.key("small")
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/small", json={"daily": 100})
    async with house.http(key) as http:
        answer = await http.post(
            "/v1/chat/completions", json={"model": "light", "messages": MESSAGES, "max_tokens": 200}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_too_large")


async def test_remaining_header_and_status_agree(house: House) -> None:
    """The header of a plain answer is what the ledger has left after it."""
    key = house.key("agree")
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/agree", json={"daily": 5_000, "monthly": 9_000})
    async with house.http(key) as http:
        answer = await http.post(
            "/v1/chat/completions", json={"model": "light", "messages": MESSAGES, "max_tokens": 8}
        )
        row = (await rows_of(http, "agree"))["daily"]
    usage = answer.json()["usage"]
    assert row["used"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert int(answer.headers["x-trivet-budget-remaining"]) == row["remaining"] == 5_000 - row["used"]


async def test_foreign_scopes_do_not_exist(house: House) -> None:
    """A tenant sees its own scope and below; all else answers 404, and administration 403."""
    key = house.key("mine.team")
    async with house.http(key) as http:
        statuses = [
            (await http.get(f"/api/v1/budgets/{scope}/status")).status_code
            for scope in ("mine.team", "mine.team.user", "mine", "other", "mine.teamster")
        ]
        refused = [
            (await http.put("/api/v1/budgets/mine.team", json={"daily": 1})).status_code,
            (await http.post("/api/v1/keys", json={"scope": "mine.team", "role": "admin"})).status_code,
            (await http.get("/api/v1/keys")).status_code,
            (await http.post("/api/v1/ledger/verify")).status_code,
        ]
    assert statuses == [200, 200, 404, 404, 404]
    assert refused == [403, 403, 403, 403]


async def test_bad_limits(house: House) -> None:
    """Limits that are no whole numbers, unknown windows and bad scopes are refused with the reason."""
    async with house.http() as admin:
        answers = [
            await admin.put("/api/v1/budgets/x", json={"daily": -5}),
            await admin.put("/api/v1/budgets/x", json={"daily": 1.5}),
            await admin.put("/api/v1/budgets/x", json={"hourly": 5}),
            await admin.put("/api/v1/budgets/x", json={}),
            await admin.put("/api/v1/budgets/No%20Scope", json={"daily": 5}),
        ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (400, "invalid_request")
    ] * len(answers)


async def test_route_says_what_it_would_take(house: House) -> None:
    """A decision shows candidates, reasons and the budget's share, and holds nothing."""
    key = house.key("routed")
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/routed", json={"daily": 1_000})
    async with house.http(key) as http:
        answer = (await http.post("/api/v1/route", json={"messages": MESSAGES, "max_tokens": 100})).json()
        row = (await rows_of(http, "routed"))["daily"]
    assert set(answer) == {
        "decision_id", "tier", "model", "deployment", "complexity", "confidence", "policy", "strategy",
        "reasons", "candidates", "rejected", "estimated", "budget",
    }  # fmt: skip
    assert (answer["tier"], answer["budget"]["scope"], answer["budget"]["window"]) == (
        "light",
        "routed",
        "daily",
    )
    needed = answer["estimated"]["prompt_tokens"] + answer["estimated"]["max_output_tokens"]
    assert answer["budget"]["percent_of_remaining"] == needed / 10
    assert (row["used"], row["held"]) == (0, 0)
