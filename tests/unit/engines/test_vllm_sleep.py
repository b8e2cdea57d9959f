"""What is asked of a vLLM server to sleep and to wake, and what its refusals become."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from trivet.domain.errors import EngineBroken, EngineError, EngineIncapable, EngineUnavailable
from trivet.engines.vllm_sleep import VllmSleep


class Server:
    """Notes what it is asked, and answers with a status."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.body = b""
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Note the request."""
        told = (await request.read()).decode()
        self.asked.append(f"{request.method} {request.path_qs} {told}".strip())
        return web.Response(status=self.status, body=self.body)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """Give a running server."""
    found = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def test_level_1(server: Server, session: aiohttp.ClientSession) -> None:
    """One call there and one back."""
    sleep = VllmSleep(server.url + "/v1", session=session, api_key="secret")
    await sleep.sleep(1)
    await sleep.wake(1)
    assert server.asked == ["POST /sleep?level=1", "POST /wake_up"]


async def test_level_2_reads_the_weights_before_it_makes_room_for_the_cache(
    server: Server, session: aiohttp.ClientSession
) -> None:
    """The order of vLLM's documentation."""
    sleep = VllmSleep(server.url, session=session, api_key=None)
    await sleep.sleep(2)
    await sleep.wake(2)
    assert server.asked == [
        "POST /sleep?level=2",
        "POST /wake_up?tags=weights",
        'POST /collective_rpc {"method": "reload_weights"}',
        "POST /wake_up?tags=kv_cache",
    ]


@pytest.mark.parametrize(
    ("body", "sleeps"), [(b'{"is_sleeping": true}', True), (b'{"is_sleeping":0}', False)]
)
async def test_is_sleeping(server: Server, session: aiohttp.ClientSession, body: bytes, sleeps: bool) -> None:
    """Only `true` is yes."""
    server.body = body
    assert await VllmSleep(server.url, session=session, api_key=None).is_sleeping() is sleeps


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(404, b"", EngineIncapable), (500, b"out of memory", EngineBroken), (200, b"<html>", EngineBroken)],
)
async def test_refusals(
    server: Server, session: aiohttp.ClientSession, status: int, body: bytes, kind: type[EngineError]
) -> None:
    """No such routes, a failure, an answer that is somebody else's."""
    server.status, server.body = status, body
    with pytest.raises(kind):
        await VllmSleep(server.url, session=session, api_key=None).is_sleeping()


async def test_nobody_there(session: aiohttp.ClientSession) -> None:
    """Nobody answers at the address."""
    with pytest.raises(EngineUnavailable):
        await VllmSleep("http://127.0.0.1:9", session=session, api_key=None).sleep(1)
