"""Errors as each protocol's clients read them."""

import json

import pytest

from tests.unit.api.conftest import Rooms
from trivet.api.protocols import broken_stream_event, error_document
from trivet.domain.errors import BudgetExhausted, ContextOverflow, EngineTimeout
from trivet.domain.surfaces import Surface

PATHS = {
    "/v1/completions": Surface.COMPLETIONS,
    "/v1/embeddings": Surface.EMBEDDINGS,
    "/v1/responses": Surface.RESPONSES,
    "/v1/messages": Surface.MESSAGES,
    "/v1/messages/count_tokens": Surface.COUNT_TOKENS,
    "/tokenize": Surface.TOKENIZE,
}
ANTHROPIC = (Surface.MESSAGES, Surface.COUNT_TOKENS)


@pytest.mark.parametrize("path", PATHS)
async def test_refusals(rooms: Rooms, path: str) -> None:
    """No key, no sense, no engine: each in the shape of its protocol."""
    without = await rooms.ask("POST", path, "none", json={})
    senseless = await rooms.ask("POST", path, json={})
    if PATHS[path] not in ANTHROPIC:
        assert without.json()["error"]["code"] == "invalid_api_key"
        assert senseless.json()["error"]["type"] == "invalid_request_error"
        return
    assert (without.status_code, without.json()["error"]["type"]) == (401, "authentication_error")
    body = senseless.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["request_id"] == senseless.headers["x-request-id"]
    assert body["error"]["trivet"]["param"] == "messages"


async def test_a_decision_is_for_chat(rooms: Rooms) -> None:
    """An id that would be passed over is refused."""
    key = rooms.key("acme.decided")
    answer = await rooms.ask(
        "POST", "/api/v1/route", key, json={"messages": [{"role": "user", "content": "a"}]}
    )
    headers = {"x-api-key": key, "x-trivet-decision-id": answer.json()["decision_id"]}
    refused = await rooms.ask("POST", "/v1/responses", key, json={"input": "a"}, headers=headers)
    assert refused.json()["error"]["param"] == "x-trivet-decision-id"


def test_a_broken_stream_ends_with_an_error() -> None:
    """Each protocol's clients raise on it, and none takes the stream for whole."""
    error = EngineTimeout("The engine fell silent.")
    ends = {each: broken_stream_event(error, request_id="r", surface=each).decode() for each in Surface}
    assert json.loads(ends[Surface.CHAT].removeprefix("data: "))["error"]["code"] == "upstream_timeout"
    for surface in (Surface.MESSAGES, Surface.RESPONSES):
        name, data = ends[surface].strip().split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert (name, document["type"]) == ("event: error", "error")
        assert "The engine fell silent." in document["error"]["message"]
    assert document["code"] == "upstream_timeout"


@pytest.mark.parametrize(
    ("surface", "field"),
    [
        (Surface.CHAT, "messages"),
        (Surface.COMPLETIONS, "prompt"),
        (Surface.EMBEDDINGS, "input"),
        (Surface.RESPONSES, "input"),
    ],
)
def test_the_prompt_has_its_own_name(surface: Surface, field: str) -> None:
    """Who sent no `messages` is not told that they are too long."""
    error = ContextOverflow("Too long.", param="messages")
    assert error_document(error, status=400, request_id="r", surface=surface)["error"]["param"] == field


def test_a_spent_budget_tells_its_facts() -> None:
    """What Anthropic's shape has no field for is there all the same."""
    error = BudgetExhausted("Spent.", details={"scope": "acme"})
    body = error_document(error, status=429, request_id="r", surface=Surface.MESSAGES)
    assert body["error"]["type"] == "rate_limit_error"
    assert error_document(error, status=402, request_id="r", surface=Surface.MESSAGES)["error"]["type"] == (
        "billing_error"
    )
    assert body["error"]["trivet"] == {"code": "budget_exhausted", "param": None, "scope": "acme"}
