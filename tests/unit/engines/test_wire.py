"""The relay's own HTTP: connections that are kept, answers of every framing, limits."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from yarl import URL

from trivet.domain.errors import EngineBroken, EngineUnavailable
from trivet.engines import wire as wires
from trivet.engines.wire import Wire

REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: engine\r\nContent-Length: 2\r\n\r\n{}"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *fields: str) -> bytes:
    """Return a whole 200 answer."""
    head = "".join(f"{field}\r\n" for field in (f"Content-Length: {len(body)}", *fields))
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body


@contextlib.asynccontextmanager
async def talking_to(talk: Talk) -> AsyncIterator[Wire]:
    """Serve, each connection by `talk`, and return the way there."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            await talk(reader, writer)

    server = await asyncio.start_server(conversation, "127.0.0.1", 0)
    wire = Wire("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server:
        yield wire
        wire.close()


def later(after_s: float) -> float:
    """Return an instant by the running loop's time."""
    return asyncio.get_running_loop().time() + after_s


async def whole(wire: Wire) -> bytes:
    """Ask, and return all of the body."""
    received = await wire.post(REQUEST, connect_s=5.0, by_s=later(5.0))
    parts = []
    while part := await received.readany():
        parts.append(part)
    return b"".join(parts)


async def test_connections_are_kept() -> None:
    """One serves request after request; several at once get one each."""
    connections: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        while True:
            await reader.readexactly(len(REQUEST))
            connections[number] += 1
            writer.write(answer(b"ok"))

    async with talking_to(talk) as wire:
        assert [await whole(wire) for _ in range(3)] == [b"ok"] * 3
        assert connections == [3]
        await asyncio.gather(*(whole(wire) for _ in range(3)))
        assert connections == [4, 1, 1]


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    """Nobody has read that request, so it is sent again; one that broke on a fresh connection is not."""
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        asked.append(REQUEST)
        if len(asked) != 3:
            writer.write(answer(b"ok", "Connection: keep-alive"))
            await writer.drain()

    async with talking_to(talk) as wire:
        assert await whole(wire) == b"ok"
        assert await whole(wire) == b"ok"
        await asyncio.sleep(0.02)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await whole(wire)
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", b"until it closes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"after all"), b"after all"),
        (answer(gzip.compress(b"unasked"), "Content-Encoding: gzip"), b"unasked"),
        (answer(b""), b""),
    ],
)
async def test_every_framing(said: bytes, expected: bytes) -> None:
    """However the body's end is told, in whatever pieces it comes, what arrives is the body."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        for byte in said:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with talking_to(talk) as wire:
        assert await whole(wire) == expected


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (answer(b"all of it")[:-3], aiohttp.ClientPayloadError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", aiohttp.ClientPayloadError),
        (b"HTTP/1.1 200 OK\r\nContent-Le", aiohttp.ClientPayloadError),
        (b"", aiohttp.ServerDisconnectedError),
        (b"SSH-2.0-OpenSSH_9.2\r\n", aiohttp.ClientError),
        (answer(b"no gzip", "Content-Encoding: gzip"), aiohttp.ClientError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * wires.HEAD_LIMIT_BYTES, EngineBroken),
    ],
)
async def test_every_fault(said: bytes, fault: type[Exception]) -> None:
    """What ends too early, or is no HTTP, is no answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        writer.write(said)
        await writer.drain()

    async with talking_to(talk) as wire:
        with pytest.raises(fault):
            await whole(wire)


async def test_a_slow_reader_slows_the_engine() -> None:
    """What is not read stays with the engine, but for a bound."""
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readexactly(len(REQUEST))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with talking_to(talk) as wire:
        received = await wire.post(REQUEST, connect_s=5.0, by_s=later(5.0))
        stalled = -1
        while stalled != sent:
            stalled = sent
            await asyncio.sleep(0.1)
        assert sent < 30_000_000
        got = 0
        while got < stalled + 1_000_000:
            got += len(await received.readany())
        received.close()
        received.close()


async def test_a_deadline_ends_every_wait_until_it_is_lifted() -> None:
    """For the head, and for a body that stops; who was given up leaves no connection behind."""
    closed = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for begun in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")[len(heard) :]:
            await reader.readexactly(len(REQUEST))
            heard.append(begun)
            writer.write(begun)
            if not begun:
                await reader.read()
                closed.set()
                return
            await asyncio.sleep(0.1)
            writer.write(b"k")
        await reader.read()

    heard: list[bytes] = []
    async with talking_to(talk) as wire:
        with pytest.raises(TimeoutError):
            await wire.post(REQUEST, connect_s=5.0, by_s=later(0.05))
        await asyncio.wait_for(closed.wait(), 5.0)
        received = await wire.post(REQUEST, connect_s=5.0, by_s=later(0.05))
        assert await received.readany() == b"o"
        with pytest.raises(TimeoutError):
            await received.readany()
        received.close()
        heard.pop()
        received = await wire.post(REQUEST, connect_s=5.0, by_s=later(0.05))
        wire.deadlines.lift(received)
        assert [await received.readany(), await received.readany()] == [b"o", b"k"]


async def test_nobody_there() -> None:
    """A port that nobody listens on, and an address that is none, are told apart."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(EngineUnavailable, match="refuses"):
        await Wire("127.0.0.1", port).post(REQUEST, connect_s=5.0, by_s=later(5.0))
    with pytest.raises(EngineUnavailable, match="resolved"):
        await Wire("no-such-host.invalid", 80).post(REQUEST, connect_s=5.0, by_s=later(5.0))


def test_what_takes_more_is_left_to_aiohttp() -> None:
    """TLS, and a name and a password in the address."""
    assert Wire.to(URL("https://engine.example/v1")) is None
    assert Wire.to(URL("http://me:secret@engine.example/v1")) is None
    assert Wire.to(URL("http://engine.example/v1")) is not None


async def test_fields_behind_a_body_are_not_the_next_heads() -> None:
    """Trailers belong to the answer that has been read."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for more in (b"X-Late: yes\r\n", b""):
            await reader.readexactly(len(REQUEST))
            writer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + more + b"\r\n"
            )
        await reader.read()

    async with talking_to(talk) as wire:
        assert await whole(wire) == b"ok"
        second = await wire.post(REQUEST, connect_s=5.0, by_s=later(5.0))
        assert await second.readany() == b"ok"
        assert dict(second.headers) == {"transfer-encoding": "chunked"}


@pytest.mark.parametrize("length", [1, 12, 17, 30, 1000])
async def test_a_second_answer_ends_the_connection(length: int) -> None:
    """Nobody asked for it, and neither it nor its beginning shall be read with the next request's answer."""
    connections: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        await reader.readexactly(len(REQUEST))
        writer.write(answer(b"first") + answer(b"second")[:length])
        await reader.readexactly(len(REQUEST))
        writer.write(answer(b"third"))

    async with talking_to(talk) as wire:
        assert [await whole(wire), await whole(wire)] == [b"first", b"first"]
        assert len(connections) == 2
