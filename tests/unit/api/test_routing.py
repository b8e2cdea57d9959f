"""The decision's door: a client that leaves within its body, and a fault of ours."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.unit.api.conftest import Rooms
from trivet.api.asgi import Message


async def sent_for(rooms: Rooms, receive: Callable[[], Awaitable[Message]]) -> list[Message]:
    """Ask for a decision with a body that arrives as told; return the messages that come back."""
    sent: list[Message] = []
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/route",
        "headers": [(b"authorization", f"Bearer {rooms.trivet.owner_token}".encode())],
        "query_string": b"",
    }

    async def send(message: Message) -> None:
        sent.append(message)

    await rooms.trivet.application(scope, receive, send)
    return sent


async def test_a_client_that_leaves_within_its_body_is_let_go(rooms: Rooms) -> None:
    """Nothing is answered and nothing is raised."""
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"mess', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    assert await sent_for(rooms, receive) == []


async def test_a_fault_of_ours_is_an_honest_500(rooms: Rooms) -> None:
    """What nobody foresaw is answered in OpenAI's shape, with the request's id and no detail."""

    async def receive() -> Message:
        raise RuntimeError("secret detail")

    start, body = await sent_for(rooms, receive)
    error = json.loads(body["body"])["error"]
    headers = dict(start["headers"])
    assert (start["status"], error["code"], error["type"]) == (500, "internal_error", "server_error")
    assert headers[b"x-request-id"].decode() == error["trivet"]["request_id"]
    assert b"secret" not in body["body"]
