"""Requests around outside holds that end at each of their await points: a hold is told of, or it is gone."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.e2e.test_cancellation import (  # noqa: F401 - a fixture
    ORGANISATION,
    STEPS_MAX,
    Ending,
    Stepped,
    trivet,
    until_quiet,
)
from trivet.app import OpenTrivet
from trivet.sdk.in_process import InProcessTransport

BODY: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": f"{ORGANISATION} 0123 hello"}],
    "max_tokens": 50,
}


async def ended(
    opened: OpenTrivet, path: str, body: Any, headers: dict[str, str], step: int, ending: Ending
) -> Any:
    """Send a request that is ended at a step; return its steps and what was sent of the answer."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
    told = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    gone = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        if told:
            return told.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    stepped = Stepped(opened.application(scope, receive, send), step, ending, gone)

    async def drive() -> None:
        await stepped  # type: ignore[misc]  # an iterator is what Python awaits

    await asyncio.wait({asyncio.create_task(drive())})
    return stepped.count, sent


@pytest.mark.parametrize("ending", ["cancel", "cancel_late", "cancel_twice"])
async def test_reserving_ended_at_every_step(trivet: OpenTrivet, ending: Ending) -> None:  # noqa: F811
    """Either the caller has got its answer, and can report, or nothing is held for it."""
    headers = {"authorization": f"Bearer {trivet.keyring.create(ORGANISATION)[0]}"}
    for step in range(STEPS_MAX):
        count, sent = await ended(trivet, "/api/v1/route", BODY | {"reserve": True}, headers, step, ending)
        if len(sent) > 1 and sent[0]["status"] == 200:
            await asyncio.wrap_future(trivet.ledger.release(json.loads(sent[1]["body"])["decision_id"]))
        assert await until_quiet(trivet) == 0, f"held after an end at step {step}"
        if step and count < step:
            break
    assert 4 <= step < STEPS_MAX - 1
    assert trivet.ledger.verify().ok


@pytest.mark.parametrize("ending", ["cancel", "cancel_late", "cancel_twice", "leave"])
async def test_executing_ended_at_every_step(trivet: OpenTrivet, ending: Ending) -> None:  # noqa: F811
    """Either the hold was not taken yet, and a report ends it, or it has been charged or given back."""
    headers = {"authorization": f"Bearer {trivet.keyring.create(ORGANISATION)[0]}"}
    transport = InProcessTransport(trivet.application)
    async with httpx.AsyncClient(base_url="http://trivet", transport=transport, headers=headers) as http:
        for step in range(STEPS_MAX):
            decision = (await http.post("/api/v1/route", json=BODY | {"reserve": True})).json()["decision_id"]
            named = {**headers, "x-trivet-decision-id": decision}
            count, _ = await ended(trivet, "/v1/chat/completions", BODY, named, step, ending)
            told = {"prompt_tokens": 1, "completion_tokens": 1}
            answer = await http.post(f"/api/v1/decisions/{decision}/outcome", json=told)
            assert answer.status_code in (200, 409)
            assert await until_quiet(trivet) == 0, f"held after an end at step {step}"
            if step and count < step:
                break
    assert 6 <= step < STEPS_MAX - 1
    assert trivet.ledger.verify().ok
    assert trivet.ledger.overrun_tokens == 0
