"""Holds that follow the request: cut down to what is left, weighed anew for another tier, made once."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ENDLESS, House, serving, settings_for
from trivet.domain.scopes import Scope

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
async def stairs(
    fault_server: str,
    llama_server: Callable[..., str],
    tiny_models: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """LIGHT (weight 1) and HEAVY (10) answer 503 to everything, STANDARD (3) works."""
    place = {"url": fault_server, "context_tokens": 1024, "local": True, "devices": ["host"]}
    real = {"name": "real", "model": "llamacpp/tiny-light", "url": llama_server(tiny_models["light"])}
    tiers: dict[str, list[dict[str, Any]]] = {
        "light": [{"name": "busy-light", "model": "openai/503", **place}],
        "standard": [real],
        "heavy": [{"name": "busy-heavy", "model": "openai/503", **place}],
    }
    settings = settings_for(
        tmp_path_factory.mktemp("stairs"),
        tiers,
        budgets={"ladder": "strict"},
        execution={"breaker_consecutive_failures": 1000},
    )
    async with serving(settings) as found:
        yield found


async def standing(house: House, scope: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return a scope's own rows: used and held by meter and window."""
    async with house.http() as admin:
        rows = (await admin.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
    return {
        (row["meter"], row["window"]): (row["used"], row["held"]) for row in rows if row["scope"] == scope
    }


async def test_little_left_lowers_max_tokens(house: House) -> None:
    """With less left than asked for, the engine gets the lower cap, the client is told, no more is spent."""
    key = house.key("little")
    body = {"model": "light", "messages": MESSAGES, "max_tokens": 200, **ENDLESS}
    async with house.http(key) as http:
        prompt = (await http.post("/api/v1/route", json=body)).json()["estimated"]["prompt_tokens"]
        async with house.http() as admin:
            await admin.put("/api/v1/budgets/little", json={"daily": prompt + 80})
        answer = await http.post("/v1/chat/completions", json=body)
        again = await http.post("/v1/chat/completions", json=body | {"max_tokens": 150})
    assert (answer.status_code, answer.headers["x-trivet-max-tokens"]) == (200, "80")
    assert answer.json()["usage"]["completion_tokens"] == 80
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert again.json()["error"]["code"] == "budget_exhausted"
    (used, held) = (await standing(house, "little"))["tokens", "daily"]
    assert (used <= prompt + 80, held) == (True, 0)


async def test_a_whole_grant_says_nothing(house: House) -> None:
    """Where all of it fits there is no header to explain."""
    async with house.http(house.key("plenty")) as http:
        answer = await http.post(
            "/v1/chat/completions", json={"model": "light", "messages": MESSAGES, "max_tokens": 8}
        )
    assert "x-trivet-max-tokens" not in answer.headers


async def test_another_tier_is_weighed_before_it_is_tried(stairs: House) -> None:
    """The hold of a dead light tier becomes the standard tier's, and that is what is charged."""
    async with stairs.http() as admin:
        await admin.put("/api/v1/budgets/weighed", json={"weighted_tokens.daily": 10_000})
    async with stairs.http(stairs.key("weighed")) as http:
        answer = await http.post(
            "/v1/chat/completions", json={"model": "light", "messages": MESSAGES, "max_tokens": 8}
        )
    assert (answer.status_code, answer.headers["x-trivet-tier"]) == (200, "standard")
    tokens = answer.json()["usage"]["total_tokens"]
    rows = await standing(stairs, "weighed")
    assert rows["weighted_tokens", "daily"] == (3 * tokens, 0)
    assert rows["tokens", "daily"] == (tokens, 0)
    async with stairs.http() as admin:
        told = (await admin.get("/api/v1/ledger/history", params={"scope": "weighed"})).json()["entries"]
    assert [entry["kind"] for entry in told] == ["settle", "reweight", "reserve", "limit"]


async def test_a_tier_that_is_too_dear_is_no_candidate(stairs: House) -> None:
    """If the next tier's weight does not fit, it is not tried; the hold comes back."""
    async with stairs.http(stairs.key("tight")) as http:
        body = {"model": "light", "messages": MESSAGES, "max_tokens": 8}
        prompt = (await http.post("/api/v1/route", json=body)).json()["estimated"]["prompt_tokens"]
        async with stairs.http() as admin:
            await admin.put("/api/v1/budgets/tight", json={"weighted_tokens.daily": 2 * (prompt + 8)})
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 503
    assert {each["tier"] for each in answer.json()["error"]["trivet"]["attempts"]} == {"light"}
    assert (await standing(stairs, "tight"))["weighted_tokens", "daily"] == (0, 0)


async def test_a_tier_that_is_too_dear_at_first_is_served_lower(stairs: House) -> None:
    """When heavy does not fit the weighted budget, a cheaper tier serves; an exact deployment is refused."""
    async with stairs.http(stairs.key("lower")) as http:
        body = {"model": "heavy", "messages": MESSAGES, "max_tokens": 8}
        prompt = (await http.post("/api/v1/route", json=body)).json()["estimated"]["prompt_tokens"]
        async with stairs.http() as admin:
            await admin.put("/api/v1/budgets/lower", json={"weighted_tokens.daily": 4 * (prompt + 8)})
        answer = await http.post("/v1/chat/completions", json=body)
        exact = await http.post("/v1/chat/completions", json=body | {"model": "busy-heavy"})
    assert (answer.status_code, answer.headers["x-trivet-downgraded"]) == (200, "heavy->standard")
    assert answer.headers["x-trivet-tier"] == "standard"
    assert exact.json()["error"]["code"] in ("request_too_large", "budget_exhausted")


async def test_the_dearest_tier_takes_an_approval(stairs: House) -> None:
    """From 85 % the strict ladder serves a cheaper tier, and refuses the exact deployment with 403."""
    scope = "approval"
    async with stairs.http() as admin:
        await admin.put(f"/api/v1/budgets/{scope}", json={"daily": 100_000})
    stairs.trivet.ledger.record(Scope(scope), 85_000).result()
    body = {"model": "heavy", "messages": MESSAGES, "max_tokens": 8}
    async with stairs.http(stairs.key(scope)) as http:
        answer = await http.post("/v1/chat/completions", json=body)
        exact_body = body | {"model": "busy-heavy"}
        exact = await http.post("/v1/chat/completions", json=exact_body)
    assert (answer.status_code, answer.headers["x-trivet-downgraded"]) == (200, "heavy->standard")
    error = exact.json()["error"]
    assert (exact.status_code, error["code"]) == (403, "approval_required")
    assert error["trivet"]["still_works"] == ["tier standard", "tier light"]
    facts = ("scope", "meter", "window", "used", "held", "limit")
    assert [error["trivet"][name] for name in facts[:3]] == [scope, "tokens", "daily"]
    assert (error["trivet"]["limit"], error["trivet"]["resets_at"] is None) == (100_000, False)
    assert 85_000 <= error["trivet"]["used"] < 86_000
    async with stairs.http(stairs.key("boss", role="admin")) as one, stairs.http() as other:
        asked = {"kind": "approval", "scope": scope, "reason": "an evaluation"}
        made = (await one.post("/api/v1/overrides", json=asked)).json()
        path = f"/api/v1/overrides/{made['override_id']}"
        assert (await other.post(f"{path}/approve")).status_code == 200
        async with stairs.http(stairs.key(scope)) as http:
            assert (await http.post("/v1/chat/completions", json=exact_body)).status_code == 503
        await one.delete(path)
        async with stairs.http(stairs.key(scope)) as http:
            assert (await http.post("/v1/chat/completions", json=exact_body)).status_code == 403


async def test_priorities_as_a_budget_ends(stairs: House) -> None:
    """A client lowers its key's priority, never raises it; batch is refused first, all but critical last."""
    body = {"model": "standard", "messages": MESSAGES, "max_tokens": 8}
    async with stairs.http() as admin:
        limit = {"limit": 100_000, "critical_allowance": 5_000}
        await admin.put("/api/v1/budgets/ending", json={"daily": limit})
    ledger = stairs.trivet.ledger
    ledger.record(Scope("ending"), 95_000).result()
    usual = stairs.http(stairs.key("ending"))
    critical = stairs.http(stairs.key("ending", priority="critical"))
    async with usual, critical:

        async def asked(http: httpx.AsyncClient, priority: str | None = None) -> tuple[int, str | None]:
            headers = {"x-trivet-priority": priority} if priority else {}
            answer = await http.post("/v1/chat/completions", json=body | {"model": "light"}, headers=headers)
            return answer.status_code, answer.json().get("error", {}).get("code")

        # LIGHT's engine answers 503 to everything, and STANDARD serves instead.
        assert await asked(usual) == (200, None)
        assert await asked(usual, "batch") == (429, "nonessential_blocked")
        ledger.record(Scope("ending"), 5_000).result()
        assert await asked(usual, "critical") == (429, "budget_exhausted")
        assert await asked(critical, "interactive") == (429, "budget_exhausted")
        assert await asked(critical) == (200, None)


async def test_a_request_is_made_once(house: House) -> None:
    """The same key serves one request: again is refused with its usage, another body is a mismatch."""
    body = {"model": "light", "messages": MESSAGES, "max_tokens": 8}
    once = {"idempotency-key": "order-66"}
    async with house.http(house.key("once")) as http:
        answers = [
            await http.post("/v1/chat/completions", json=body, headers=once),
            await http.post("/v1/chat/completions", json=body, headers=once),
            await http.post("/v1/chat/completions", json=body | {"max_tokens": 9}, headers=once),
            await http.post("/v1/chat/completions", json=body, headers={"idempotency-key": "x" * 201}),
        ]
    assert [answer.status_code for answer in answers] == [200, 409, 422, 400]
    told = answers[1].json()["error"]
    assert (told["code"], answers[1].headers["x-should-retry"]) == ("idempotency_completed", "false")
    tokens = answers[0].json()["usage"]["total_tokens"]
    assert told["trivet"]["usage"]["tokens"] == tokens
    assert (await standing(house, "once"))["tokens", "daily"] == (tokens, 0)


async def test_a_task_has_its_own_limit(house: House) -> None:
    """The hint `task_id` names what a limit by task counts."""
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/tasks", json={"task": 150})
    body = {"model": "light", "messages": MESSAGES, "max_tokens": 24}
    async with house.http(house.key("tasks")) as http:
        codes = [
            (await http.post("/v1/chat/completions", json=body, headers={"x-trivet-task-id": task}))
            .json()
            .get("error", {})
            .get("code")
            for task in ("a", "a", "a", "b")
        ]
    assert codes[0] is None
    assert codes[-2:] == ["budget_exhausted", None]
