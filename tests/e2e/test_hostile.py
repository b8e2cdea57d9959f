"""Clients that mean no good, or read nothing: each is bounded, and nothing stays held for them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import WEIGHTS, House, launched, serving, settings_for

BODY = {
    "model": "heavy",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 200,
    "stream": True,
}


@pytest.fixture(scope="module")
async def brisk(
    tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Trivet that gives clients little time to read."""
    deployments = {tier: launched(tiny_models, tier) for tier in WEIGHTS}
    server = {"port": 0, "write_timeout_s": 0.3}
    async with serving(settings_for(tmp_path_factory.mktemp("brisk"), deployments, server=server)) as found:
        yield found


async def test_a_reader_that_stops(brisk: House) -> None:
    """A client that takes nothing for the write timeout counts as gone: no engine works on for it."""
    key = brisk.key("stalled")
    body = json.dumps(BODY).encode()
    asked = asyncio.Event()
    never = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not asked.is_set():
            asked.set()
            return {"type": "http.request", "body": body, "more_body": False}
        await never.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await never.wait()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {key}".encode())],
    }
    async with asyncio.timeout(10):
        await brisk.trivet.application(scope, receive, send)
    async with brisk.http() as http:
        rows = (await http.get("/api/v1/budgets/stalled/status")).json()["rows"]
    assert {row["held"] for row in rows} == {0}
    assert min(row["used"] for row in rows) > 0
    assert [report["in_flight"] for report in brisk.trivet.fleet.report()] == [0, 0, 0]


async def exchange(house: House, head: bytes) -> bytes:
    """Send raw bytes and return what comes back until the connection ends."""
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(10):
            writer.write(head)
            try:
                await writer.drain()
                return await reader.read()
            except ConnectionResetError:
                return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 66_000 + b"\r\n\r\n",
        b"GET /healthz?" + b"a" * 66_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x: " + b"b" * 300_000,
        b"\x16\x03\x01 nonsense\r\n\r\n",
    ],
    ids=["long field", "one piece", "long path", "many fields", "endless", "not http"],
)
async def test_heads_are_bounded(brisk: House, head: bytes) -> None:
    """A request head that is too large, or no HTTP, is refused and the connection closed."""
    answer = await exchange(brisk, head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


async def test_the_key_is_checked_before_the_body(brisk: House) -> None:
    """On the administrative routes a wrong key with a broken body is told about the key."""
    async with brisk.http("tvt_wrong") as http:
        answer = await http.put("/api/v1/budgets/x", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_administrative_bodies_are_bounded(brisk: House) -> None:
    """A body that no administrative request needs is refused by its declared size, and by its real one."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    async with brisk.http() as http:
        declared = await http.put("/api/v1/budgets/x", content=b" " * 100_000)
        streamed = await http.put("/api/v1/budgets/x", content=endless())
    assert (declared.status_code, streamed.status_code) == (413, 413)


async def test_canaries_stay_out_of_logs_and_metrics(brisk: House, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a prompt nor a key appears in log lines, metrics or errors."""
    key = brisk.key("canary")
    secret = "xyzzy-canary-prompt"
    async with brisk.http(key) as http:
        await http.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": secret}], "max_tokens": 4}
        )
        refused = await http.post(
            "/v1/chat/completions", json={"messages": [{"role": secret}], "model": secret[:5]}
        )
        metrics = (await http.get("/metrics")).text
    output = capfd.readouterr()
    seen = output.out + output.err + metrics + refused.text
    assert key not in seen
    assert secret not in output.out + output.err + metrics


async def test_odd_requests_close_no_way(brisk: House) -> None:
    """What llama.cpp answers with 500 because the request is odd speaks against no engine."""
    odd = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]}
    call = {"role": "assistant", "tool_calls": [{"id": 3, "function": {"name": "f"}}]}
    model = "llamacpp/tiny-light"
    async with brisk.http() as http:
        for message in (odd, call) * 4:
            answer = await http.post("/v1/chat/completions", json={"model": model, "messages": [message]})
            assert answer.status_code == 400
        body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
