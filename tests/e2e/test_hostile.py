"""Clients that mean no good, or read nothing: each is bounded, and nothing stays held for them."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import WEIGHTS, House, launched, serving, settings_for
from trivet.domain.scopes import Scope

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
    """A Trivet that gives clients little time; whoever is not to lose a connection by it asks `house`."""
    deployments = {tier: launched(tiny_models, tier) for tier in WEIGHTS}
    server = {"port": 0, "write_timeout_s": 0.3, "head_timeout_s": 0.3, "body_timeout_s": 0.3}
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
    rows = [row for row in brisk.trivet.ledger.rows() if row.scope == Scope("stalled")]
    assert {row.held for row in rows} == {0}
    assert min(row.used for row in rows) > 0
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
async def test_heads_are_bounded(house: House, head: bytes) -> None:
    """A request head that is too large, or no HTTP, is refused and the connection closed."""
    answer = await exchange(house, head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


ADMINISTRATION = b"PUT /api/v1/budgets/x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
CHAT_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        CHAT_HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        CHAT_HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        CHAT_HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        CHAT_HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        CHAT_HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        CHAT_HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
        CHAT_HEAD + b"content-length: +2\r\n\r\n{}",
        CHAT_HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",
        CHAT_HEAD + b"host: y\r\ncontent-length: 2\r\n\r\n{}",
        CHAT_HEAD + b"authorization: Bearer a\r\nauthorization: Bearer b\r\ncontent-length: 2\r\n\r\n{}",
        CHAT_HEAD + b"x-trivet-scope: a\r\nx-trivet-scope: b\r\ncontent-length: 2\r\n\r\n{}",
        CHAT_HEAD + b"x-trivet-session: a\rb\r\ncontent-length: 2\r\n\r\n{}",
        CHAT_HEAD + b"x-trivet-session: a\nx: b\r\ncontent-length: 2\r\n\r\n{}",
        CHAT_HEAD + b"x-trivet-session: a\x00b\r\ncontent-length: 2\r\n\r\n{}",
        CHAT_HEAD + b"x-trivet-session: a\r\n b\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz\r\n\r\n",
    ],
)
async def test_what_can_be_read_in_two_ways_is_refused(house: House, head: bytes) -> None:
    """One answer, 400, and the connection is closed: nothing behind it is taken for another request."""
    answer = await exchange(house, head + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_offers_of_other_protocols_are_passed_over(house: House) -> None:
    """Java's HttpClient offers HTTP/2 with each request: what it sends is answered, body and all."""
    body = b'{"model": "nothing-like-it", "messages": [{"role": "user", "content": "x"}]}'
    fields = (
        b"authorization: Bearer %s\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\ncontent-length: %d\r\n\r\n"
    ) % (house.trivet.owner_token.encode(), len(body))
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await exchange(house, CHAT_HEAD + fields + body + last)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"model_not_found" in answer
    assert answer.count(b"HTTP/1.1 200") == 1


async def test_an_offer_in_pieces_is_refused(house: House) -> None:
    """Where it is not seen in time the body would be lost, or be taken for a request: the connection ends."""
    body = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    rest = b"grade: h2c\r\nconnection: upgrade\r\ncontent-length: %d\r\n\r\n" % len(body)
    for piece in (CHAT_HEAD + b"up", rest, body):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.05)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_body_that_is_announced_too_large_is_not_waited_for(brisk: House) -> None:
    """It is refused by its head alone; a client that asks before it sends (`Expect`) sends nothing."""
    for path in (b"/v1/chat/completions", b"/api/v1/route", b"/api/v1/batch", b"/api/v1/budgets/x"):
        fields = b"authorization: Bearer %s\r\n" % brisk.trivet.owner_token.encode()
        fields += b"content-length: 999999999\r\nexpect: 100-continue\r\n\r\n"
        method = b"PUT" if path.endswith(b"x") else b"POST"
        answer = await exchange(brisk, method + b" " + path + b" HTTP/1.1\r\nhost: x\r\n" + fields)
        assert answer.startswith(b"HTTP/1.1 413"), path


async def test_fields_behind_a_body_are_no_heads(house: House) -> None:
    """A key in the trailers is none, although it arrives before the application has looked."""
    body = json.dumps({"model": "light", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    key = house.key("smuggler").encode()
    chunks = b"%x\r\n%s\r\n0\r\nauthorization: Bearer %s\r\n\r\n" % (len(body), body, key)
    answer = await exchange(
        house, CHAT_HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" + chunks
    )
    assert answer.startswith(b"HTTP/1.1 401")


async def until_closed(house: House, first: bytes, drip: bytes) -> bytes:
    """Send something, then a little again and again until the server closes; return what it said."""
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    said = bytearray()

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(4096):
                said.extend(part)

    listening = asyncio.create_task(listen())
    try:
        writer.write(first)
        async with asyncio.timeout(10):
            while not listening.done():
                writer.write(drip)
                await asyncio.sleep(0.02)
    finally:
        writer.close()
        await listening
    return bytes(said)


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", b"400"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nx-slow: ", b"200"),
        (CHAT_HEAD + b"authorization: Bearer %s\r\ncontent-length: 100000\r\n\r\n", b"400"),
        (CHAT_HEAD + b"authorization: Bearer wrong\r\ncontent-length: 100000\r\n\r\n", b"401"),
        (ADMINISTRATION + b"content-length: 60000\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"200"),
        (
            CHAT_HEAD + b"authorization: Bearer %s\r\ncontent-length: 9000000\r\n\r\n" + b" " * 3_000_000,
            b"413",
        ),
    ],
    ids=["head", "second head", "body", "refused", "administration", "unasked for", "too large"],
)
async def test_dripping_clients_lose_their_connection(brisk: House, first: bytes, status: bytes) -> None:
    """However a client drips, before its answer or after it, the connection is closed in time."""
    said = await until_closed(brisk, first.replace(b"%s", brisk.trivet.owner_token.encode()), b"a")
    assert said[:12] == b"HTTP/1.1 " + status


@pytest.mark.parametrize("drip", [b"\r\n", b"1;a=b\r\nx\r\n"])
async def test_nothing_keeps_a_connection_alive_for_nothing(brisk: House, drip: bytes) -> None:
    """Neither blank lines between requests nor chunks of one byte."""
    chunked = CHAT_HEAD + b"authorization: Bearer %s\r\ntransfer-encoding: chunked\r\n\r\n"
    first = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" if drip == b"\r\n" else chunked
    assert await until_closed(brisk, first.replace(b"%s", brisk.trivet.owner_token.encode()), drip)


async def test_endless_trailers_end(brisk: House) -> None:
    """Fields behind a body have their bound, too."""
    head = CHAT_HEAD + b"authorization: Bearer " + brisk.trivet.owner_token.encode()
    head += b"\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-a: "
    assert (await until_closed(brisk, head, b"a" * 4096))[:12] in (b"", b"HTTP/1.1 400")


@pytest.fixture
async def trap() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen at an address that nobody should ever ask; give it, and the heads of those who did."""
    heads: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        length = int(re.search(rb"content-length: (\d+)", heads[-1].lower() + b"content-length: 0")[1])  # type: ignore[index]
        await reader.readexactly(length)
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-engine-secret: s\r\n"
        head += b"keep-alive: timeout=9\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


STEERING = (
    "api_base", "base_url", "api_key", "api_version", "azure_endpoint", "organization", "extra_body",
    "extra_headers", "extra_query", "headers", "proxies", "proxy", "url", "endpoint", "host", "model_list",
    "fallbacks", "callbacks", "success_callback", "litellm_params", "custom_llm_provider", "mock_response",
    "webhook", "callback_url", "model_url", "cache",
)  # fmt: skip


async def test_no_body_and_no_header_chooses_an_address(house: House, trap: tuple[str, list[bytes]]) -> None:
    """Whatever a body calls an address, and wherever it stands, nobody is asked there."""
    url, heads = trap
    chat: dict[str, Any] = {
        "model": "light",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    image = {"type": "image_url", "image_url": {"url": f"{url}/x.png"}}
    bodies = [chat | {name: value} for name in STEERING for value in (url, {"url": url, "api_base": url})]
    bodies += [
        chat | {"metadata": dict.fromkeys(STEERING[:4], url)},
        chat | {"messages": [{"role": "user", "content": [image]}]},
        chat | {"model": f"openai/{url}"},
        chat | {"model": url},
        chat | {"tools": [{"type": "mcp", "server_label": "x", "server_url": url}]},
    ]
    headers = {f"x-{name.replace('_', '-')}": url for name in STEERING} | {"x-forwarded-host": url[7:]}
    async with house.http(house.key("steerer")) as http:
        statuses = [(await http.post("/v1/chat/completions", json=body)).status_code for body in bodies]
        statuses.append((await http.post("/v1/chat/completions", json=chat, headers=headers)).status_code)
    assert set(statuses) <= {200, 400, 404}
    assert heads == []


async def test_only_what_is_allowed_goes_on(trap: tuple[str, list[bytes]], tmp_path: Path) -> None:
    """An engine sees neither the client's key nor any header of its; the client none of the engine's."""
    url, heads = trap
    engine = {"model": "openai/x", "url": f"{url}/v1", "context_tokens": 4096}
    deployments = {tier: [engine | {"name": tier + "-x"}] for tier in WEIGHTS}
    sent = {
        "cookie": "a=b",
        "x-evil": "1",
        "proxy-authorization": "Basic x",
        "te": "trailers",
        "connection": "x-hop, keep-alive",
        "x-hop": "1",
        "forwarded": "for=1.2.3.4",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with serving(settings_for(tmp_path, deployments)) as house, house.http(house.key("acme")) as http:
        heads.clear()
        body = {"model": "light-x", "messages": [{"role": "user", "content": "Hi"}]}
        answer = await http.post("/v1/chat/completions", json=body, headers=sent)
    assert answer.status_code == 200, answer.text
    (head,) = [each for each in heads if each.startswith(b"POST")]
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
    ours = {b"host", b"accept", b"accept-encoding", b"content-type", b"content-length", b"x-request-id"}
    assert names <= ours | {b"user-agent"}
    assert b"user-agent: trivet" in head.lower()
    assert not {"x-engine-secret", "keep-alive"} & set(answer.headers)


async def test_the_key_is_checked_before_the_body(house: House) -> None:
    """On the administrative routes a wrong key with a broken body is told about the key."""
    async with house.http("tvt_wrong") as http:
        answer = await http.put("/api/v1/budgets/x", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_administrative_bodies_are_bounded(house: House) -> None:
    """A body that no administrative request needs is refused by its declared size, and by its real one."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    async with house.http() as http:
        declared = await http.put("/api/v1/budgets/x", content=b" " * 100_000)
        streamed = await http.put("/api/v1/budgets/x", content=endless())
    assert (declared.status_code, streamed.status_code) == (413, 413)


async def test_canaries_stay_out_of_logs_and_metrics(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a prompt nor a key appears in log lines, metrics or errors."""
    key = house.key("canary")
    secret = "xyzzy-canary-prompt"
    async with house.http(key) as http:
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


async def test_odd_requests_close_no_way(house: House) -> None:
    """What llama.cpp answers with 500 because the request is odd speaks against no engine."""
    odd = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]}
    call = {"role": "assistant", "tool_calls": [{"id": 3, "function": {"name": "f"}}]}
    model = "llamacpp/tiny-light"
    async with house.http() as http:
        for message in (odd, call) * 4:
            answer = await http.post("/v1/chat/completions", json={"model": model, "messages": [message]})
            assert answer.status_code == 400
        body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
