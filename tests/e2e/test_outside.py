"""Budget for callers that only route: held, reported, executed later, never used twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import House, launched, serving, settings_for
from trivet import Trivet
from trivet.domain.errors import DecisionSpent, NotFound
from trivet.domain.scopes import Scope

BODY: dict[str, Any] = {
    "model": "light",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 16,
}


async def held_and_used(house: House, scope: str) -> tuple[int, int]:
    """Return what a scope holds and has used today."""
    rows = await asyncio.to_thread(house.trivet.ledger.rows, Scope(scope))
    (row,) = [r for r in rows if (r.scope, r.meter, r.window) == (scope, "tokens", "daily")]
    return row.held, row.used


async def told_requests(house: House) -> float:
    """Return how many requests the metrics have counted."""
    async with house.http(house.key("metrics", role="admin")) as http:
        text = (await http.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("trivet_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def routed(http: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    """Decide with a hold."""
    answer = await http.post("/api/v1/route", json=BODY | {"reserve": True} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def report(
    http: httpx.AsyncClient, decision: dict[str, Any], prompt: int, completion: int, **more: Any
) -> httpx.Response:
    """Report an outcome."""
    told = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return await http.post(f"/api/v1/decisions/{decision['decision_id']}/outcome", json=told)


async def test_what_is_held_is_settled_by_the_report(house: House) -> None:
    """The hold is the ceiling; the report replaces it and is a usage record; repeated it changes nothing."""
    async with house.http(house.key("outside")) as http:
        counted = await told_requests(house)
        decision = await routed(http, metadata={"task_type": "code", "worker": "w7"})
        ceiling = decision["estimated"]["prompt_tokens"] + decision["max_tokens"]
        assert (decision["reservation_id"], decision["max_tokens"]) == (decision["decision_id"], 16)
        assert await held_and_used(house, "outside") == (ceiling, 0)
        answer = await report(http, decision, 20, 7, latency_ms=1500, ok=True)
        assert answer.status_code == 200
        assert answer.json()["charged"] == {"tokens": 27, "weighted_tokens": 27, "usd_micros": 0}
        assert await held_and_used(house, "outside") == (0, 27)
        again = await report(http, decision, 99, 99)
        assert again.json()["charged"]["tokens"] == 27
        assert await held_and_used(house, "outside") == (0, 27)
        assert await told_requests(house) == counted + 1
        rows = (await http.get("/api/v1/usage", params={"by": "worker,tier"})).json()["rows"]
    (row,) = [r for r in rows if r["worker"] == "w7"]
    assert (row["requests"], row["tier"], row["prompt_tokens"], row["completion_tokens"]) == (
        1,
        "light",
        20,
        7,
    )
    assert row["latency_mean_ms"] == 1500
    assert house.trivet.ledger.verify().as_json()["ok"]


async def test_a_time_that_nobody_told_is_none(house: House) -> None:
    """A report without a latency counts, and leaves the mean of those that had one alone."""
    async with house.http(house.key("timeless")) as http:
        assert (await report(http, await routed(http), 20, 7)).status_code == 200
        (row,) = (await http.get("/api/v1/usage")).json()["rows"]
        assert (row["ok"], row["latency_p50_ms"], row["latency_mean_ms"]) == (1, None, None)
        await report(http, await routed(http), 20, 7, latency_ms=300)
        (row,) = (await http.get("/api/v1/usage")).json()["rows"]
    assert (row["ok"], row["latency_mean_ms"]) == (2, 300)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_held_decision_is_executed_once(house: House, stream: bool) -> None:
    """The header executes it under its hold; then neither another execution nor a report is taken."""
    async with house.http(house.key("later")) as http:
        used_before = (await held_and_used(house, "later"))[1] if stream else 0
        decision = await routed(http)
        named = {"x-trivet-decision-id": decision["decision_id"]}
        answer = await http.post("/v1/chat/completions", json=BODY | {"stream": stream}, headers=named)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-trivet-decision-id"] == decision["decision_id"]
        # As of any request: before a stream the hold is reckoned, after a plain answer the charge.
        assert 999_800 < int(answer.headers["x-trivet-budget-remaining"]) < 1_000_000
        await asyncio.sleep(0.05)
        held, used = await held_and_used(house, "later")
        assert (held, 0 < used - used_before <= 60) == (0, True)
        for refused in (
            await http.post("/v1/chat/completions", json=BODY, headers=named),
            await report(http, decision, 1, 0),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "decision_spent")
        assert await held_and_used(house, "later") == (0, used)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": "Hello " * 20}]}, "messages"),
        ({"max_tokens": 17}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"model": "heavy"}, "model"),
    ],
)
async def test_a_body_that_needs_more_is_refused(house: House, change: dict[str, Any], param: str) -> None:
    """It is told what does not fit, and the hold still serves the request that was decided on."""
    scope = f"more-{param.replace('_', '-')}"
    async with house.http(house.key(scope)) as http:
        decision = await routed(http)
        named = {"x-trivet-decision-id": decision["decision_id"]}
        answer = await http.post("/v1/chat/completions", json=BODY | change, headers=named)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        less = BODY | {"model": "auto", "max_tokens": 4}
        assert (await http.post("/v1/chat/completions", json=less, headers=named)).status_code == 200
    assert (await held_and_used(house, scope))[0] == 0


async def test_decisions_are_their_tenants_own(house: House) -> None:
    """To another tenant they do not exist; a key of the tenant above may carry them out."""
    async with house.http(house.key("own.team")) as http, house.http(house.key("stranger")) as other:
        decision = await routed(http)
        named = {"x-trivet-decision-id": decision["decision_id"]}
        assert (await other.post("/v1/chat/completions", json=BODY, headers=named)).status_code == 404
        assert (await report(other, decision, 1, 1)).status_code == 404
        assert (await report(other, {"decision_id": "none"}, 1, 1)).status_code == 404
    async with house.http(house.key("own")) as above:
        assert (await report(above, decision, 1, 1)).status_code == 200


async def test_a_decision_without_a_hold_can_be_executed_too(house: House) -> None:
    """It is not decided anew, and holds when it runs; to strangers it does not exist."""
    async with house.http(house.key("plainly")) as http, house.http(house.key("stranger")) as other:
        decision = (await http.post("/api/v1/route", json=BODY)).json()
        assert "reservation_id" not in decision
        named = {"x-trivet-decision-id": decision["decision_id"]}
        assert (await other.post("/v1/chat/completions", json=BODY, headers=named)).status_code == 404
        for _ in range(2):
            answer = await http.post("/v1/chat/completions", json=BODY, headers=named)
            assert answer.headers["x-trivet-decision-id"] == decision["decision_id"]
        assert (await report(http, decision, 1, 1)).status_code == 404


async def test_a_hold_is_refused_as_the_request_would_be(house: House) -> None:
    """Little left: the granted output is lower. Nothing left: a budget's refusal, and nothing is held."""
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/tight", json={"daily": 160})
    async with house.http(house.key("tight")) as http:
        decision = await routed(http, max_tokens=200)
        assert 64 <= decision["max_tokens"] < 200
        refused = await http.post("/api/v1/route", json=BODY | {"reserve": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_contended")
        wrong = await http.post("/api/v1/route", json=BODY | {"reserve": "yes"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "reserve")
        await report(http, decision, 0, 0, ok=False)
    assert await held_and_used(house, "tight") == (0, 0)


async def test_a_rate_limit_leaves_the_hold_where_it_is(house: House) -> None:
    """Whoever is told to come later finds it then."""
    async with house.http(house.key("slowly")) as http, house.http() as admin:
        decision = await routed(http)
        await admin.put("/api/v1/rate-limits/slowly", json={"requests_per_minute": 0})
        named = {"x-trivet-decision-id": decision["decision_id"]}
        refused = await http.post("/v1/chat/completions", json=BODY, headers=named)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (await held_and_used(house, "slowly"))[0] > 0
        await admin.delete("/api/v1/rate-limits/slowly")
        assert (await http.post("/v1/chat/completions", json=BODY, headers=named)).status_code == 200
    assert (await held_and_used(house, "slowly"))[0] == 0


@pytest.fixture(scope="module")
async def hasty(
    tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Trivet whose outside holds live for a second."""
    tiers = {tier: launched(tiny_models, "light") for tier in ("light", "standard", "heavy")}
    for tier, (deployment,) in tiers.items():
        deployment["name"] = tier + "-one"
    settings = settings_for(
        tmp_path_factory.mktemp("hasty"), tiers, budgets={"outside_hold_s": 1.0, "contended_wait_s": 0.0}
    )
    async with serving(settings) as found:
        yield found


async def test_what_is_not_reported_is_charged_and_corrected_later(hasty: House) -> None:
    """After its time all of the hold is charged and nothing executes it; a late report corrects it once."""
    async with hasty.http(hasty.key("late")) as http:
        decision = await routed(http)
        plain = (await http.post("/api/v1/route", json=BODY)).json()
        ceiling, _ = await held_and_used(hasty, "late")
        await asyncio.sleep(1.05)
        for routed_before in (decision, plain):
            named = {"x-trivet-decision-id": routed_before["decision_id"]}
            answer = await http.post("/v1/chat/completions", json=BODY, headers=named)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "decision_spent")
        await asyncio.wrap_future(hasty.trivet.ledger.expire())
        assert await held_and_used(hasty, "late") == (0, ceiling)
        for _ in range(2):
            assert (await report(http, decision, 5, 5)).json()["charged"]["tokens"] == 10
            assert await held_and_used(hasty, "late") == (0, 10)
    assert hasty.trivet.ledger.verify().as_json()["ok"]


async def test_the_library_does_the_same(house: House) -> None:
    """`route(reserve=True)`, then `report` or `complete(decision_id=...)`."""
    async with Trivet.connect(house.url, api_key=house.key("library")) as trivet:
        route = await trivet.route("Hello", model="light", max_tokens=8, reserve=True)
        assert (route.reservation_id, route.max_tokens) == (route.decision_id, 8)
        settled = await trivet.report(route.decision_id, prompt_tokens=3, completion_tokens=2, latency_ms=9.5)
        assert settled["charged"]["tokens"] == 5
        held = await trivet.route("Hello", model="light", max_tokens=8, reserve=True)
        answer = await trivet.complete("Hello", max_tokens=8, decision_id=held.decision_id)
        assert answer.facts.decision_id == held.decision_id
        with pytest.raises(DecisionSpent):
            await trivet.report(held.decision_id, prompt_tokens=1, completion_tokens=1)
        with pytest.raises(NotFound):
            await trivet.report("unknown", prompt_tokens=1, completion_tokens=1)
