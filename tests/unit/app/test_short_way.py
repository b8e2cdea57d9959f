"""The short way to a client of a real server: streams, faults amid them, and clients that leave."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
import uvicorn

from trivet.api.asgi import Application, ClientGone, Receive, Scope, Send, send_part, start_stream
from trivet.api.replies import LastResort
from trivet.api.short_way import SHORT_WAY, ShortWay, head_of
from trivet.app.bounded_http import bounded_http

Serve = Callable[[ShortWay, Send], Awaitable[None]]
HEAD = head_of("x-request-id: r1\r\n", length_bytes=None)
GET = b"GET /%b HTTP/1.1\r\nhost: here\r\n\r\n"


@asynccontextmanager
async def served(
    serve: Serve, *, kept_s: Any = 5
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve with it, once the request has come, and yield a connection."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await serve(scope[SHORT_WAY], send)

    async with served_by(endpoint, kept_s=kept_s) as connection:
        yield connection


@asynccontextmanager
async def served_by(
    endpoint: Application, *, kept_s: Any = 5
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve by this endpoint, and yield a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                LastResort(endpoint),
                http=bounded_http(head_timeout_s=5.0, body_timeout_s=5.0),
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_keep_alive=kept_s,
            )
        )
        serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            server.should_exit = True
            await serving


async def test_a_stream_in_parts() -> None:
    """Head, parts and end go over the wire as chunks, and the next answer over the same connection."""

    async def serve(way: ShortWay, send: Send) -> None:
        assert way.begin(HEAD)
        assert not way.begin(HEAD)
        assert way.part(b"data: 1\n\n")
        await send_part(send, b"data: 2\n\n")
        assert way.part(b"data: [DONE]\n\n", more=False)
        assert way.ended
        assert not way.part(b"more")

    async with served(serve) as (reader, writer):
        for _ in range(2):
            writer.write(GET % b"stream")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"content-type: text/event-stream; charset=utf-8\r\n" in head
            assert b"transfer-encoding: chunked\r\n" in head
            body = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert body == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def test_old_clients_get_no_chunks_this_way() -> None:
    """HTTP/1.0 knows none: the ordinary way is to be taken."""
    begun: list[bool] = []

    async def serve(way: ShortWay, send: Send) -> None:
        begun.append(way.begin(HEAD))
        await start_stream(send, headers={})
        await send_part(send, b"", more=False)

    async with served(serve) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    assert begun == [False]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_fault_is_told(begun: bool) -> None:
    """Before the answer has begun as an answer of its own, later as the stream's last event."""

    async def serve(way: ShortWay, _: Send) -> None:
        if begun:
            assert way.begin(HEAD)
        raise ZeroDivisionError

    async with served(serve) as (reader, writer):
        writer.write(GET % b"fault")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 " if begun else b"HTTP/1.1 500 ")
        told = await reader.readuntil(b"\r\n0\r\n\r\n" if begun else b"}}")
        assert b"Trivet failed" in told
        assert b"[DONE]" not in told


async def test_a_client_that_leaves_is_heard_at_once() -> None:
    """Also one that has sent a second request behind the first; after the answer nobody is told."""
    gone, waits = asyncio.Event(), asyncio.Event()

    async def serve(way: ShortWay, _: Send) -> None:
        with way:
            if not waits.is_set():
                way.whole(head_of("", length_bytes=2), b"ok")
                waits.set()
                return
            try:
                await asyncio.sleep(60.0)
            except asyncio.CancelledError:
                gone.set()
                raise

    async with served(serve) as (reader, writer):
        writer.write(GET % b"first")
        await reader.readuntil(b"\r\n\r\nok")
        writer.write(GET % b"second" + GET % b"third")
        await asyncio.sleep(0.01)
        writer.close()
        await asyncio.wait_for(gone.wait(), 5.0)


async def test_who_left_before_is_gone_at_once() -> None:
    """Its request is cancelled at the first thing that it waits for, and only that one says ClientGone."""
    ends: list[str] = []
    over = asyncio.Event()

    async def serve(way: ShortWay, _: Send) -> None:
        await asyncio.sleep(0.05)
        try:
            with way:
                await asyncio.sleep(60.0)
        except ClientGone:
            ends.append("gone")
        over.set()

    async with served(serve) as (_, writer):
        writer.write(GET % b"only")
        await asyncio.sleep(0.01)
        writer.close()
        await asyncio.wait_for(over.wait(), 5.0)
    assert ends == ["gone"]


async def test_requests_of_a_connection_are_served_by_one_task() -> None:
    """As long as each comes after the end of the one before, which may be a while after its answer."""
    tasks: list[asyncio.Task[Any] | None] = []
    ended, may_end = asyncio.Event(), asyncio.Event()

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        scope[SHORT_WAY].whole(head_of("", length_bytes=2), b"ok")
        if scope["path"] == "/slow":
            await may_end.wait()
            ended.set()

    async with served_by(endpoint) as (reader, writer):
        for path in (b"a", b"b", b"slow", b"c", b"d"):
            writer.write(GET % path)
            await reader.readuntil(b"\r\n\r\nok")
        may_end.set()
        await asyncio.wait_for(ended.wait(), 5.0)
        writer.write(GET % b"e")
        await reader.readuntil(b"\r\n\r\nok")
    first, second, slow, *later = tasks
    assert first is second is slow
    assert slow not in later
    assert len(set(later)) == 1


async def test_nothing_is_left_in_the_context_of_another_request() -> None:
    """Several callers may come over one connection: whoever changes its context has had a task of its own."""
    left: ContextVar[str] = ContextVar("left", default="nothing")
    found: list[str] = []
    tasks: list[asyncio.Task[Any] | None] = []

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        found.append(left.get())
        if scope["path"] == "/changes":
            left.set("something")
        scope[SHORT_WAY].whole(head_of("", length_bytes=2), b"ok")

    async with served_by(endpoint) as (reader, writer):
        for path in (b"a", b"changes", b"b", b"c"):
            writer.write(GET % path)
            await reader.readuntil(b"\r\n\r\nok")
    assert found == ["nothing"] * 4
    first, changes, second, third = tasks
    assert first is changes
    assert changes is not second
    assert second is third


async def test_a_cancelled_task_serves_no_other_request() -> None:
    """Whoever is told to end does, though an endpoint may hold on to its answer; the connection lives on."""
    tasks: list[asyncio.Task[Any]] = []

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.0)
        tasks.append(task)
        scope[SHORT_WAY].whole(head_of("", length_bytes=2), b"ok")

    async with served_by(endpoint) as (reader, writer):
        for path in (b"a", b"b"):
            writer.write(GET % path)
            await reader.readuntil(b"\r\n\r\nok")
        assert tasks[0] is not tasks[1]
        assert tasks[0].done()
    await asyncio.sleep(0)
    assert tasks[1].done()


async def test_what_is_said_at_once_goes_out_at_once() -> None:
    """Head, parts and end arrive as one piece, and an error through ASGI behind what was said before."""

    async def serve(way: ShortWay, send: Send) -> None:
        assert way.begin(HEAD)
        assert way.part(b"data: 1\n\n")
        assert way.part(b"data: [DONE]\n\n", more=False)

    async with served(serve) as (reader, writer):
        writer.write(GET % b"stream")
        assert (await reader.read(65536)).endswith(
            b"\r\n9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        )


async def test_a_part_that_is_passed_on_goes_out_by_itself() -> None:
    """In its turn: not before the head or what else waits to be sent, and not behind the end."""
    seen: list[bool] = []

    async def serve(way: ShortWay, send: Send) -> None:
        seen.append(way.pass_on(b"early"))
        assert way.begin(HEAD)
        seen.append(way.pass_on(b"early"))
        await asyncio.sleep(0.01)
        seen.append(way.pass_on(b"data: 1\n\n"))
        assert way.part(b"data: 2\n\n")
        seen.append(way.pass_on(b"early"))
        await send_part(send, b"data: 3\n\n")
        seen.append(way.pass_on(b"data: 4\n\n"))
        assert way.part(b"", more=False)
        seen.append(way.pass_on(b"late"))

    async with served(serve) as (reader, writer):
        writer.write(GET % b"stream")
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert body == b"".join(b"9\r\ndata: %d\n\n\r\n" % number for number in (1, 2, 3, 4)) + b"0\r\n\r\n"
    assert seen == [False, False, True, False, True, False]


async def test_nothing_is_passed_on_to_who_reads_slowly_or_has_gone() -> None:
    """It is left to those ways that wait."""
    slow, gone = asyncio.Event(), asyncio.Event()

    async def serve(way: ShortWay, _: Send) -> None:
        assert way.begin(HEAD)
        await asyncio.sleep(0.01)
        while way.pass_on(b"x" * 65536):
            pass
        assert not way.part(b"x")
        slow.set()
        try:
            with way:
                await asyncio.sleep(60.0)
        finally:
            assert not way.pass_on(b"x")
            gone.set()

    async with served(serve) as (_, writer):
        writer.write(GET % b"slow")
        await asyncio.wait_for(slow.wait(), 5.0)
        writer.close()
        await asyncio.wait_for(gone.wait(), 5.0)


async def test_the_body_is_taken_where_it_is_there() -> None:
    """Whole and within its limit; one that is too large, or has yet to come, is left to be received."""
    taken: list[bytes | None] = []

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        way: ShortWay = scope[SHORT_WAY]
        taken.append(way.taken_body(4))
        rest = b"" if taken[-1] is not None else (await receive())["body"]
        way.whole(head_of("", length_bytes=len(rest)), rest)

    post = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b"
    async with served_by(endpoint) as (reader, writer):
        writer.write(post % (4, b"four"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(post % (5, b"fives"))
        await reader.readuntil(b"\r\n\r\nfives")
        writer.write(post % (4, b""))
        await asyncio.sleep(0.01)
        writer.write(b"late")
        await reader.readuntil(b"\r\n\r\nlate")
    assert taken == [b"four", None, None]


async def test_a_kept_connection_is_closed_when_nothing_comes() -> None:
    """However many requests came before."""

    async def serve(way: ShortWay, _: Send) -> None:
        way.whole(head_of("", length_bytes=2), b"ok")

    async with served(serve, kept_s=0.5) as (reader, writer):
        for _ in range(2):
            writer.write(GET % b"again")
            await reader.readuntil(b"\r\n\r\nok")
        assert await reader.read() == b""


async def test_a_large_head_behind_a_request_is_refused() -> None:
    """Also where both arrive in one piece."""
    served_paths: list[str] = []

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        served_paths.append(scope["path"])
        scope[SHORT_WAY].whole(head_of("", length_bytes=2), b"ok")

    large = b"GET /large HTTP/1.1\r\nhost: here\r\nx-large: %b\r\n\r\n" % (b"x" * 40_000)
    async with served_by(endpoint) as (reader, writer):
        writer.write(GET % b"first" + large)
        await reader.read()
    assert "/large" not in served_paths


@pytest.mark.parametrize("begun", [False, True])
async def test_a_request_is_never_left_open(begun: bool) -> None:
    """An endpoint that forgets to answer, or to end its answer, costs its client no wait."""

    async def serve(way: ShortWay, _: Send) -> None:
        if begun:
            assert way.begin(HEAD)
            assert way.part(b"data: 1\n\n")

    async with served(serve) as (reader, writer):
        writer.write(GET % b"left" if begun else b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        said = await reader.read()
    assert said.startswith(b"HTTP/1.1 500 ") or begun
    assert not said.endswith(b"0\r\n\r\n")
