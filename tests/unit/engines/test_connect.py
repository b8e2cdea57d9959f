"""Opening transports."""

import asyncio
import json

import aiohttp
import pytest

from tests.contract.calls import call_for, deployment_of
from tests.doubles.scripted import plain_answer
from trivet.domain.errors import ConfigError
from trivet.domain.tiers import EngineKind
from trivet.engines.connect import open_transport
from trivet.engines.relay import Relay


async def test_relay(session: aiohttp.ClientSession) -> None:
    """A deployment with transport `relay` gets one."""
    transport = open_transport(deployment_of("http://127.0.0.1:9", "m"), session=session, api_key=None)
    assert isinstance(transport, Relay)
    await transport.aclose()
    assert not session.closed


@pytest.mark.parametrize(("engine", "asked_for_a_stream"), [("llamacpp", True), ("vllm", False)])
async def test_plain_answers(
    session: aiohttp.ClientSession, engine: EngineKind, asked_for_a_stream: bool
) -> None:
    """llama.cpp alone is asked for a stream where a whole answer is wanted."""
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
        writer.write(plain_answer(b'{"choices":[{"message":{},"finish_reason":"stop"}]}'))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = open_transport(deployment_of(url, "m", engine=engine), session=session, api_key=None)
        reply = await transport.chat(call_for("m"))
    assert reply.finished
    assert json.loads(bodies[0]).get("stream", False) is asked_for_a_stream


async def test_relay_without_url(session: aiohttp.ClientSession) -> None:
    """A relay needs a URL, and the error says which setting."""
    with pytest.raises(ConfigError) as caught:
        open_transport(deployment_of(None, "m"), session=session, api_key=None)
    assert caught.value.param == "url"


async def test_session_keeps_nothing(session: aiohttp.ClientSession) -> None:
    """The shared session has no proxy settings, no cookies, no limit on connections."""
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    assert not session.trust_env
    assert session.connector is not None
    assert session.connector.limit == 0
