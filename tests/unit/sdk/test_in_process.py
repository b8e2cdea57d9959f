"""The transport into an application of the same process: its ends, good and bad."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.unit.sdk.conftest import MakeSettings
from trivet import Trivet
from trivet.api.asgi import Receive, Scope, Send
from trivet.sdk.in_process import InProcessTransport

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": []}


def part(body: bytes, *, more: bool = True) -> dict[str, object]:
    """Return a message with a part of the body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def client(application: Application) -> httpx.AsyncClient:
    """Return a client of the application."""
    return httpx.AsyncClient(transport=InProcessTransport(application), base_url="http://here")


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail after two parts of the body."""
    await send(START)
    await send(part(b"a"))
    await send(part(b"b"))
    raise LookupError("mine")


async def is_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    """Be cancelled after two parts of the body."""
    await send(START)
    await send(part(b"a"))
    await send(part(b"b"))
    raise asyncio.CancelledError


async def stops(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without ending the body."""
    await send(START)
    await send(part(b"a"))
    await send(part(b"b"))


@pytest.mark.parametrize(
    ("application", "cause"), [(fails, LookupError), (is_cancelled, type(None)), (stops, type(None))]
)
async def test_an_application_that_dies_amid_its_answer_is_noticed(
    application: Application, cause: type
) -> None:
    """The reader gets what was sent, then the fault; it never waits for ever."""
    parts: list[bytes] = []

    async def read(response: httpx.Response) -> None:
        async for data in response.aiter_raw():
            parts.append(data)  # noqa: PERF401 - what came before the fault counts

    async with client(application) as http, http.stream("GET", "/") as response, asyncio.timeout(10):
        with pytest.raises(httpx.RemoteProtocolError, match="amid") as broken:
            await read(response)
    assert parts == [b"a", b"b"]
    reason: BaseException | None = broken.value
    while isinstance(reason, httpx.RemoteProtocolError):
        reason = reason.__cause__
    assert isinstance(reason, cause)


async def test_closing_the_client_ends_what_still_runs() -> None:
    """A response left open is a disconnect for the application, and its end is waited for."""
    ended = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send(part(b"a"))
        await send(part(b"b"))
        message = await receive()
        await send(part(b"c"))
        await send(part(b"d", more=False))
        await asyncio.sleep(0.01)
        ended.append(message["type"])

    async with client(application) as http:
        response = await http.send(http.build_request("GET", "/"), stream=True)
    assert ended == ["http.disconnect"]
    await response.aclose()


async def test_leaving_an_application_that_is_about_to_end() -> None:
    """A reader that leaves while the last part waits to be taken does not wait for ever."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(part(b"a"))
        await send(part(b"b", more=False))

    async with client(application) as http, asyncio.timeout(10), http.stream("GET", "/"):
        await asyncio.sleep(0.01)


async def test_a_stream_left_open_is_settled_when_trivet_closes(
    make_settings: MakeSettings, light_url: str, tmp_path: Path
) -> None:
    """Nobody closes the stream; closing Trivet ends it, and no hold is left in the ledger."""
    store = tmp_path / "trivet.db"
    light = [{"model": "llamacpp/tiny-light", "url": light_url, "context_tokens": 1024}]
    settings = make_settings(output=400, light=light, store={"path": store}, logging={"level": "error"})
    async with asyncio.timeout(60):
        async with Trivet.open(settings=settings) as trivet:
            stream = await trivet.complete("Hello", model="light", max_tokens=400, stream=True)
        await stream.aclose()
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        states = [row[0] for row in database.execute("SELECT state FROM reservations")]
    assert len(states) == 1
    assert "held" not in states
