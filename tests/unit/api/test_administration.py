"""What operators and tenants may ask: which names are known, which figures are whose, which times can be."""

from typing import Any

import pytest

from tests.unit.api.conftest import Rooms

MACHINES = ("busy", "busy_check", "wall_times_devices")


@pytest.mark.parametrize(
    ("field", "names", "known"),
    [
        ("tiers", ["light", "huge"], "light, standard, heavy"),
        ("models", ["heavy"], "vllm/light-model, vllm/standard-model, vllm/heavy-model"),
        ("label", "a\nb", "plain text"),
        ("expires_at", "9999-12-31", "2262-01-01"),
        ("expires_at", "1971-01-01", "lies in the past"),
        ("expires_at", "30d", "is not a time. Use an ISO instant"),
    ],
)
async def test_a_key_is_made_of_known_names_only(either: Rooms, field: str, names: Any, known: str) -> None:
    """A tier or deployment that is not configured is refused with those that are, engines or none."""
    answer = await either.ask("POST", "/api/v1/keys", json={"scope": "acme", field: names})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", field)
    assert known in error["message"]


async def test_a_key_with_known_names_is_made(either: Rooms) -> None:
    """Configured names and a far expiry are accepted."""
    wanted = {"scope": "acme", "tiers": ["light"], "models": ["vllm/light-model"], "expires_at": "2261-12-31"}
    answer = await either.ask("POST", "/api/v1/keys", json=wanted)
    assert (answer.status_code, answer.json()["models"]) == (201, ["vllm/light-model"])


@pytest.mark.parametrize("path", ["/api/v1/savings", "/api/v1/usage"])
@pytest.mark.parametrize(
    "period",
    [{"since": "999999w"}, {"since": "0001-01-01"}, {"until": "9999-12-31"}, {"until": "1969-01-01"}],
)
async def test_a_period_beyond_the_calendar_is_malformed(
    rooms: Rooms, path: str, period: dict[str, str]
) -> None:
    """An instant that cannot be kept is the caller's fault, not ours."""
    answer = await rooms.ask("GET", path, params=period)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(period)))


async def test_a_period_at_the_bounds_is_reported(rooms: Rooms) -> None:
    """All that can be kept can be asked for, and the default start does not leave it."""
    whole = {"since": "1970-01-01", "until": "2262-01-01"}
    assert (await rooms.ask("GET", "/api/v1/savings", params=whole)).status_code == 200
    assert (await rooms.ask("GET", "/api/v1/usage", params={"until": "1970-01-02"})).status_code == 200


@pytest.mark.parametrize(
    "limits",
    [
        *({"daily": 10**15 + 1}, {"daily": -1}, {"yearly": 1}, {}),
        *({"daily": True}, {"daily": "5"}, {"daily": 5.0}),
    ],
)
async def test_a_limit_that_cannot_be_kept_is_malformed(rooms: Rooms, limits: dict[str, Any]) -> None:
    """A limit is a known window's whole number that sums of limits do not overflow with."""
    answer = await rooms.ask("PUT", "/api/v1/budgets/limits", json=limits)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_the_machines_totals_are_for_admins(rooms: Rooms) -> None:
    """A tenant's savings name every field, but what the others used cannot be read from them."""
    mine = (await rooms.ask("GET", "/api/v1/savings", rooms.key("acme.savings"))).json()
    whole = (await rooms.ask("GET", "/api/v1/savings")).json()
    assert mine.keys() == whole.keys()
    assert [mine[name] for name in MACHINES] == [None, None, None]
    assert [whole[name] for name in MACHINES] == [0.0, 0.0, 0.0]
    assert mine["attributed"] == 0.0


@pytest.mark.parametrize("limits", [{"tiers": ("light",)}, {"models": ("vllm/light-model",)}])
async def test_a_tenant_sees_the_deployments_of_its_key(rooms: Rooms, limits: dict[str, Any]) -> None:
    """Neither other deployments nor the operators' facts are shown to a tenant."""
    answer = await rooms.ask("GET", "/api/v1/deployments", rooms.key("acme.seen", **limits))
    (seen,) = answer.json()["deployments"]
    assert seen["name"] == "vllm/light-model"
    assert seen.keys() & {"url", "pid", "detail", "in_flight", "restarts", "slots"} == set()
    whole = (await rooms.ask("GET", "/api/v1/deployments")).json()["deployments"]
    assert [deployment["slots"] for deployment in whole] == [256, 256, 256]


async def test_a_decision_names_no_deployment_beyond_the_key(rooms: Rooms) -> None:
    """A limited key's decision lists what it may use; an admin's lists everything."""
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    limited = await rooms.ask("POST", "/api/v1/route", rooms.key("acme.routed", tiers=("light",)), json=body)
    assert (limited.status_code, limited.json()["rejected"]) == (200, [])
    assert "heavy" not in limited.text
    whole = (await rooms.ask("POST", "/api/v1/route", json=body)).json()
    assert [candidate["tier"] for candidate in whole["candidates"]] == ["light", "standard", "heavy"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ('{"daily": 1, "daily": 2}', None, "repeats a key"),
        ('{"daily": NaN}', None, "not JSON"),
        ('{"daily": "\\ud800"}', None, "half a surrogate pair"),
        ("{", None, "The body is not JSON"),
        ("", None, "The body is missing"),
        ('{"daily": "5"}', "daily", "a whole number, null, or"),
        ('{"daily": {"limit": 5, "allowance": 1}}', "daily.allowance", "is not known here"),
        ('{"daily": {"critical_allowance": 5}}', "daily.limit", "is missing"),
    ],
)
async def test_a_fault_of_a_body_is_told_where_it_is(
    rooms: Rooms, body: str, param: str | None, words: str
) -> None:
    """Bodies are read as strictly as everywhere, and the fault is named by the caller's own names."""
    answer = await rooms.ask("PUT", "/api/v1/budgets/faults", raw=body.encode())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", param)
    assert words in error["message"]


async def test_a_missing_query_is_named_as_it_is_written(rooms: Rooms) -> None:
    """The parameter is called what the caller has to write."""
    error = (await rooms.ask("GET", "/api/v1/ledger/history")).json()["error"]
    assert (error["param"], error["message"]) == ("scope", "scope is missing.")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
async def test_what_curl_sends_counts_as_json(rooms: Rooms, kind: str) -> None:
    """`curl -d` calls every body a form; here all bodies are JSON, as at the inference routes."""
    answer = await rooms.ask(
        "PUT", "/api/v1/budgets/curled", raw=b'{"daily": 7}', headers={"content-type": kind}
    )
    assert (answer.status_code, answer.json()["rows"][0]["limit"]) == (200, 7)


async def test_limits_can_be_read_back_as_they_were_set(rooms: Rooms) -> None:
    """A scope's own, with whoever set them; what binds it from above is its status' to tell."""
    await rooms.ask("PUT", "/api/v1/budgets/crud", json={"daily": 9000})
    wanted = {"daily": {"limit": 500, "critical_allowance": 20}, "usd_micros.task": 7, "monthly": None}
    await rooms.ask("PUT", "/api/v1/budgets/crud.team", json=wanted)
    told = (await rooms.ask("GET", "/api/v1/budgets/crud.team")).json()["limits"]
    assert [(each["meter"], each["window"], each["amount"], each["critical_allowance"]) for each in told] == [
        ("tokens", "daily", 500, 20),
        ("tokens", "monthly", None, 0),
        ("usd_micros", "task", 7, 0),
    ]
    assert {(each["version"], each["author"]) for each in told} == {(1, "owner")}
    await rooms.ask("DELETE", "/api/v1/budgets/crud.team")
    assert (await rooms.ask("GET", "/api/v1/budgets/crud.team")).json()["limits"] == []
