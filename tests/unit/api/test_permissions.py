"""Who may do what: every operation of the OpenAPI document and every inference route, for every kind of key.

The expectations are written down here by hand. An operation that is new fails until its row is.
"""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from tests.unit.api.conftest import Rooms, settings_at
from trivet.api.application import INFERENCE_PATHS
from trivet.app.assembly import open_trivet
from trivet.config.batch_settings import BatchSettings
from trivet.domain.budgets import Override
from trivet.domain.scopes import Scope

CALLERS = ("admin", "auditor", "tenant admin", "tenant", "foreign tenant", "no key")
OPEN = {"GET /healthz", "GET /readyz", "GET /metrics"}
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
BATCH = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}


@dataclass(frozen=True, slots=True)
class Cell:
    """What an operation is asked with, and the status that each of CALLERS gets, in that order."""

    expected: tuple[int, ...]
    json: Any = None
    params: dict[str, str] | None = None


# The thing that each path names lies in acme.search: the scope itself, one below it, a key, an override.
LIMITS, RATES = {"daily": 1000}, {"requests_per_minute": 1000}
CELLS: dict[str, Cell] = {
    "GET /api/v1/budgets": Cell((200, 200, 200, 200, 200, 401)),
    "GET /api/v1/budgets/{scope}": Cell((200, 200, 200, 200, 404, 401)),
    "GET /api/v1/budgets/{scope}/status": Cell((200, 200, 200, 200, 404, 401)),
    "PUT /api/v1/budgets/{scope}": Cell((200, 403, 200, 403, 404, 401), LIMITS),
    "PUT /api/v1/budgets/{scope}/time-zone": Cell((400, 403, 403, 403, 404, 401), {"time_zone": "UTC"}),
    "DELETE /api/v1/budgets/{scope}": Cell((204, 403, 204, 403, 404, 401)),
    "GET /api/v1/keys": Cell((200, 200, 200, 403, 403, 401)),
    "POST /api/v1/keys": Cell((201, 403, 201, 403, 404, 401), {"scope": "acme.search.ana"}),
    "PATCH /api/v1/keys/{key_id}": Cell((200, 403, 200, 403, 404, 401), {"label": "x"}),
    "POST /api/v1/keys/{key_id}/rotate": Cell((201, 403, 201, 403, 404, 401), {"overlap_s": 60}),
    "DELETE /api/v1/keys/{key_id}": Cell((204, 403, 204, 403, 404, 401)),
    "GET /api/v1/overrides": Cell((200, 200, 200, 200, 404, 401), params={"scope": "acme.search"}),
    "POST /api/v1/overrides": Cell(
        (201, 403, 201, 403, 404, 401), {"kind": "approval", "scope": "acme.search", "reason": "a test"}
    ),
    "POST /api/v1/overrides/{override_id}/approve": Cell((200, 403, 403, 403, 404, 401)),
    "POST /api/v1/overrides/{override_id}/deny": Cell((200, 403, 403, 403, 404, 401)),
    "DELETE /api/v1/overrides/{override_id}": Cell((200, 403, 200, 403, 404, 401)),
    "GET /api/v1/rate-limits": Cell((200, 200, 200, 200, 200, 401)),
    "GET /api/v1/rate-limits/{scope}": Cell((200, 200, 200, 200, 404, 401)),
    "PUT /api/v1/rate-limits/{scope}": Cell((200, 403, 200, 403, 404, 401), RATES),
    "DELETE /api/v1/rate-limits/{scope}": Cell((204, 403, 204, 403, 404, 401)),
    "GET /api/v1/savings": Cell((200, 200, 200, 200, 404, 401), params={"scope": "acme.search"}),
    "GET /api/v1/usage": Cell((200, 200, 200, 200, 404, 401), params={"scope": "acme.search"}),
    "GET /api/v1/deployments": Cell((200, 200, 200, 200, 200, 401)),
    "GET /api/v1/ledger/history": Cell((200, 200, 200, 403, 404, 401), params={"scope": "acme.search"}),
    "POST /api/v1/decisions/{decision_id}/outcome": Cell(
        (200, 403, 200, 200, 404, 401), {"prompt_tokens": 1, "completion_tokens": 1}
    ),
    "GET /api/v1/cache": Cell((200, 200, 200, 200, 404, 401), params={"scope": "acme.search"}),
    "DELETE /api/v1/cache": Cell((200, 403, 200, 403, 404, 401), params={"scope": "acme.search"}),
    "GET /api/v1/alerts": Cell((200, 200, 200, 200, 404, 401), params={"scope": "acme.search"}),
    "POST /api/v1/alerts/retry": Cell((200, 403, 403, 403, 403, 401)),
    "POST /api/v1/alerts/test": Cell((202, 403, 403, 403, 403, 401)),
    "GET /api/v1/audit": Cell((200, 200, 200, 403, 404, 401), params={"scope": "acme.search"}),
    "GET /api/v1/batch": Cell((200, 200, 200, 200, 404, 401), params={"scope": "acme.search"}),
    "GET /api/v1/batch/{batch_id}": Cell((200, 200, 200, 200, 404, 401)),
    "GET /api/v1/batch/{batch_id}/results": Cell((200, 403, 200, 200, 404, 401)),
    "DELETE /api/v1/batch/{batch_id}": Cell((200, 403, 200, 200, 404, 401)),
    "POST /api/v1/ledger/verify": Cell((200, 200, 403, 403, 403, 401)),
    # Not in the OpenAPI document, which they bypass. No engine answers here: 502 is past every door.
    "POST /v1/chat/completions": Cell((502, 403, 502, 502, 502, 401), CHAT),
    "POST /v1/completions": Cell((502, 403, 502, 502, 502, 401), {"prompt": "Hello", "max_tokens": 8}),
    "POST /v1/embeddings": Cell((502, 403, 502, 502, 502, 401), {"input": "Hello"}),
    "POST /v1/responses": Cell((502, 403, 502, 502, 502, 401), {"input": "Hello", "max_output_tokens": 8}),
    "POST /v1/messages": Cell((502, 403, 502, 502, 502, 401), CHAT),
    "POST /v1/messages/count_tokens": Cell((502, 403, 502, 502, 502, 401), CHAT),
    "POST /tokenize": Cell((502, 403, 502, 502, 502, 401), {"prompt": "Hello"}),
    "GET /v1/models": Cell((200, 200, 200, 200, 200, 401)),
    "GET /v1/models/{name:path}": Cell((200, 200, 200, 200, 200, 401)),
    "POST /api/v1/route": Cell((200, 200, 200, 200, 200, 401), CHAT),
    "POST /api/v1/batch": Cell((201, 403, 201, 201, 201, 401), BATCH),
}
OWN_SCOPE_IS_NOT_ONES_OWN_TO_BOUND = (
    ("PUT", "/api/v1/budgets/acme.search", LIMITS),
    ("DELETE", "/api/v1/budgets/acme.search", None),
    ("PUT", "/api/v1/rate-limits/acme.search", RATES),
    ("DELETE", "/api/v1/rate-limits/acme.search", None),
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Rooms]:
    """A Trivet of this test's own, where nothing happens behind: batches wait."""
    settings = settings_at(tmp_path, vectors=True)
    idle = settings.model_copy(update={"batch": BatchSettings(concurrency=0)})
    async with open_trivet(idle) as trivet:
        yield Rooms(trivet)


def operations(house: Rooms) -> list[str]:
    """Return every operation of the application, but for pages that describe it."""
    application = house.trivet.application
    found = [
        f"{method.upper()} {path}"
        for path, methods in application.openapi()["paths"].items()
        for method in methods
    ]
    for route in application.routes:
        if isinstance(route, Route) and route.include_in_schema and route.path != "/openapi.json":
            found += [f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"}]
    return sorted(set(found))


def keys_of(house: Rooms) -> dict[str, str | None]:
    """Make a key for each caller; the owner's token is a further admin."""
    return {
        "admin": house.key("owner", role="admin"),
        "auditor": house.key("owner", role="auditor"),
        "tenant admin": house.key("acme.search", role="tenant_admin"),
        "tenant": house.key("acme.search"),
        "foreign tenant": house.key("globex"),
        "no key": "none",
    }


async def place(house: Rooms, operation: str) -> str:
    """Return the operation's path with a thing of acme.search in it, made anew where it must be."""
    path = operation.partition(" ")[2]
    ledger, keyring = house.trivet.ledger, house.trivet.keyring
    if "{key_id}" in path:
        path = path.replace("{key_id}", keyring.create("acme.search.ana")[1].key_id)  # type: ignore[arg-type]
    if "{override_id}" in path:
        asked = {"kind": "approval", "scope": "acme.search.ana", "reason": "a test"}
        answer = await house.ask("POST", "/api/v1/overrides", json=asked)
        assert answer.status_code == 201, answer.text
        assert isinstance(ledger.overrides()[0], Override)
        path = path.replace("{override_id}", answer.json()["override_id"])
    if "{decision_id}" in path:
        answer = await house.ask(
            "POST", "/api/v1/route", house.key("acme.search.ana"), json=CHAT | {"reserve": True}
        )
        path = path.replace("{decision_id}", answer.json()["decision_id"])
    if "{batch_id}" in path:
        answer = await house.ask("POST", "/api/v1/batch", house.key("acme.search.ana"), json=BATCH)
        path = path.replace("{batch_id}", answer.json()["id"])
    return path.replace("{scope}", "acme.search.ana").replace("{name:path}", "auto")


async def test_every_operation_for_every_caller(house: Rooms) -> None:
    """Each cell of the matrix gives the status that is written here; refused ones changed nothing."""
    found = operations(house)
    assert sorted({*CELLS, *OPEN}) == found
    keys = keys_of(house)
    wrong: list[tuple[object, ...]] = []
    for operation, cell in CELLS.items():
        method = operation.partition(" ")[0]
        for caller, expected in zip(CALLERS, cell.expected, strict=True):
            path = await place(house, operation)
            before = house.trivet.ledger.verify().as_json()["entries"]
            answer = await house.ask(method, path, keys[caller], json=cell.json, params=cell.params)
            if answer.status_code != expected:
                wrong.append((operation, caller, expected, answer.status_code, answer.text[:200]))
            if expected in (401, 403, 404) and house.trivet.ledger.verify().as_json()["entries"] != before:
                wrong.append((operation, caller, "changed the ledger"))
    assert wrong == []
    for operation in OPEN:
        assert (await house.ask("GET", operation.partition(" ")[2], "none")).status_code in (200, 503)


async def test_what_bounds_a_scope_is_set_from_above(house: Rooms) -> None:
    """A tenant admin cannot widen its own bounds, nor give more than it has to those below."""
    chief = house.key("acme.search", role="tenant_admin")
    for method, path, body in OWN_SCOPE_IS_NOT_ONES_OWN_TO_BOUND:
        assert (await house.ask(method, path, chief, json=body)).status_code == 403
    assert (await house.ask("PUT", "/api/v1/budgets/acme", chief, json=LIMITS)).status_code == 404
    await house.ask("PUT", "/api/v1/budgets/acme.search", json={"daily": 500, "request": 50})
    below = "/api/v1/budgets/acme.search.ana"
    for limits in ({"daily": 501}, {"request": 51}, {"daily": {"limit": 500, "critical_allowance": 1}}):
        answer = await house.ask("PUT", below, chief, json=limits)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert (await house.ask("PUT", below, chief, json={"daily": 500, "request": 50})).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [{"role": "admin"}, {"role": "auditor"}, {"priority": "critical"}, {"tiers": ["heavy"]}],
)
async def test_a_tenant_admin_makes_no_key_beyond_its_own(house: Rooms, wanted: dict[str, Any]) -> None:
    """Neither the role nor the priority nor the tiers of a key that it makes exceed its own."""
    chief = house.key("acme.search", role="tenant_admin", tiers=("light",))
    answer = await house.ask("POST", "/api/v1/keys", chief, json={"scope": "acme.search.ana", **wanted})
    assert answer.status_code == 403
    made = await house.ask("POST", "/api/v1/keys", chief, json={"scope": "acme.search.ana"})
    assert (made.status_code, made.json()["tiers"]) == (201, ["light"])


async def test_keys_of_admins_are_no_tenants_to_see(house: Rooms) -> None:
    """An admin's key does not exist for a tenant admin, even where its record names the same scope."""
    chief = house.key("acme", role="tenant_admin")
    admins = house.trivet.keyring.create("acme", role="admin")[1].key_id  # type: ignore[arg-type]
    listed = (await house.ask("GET", "/api/v1/keys", chief)).json()["keys"]
    assert admins not in {record["key_id"] for record in listed}
    for method, path in (("DELETE", ""), ("POST", "/rotate"), ("PATCH", "")):
        answer = await house.ask(method, f"/api/v1/keys/{admins}{path}", chief, json={})
        assert answer.status_code == 404


async def test_a_key_with_limits_of_its_own(house: Rooms) -> None:
    """They are set on the key's own scope and bind it alone."""
    wanted = {"scope": "acme.search.ana", "limits": {"daily": 100}, "priority": "batch"}
    made = (await house.ask("POST", "/api/v1/keys", json=wanted)).json()
    assert made["scope"] == f"acme.search.ana.key-{made['key_id']}"
    answer = await house.ask("POST", "/v1/chat/completions", made["key"], json=CHAT | {"max_tokens": 500})
    assert answer.json()["error"]["code"] == "request_too_large"
    assert answer.json()["error"]["trivet"]["scope"] == made["scope"]


async def test_an_override_is_asked_for_by_one_and_approved_by_another(house: Rooms) -> None:
    """Whoever asks cannot approve; approved it adds to the limit; revoked it does so no more."""
    first, second = house.key("owner", role="admin"), house.key("owner", role="admin")
    await house.ask("PUT", "/api/v1/budgets/acme.search", json={"daily": 100})
    asked = {"scope": "acme.search", "amount": 50, "reason": "month end"}
    made = (await house.ask("POST", "/api/v1/overrides", first, json=asked)).json()
    path = f"/api/v1/overrides/{made['override_id']}"
    assert (await house.ask("POST", f"{path}/approve", first)).status_code == 403
    # A key that follows another is held by the same person; and so is what follows that one.
    for _ in range(2):
        key_id = first.split("_")[1]
        first = (await house.ask("POST", f"/api/v1/keys/{key_id}/rotate", json={})).json()["key"]
        assert (await house.ask("POST", f"{path}/approve", first)).status_code == 403
    assert (await house.ask("POST", f"{path}/approve", second)).json()["state"] == "approved"

    async def overridden() -> int:
        status = (await house.ask("GET", "/api/v1/budgets/acme.search/status")).json()
        return next(int(r["overridden"]) for r in status["rows"] if r["limit"] == 100)

    assert await overridden() == 50
    assert (await house.ask("DELETE", path, first)).json()["state"] == "revoked"
    assert await overridden() == 0


async def test_a_rate_limit_refuses_before_anything_is_held(house: Rooms) -> None:
    """429 with an honest wait and OpenAI's headers; the ledger never hears of it."""
    tenant = house.key("acme.search.ana")
    await house.ask("PUT", "/api/v1/rate-limits/acme", json={"requests_per_minute": 1})
    assert (await house.ask("POST", "/v1/chat/completions", tenant, json=CHAT)).status_code == 502
    before = house.trivet.ledger.verify().as_json()["entries"]
    answer = await house.ask("POST", "/v1/chat/completions", tenant, json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.json()["error"]["trivet"]["scope"] == "acme"
    assert 50 <= int(answer.headers["retry-after"]) <= 60
    assert house.trivet.ledger.verify().as_json()["entries"] == before


async def test_no_engine_is_asked_without_a_hold(house: Rooms) -> None:
    """Whatever asks an engine holds first, and closes what it held; no other operation asks one."""
    ledger, admin = house.trivet.ledger, house.key("acme.search", role="admin")
    asking = set()
    for operation, cell in CELLS.items():
        path = await place(house, operation)
        before = Counter(entry.kind for entry in ledger.history(Scope("acme"), limit=10_000))
        called_before = await attempts_of(house)
        await house.ask(operation.partition(" ")[0], path, admin, json=cell.json, params=cell.params)
        after = Counter(entry.kind for entry in ledger.history(Scope("acme"), limit=10_000))
        news = after - before
        if await attempts_of(house) > called_before:
            asking.add(operation)
            assert (news["reserve"], news["settle"] + news["release"]) == (1, 1), operation
        else:
            assert news["reserve"] == 0, operation
    assert asking == {f"POST {path}" for path in INFERENCE_PATHS}


async def attempts_of(house: Rooms) -> float:
    """Return how many attempts at engines were ever made, by the metrics."""
    text = (await house.ask("GET", "/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("trivet_attempts_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
