"""A server that sends exactly the bytes it was given, for answers that no real server gives on demand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def scripted(*parts: bytes, then_hold: bool = False, pause_s: float = 0.0) -> AsyncIterator[str]:
    """Serve on a free loopback port; give its base URL.

    Each connection's first request is answered with the parts, one after the other with a pause between;
    then the connection is closed, or held open.
    """
    released = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await _send(writer, parts, pause_s)
            if then_hold:
                await released.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        released.set()


async def _send(writer: asyncio.StreamWriter, parts: Sequence[bytes], pause_s: float) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(pause_s)


def plain_answer(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Return a whole HTTP answer."""
    size = f"content-length: {len(body)}"
    lines = (f"HTTP/1.1 {status}", f"content-type: {kind}", size, "connection: close", "", "")
    return "\r\n".join(lines).encode() + body
