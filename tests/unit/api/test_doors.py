"""What a caller meets before any request is decided: paths, methods, names, and bodies that do not come."""

import json
from typing import Any

import pytest

from tests.unit.api.conftest import Rooms
from trivet.api.asgi import BODY_TIMEOUT_S, Message


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/v1/chat/completions", "POST"), ("DELETE", "/healthz", "GET"), ("POST", "/v1/models", "GET")],
)
async def test_a_wrong_method_names_the_right_one(rooms: Rooms, method: str, path: str, allow: str) -> None:
    """A 405 is the caller's error, and says which method is offered, as HTTP wants."""
    answer = await rooms.ask(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (
        405,
        "invalid_request",
        "invalid_request_error",
    )
    assert allow in answer.headers["allow"].split(", ")
    assert allow in error["message"]


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/moderations", "/v1/files"])
async def test_what_is_not_offered_says_what_is(rooms: Rooms, path: str) -> None:
    """OpenAI's other routes are answered with the one that exists."""
    answer = await rooms.ask("POST", path, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "POST /v1/chat/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503)])
async def test_probes_may_ask_for_the_head(rooms: Rooms, path: str, status: int) -> None:
    """Load balancers that send HEAD get the status without a body."""
    assert (await rooms.ask("HEAD", path)).status_code == status


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        (
            {},
            [
                "auto",
                "light",
                "standard",
                "heavy",
                *(f"vllm/{t}-model" for t in ("light", "standard", "heavy")),
            ],
        ),
        ({"tiers": ("light",)}, ["auto", "light", "vllm/light-model"]),
        ({"models": ("vllm/heavy-model",)}, ["auto", "heavy", "vllm/heavy-model"]),
        ({"tiers": ("light",), "models": ("vllm/heavy-model",)}, ["auto"]),
    ],
)
async def test_the_list_of_models_is_the_keys(rooms: Rooms, limits: dict[str, Any], names: list[str]) -> None:
    """A tier is listed if the key may use something in it; each name can be asked for, others cannot."""
    key = rooms.key("acme.list", **limits)
    listed = (await rooms.ask("GET", "/v1/models", key)).json()["data"]
    assert [model["id"] for model in listed] == names
    for model in listed:
        assert (await rooms.ask("GET", f"/v1/models/{model['id']}", key)).json() == model
    missing = await rooms.ask("GET", "/v1/models/nope", key)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    unknown = await rooms.ask("POST", "/api/v1/route", key, json={"model": "nope", "messages": MESSAGES})
    assert sorted(unknown.json()["error"]["trivet"]["names"]) == sorted(names)


async def test_readiness_says_what_is_missing(rooms: Rooms) -> None:
    """A store that answers and engines that do not: the body names both, and which is in the way."""
    told = (await rooms.ask("GET", "/readyz")).json()
    assert (told["status"], told["store"], told["reason"]) == ("not_ready", "ready", "No engine is ready.")


MESSAGES = [{"role": "user", "content": "Hello"}]


async def test_an_administrative_body_has_its_time(rooms: Rooms) -> None:
    """A body that stops coming is refused when its time is over, not waited for."""
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            raise TimeoutError  # what `asyncio.timeout_at` raises when the time is over
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "PUT",
        "path": "/api/v1/budgets/acme",
        "headers": [(b"authorization", f"Bearer {rooms.trivet.owner_token}".encode())],
        "query_string": b"",
    }
    await rooms.trivet.application(scope, receive, send)
    error = json.loads(sent[1]["body"])["error"]
    assert (sent[0]["status"], error["code"]) == (400, "invalid_request")
    assert f"{BODY_TIMEOUT_S:g} s" in error["message"]
