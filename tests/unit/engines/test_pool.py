"""Connections that engines close while they are kept."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.contract.calls import call_for, read_stream, read_whole
from tests.doubles.programs import Programs, free_port
from tests.doubles.scripted import plain_answer
from trivet.domain.errors import EngineBroken
from trivet.engines.relay import Relay

ANSWER = plain_answer(b'{"choices":[{"message":{},"finish_reason":"stop"}]}').replace(
    b"connection: close\r\n", b""
)


async def test_streams_back_to_back(session: aiohttp.ClientSession, light_url: str) -> None:
    """llama.cpp closes after every stream; the next request does not suffer from it."""
    relay = Relay(light_url, session=session)
    for _ in range(50):
        assert (await read_stream(relay, call_for("tiny-light", stream=True))).reply.finished


async def test_stale_connection_is_replaced(session: aiohttp.ClientSession) -> None:
    """A request that meets a connection closed meanwhile is sent again on a fresh one, once."""
    connections = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(65536)
        writer.write(ANSWER)
        # The second request on this connection is read, and the connection closed without a word.
        await reader.read(65536)
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with server:
        relay = Relay(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session=session)
        for _ in range(3):
            await read_whole(relay, call_for("m"))
    assert connections == 3


async def test_fresh_connection_is_not_retried(session: aiohttp.ClientSession) -> None:
    """An engine that closes a fresh connection may have begun to work: it is asked once only."""
    connections = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(65536)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        relay = Relay(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session=session)
        with pytest.raises(EngineBroken):
            await relay.chat(call_for("m"))
    assert connections == 1


async def test_engine_restarted(
    session: aiohttp.ClientSession, programs: Programs, tiny_models: dict[str, Path]
) -> None:
    """After an engine was killed and started again, kept connections to its former life do no harm."""
    port = free_port()
    engine = programs.start_llama(tiny_models["light"], port=port)
    relay = Relay(engine.url, session=session)
    await asyncio.gather(*(read_whole(relay, call_for("m")) for _ in range(8)))
    engine.kill()
    programs.start_llama(tiny_models["light"], port=port)
    replies = await asyncio.gather(*(read_whole(relay, call_for("m")) for _ in range(8)))
    assert [reply.finished for reply, _ in replies] == [True] * 8
