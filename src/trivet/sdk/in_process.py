"""An httpx transport into an ASGI application in the same process, streams included.

So the library, the CLI and remote clients all speak through the same doors.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from trivet.api.asgi import Message, Scope


class InProcessTransport(httpx.AsyncBaseTransport):
    """Runs each request in a task of its own; closing the response early is a disconnect."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._exchanges: set[_Exchange] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request into the application and return once the response has begun."""
        exchange = _Exchange(await request.aread())
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 0),
            "server": (request.url.host, request.url.port or 80),
        }
        task = asyncio.create_task(self._application(scope, exchange.receive, exchange.send))
        exchange.watch(task)
        self._exchanges.add(exchange)
        task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        try:
            start = await exchange.started
        except asyncio.CancelledError:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange, request=request)

    async def aclose(self) -> None:
        """Leave every request that still runs, and wait for its end: the application closes after this."""
        await asyncio.gather(*(exchange.aclose() for exchange in list(self._exchanges)))


class _Exchange(httpx.AsyncByteStream):
    """One request and its response, between the application's task and the client."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        # One part at a time: a client that reads slowly slows the application down.
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self.started: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._whole = False

    def watch(self, task: asyncio.Task[None]) -> None:
        """Take the application's task and pass its fault on if it ends without a response."""
        self._task = task
        task.add_done_callback(self._ended)

    async def receive(self) -> Message:
        """Give the application the body, then wait for the client to leave."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the response from the application."""
        if message["type"] == "http.response.start":
            if not self.started.done():
                self.started.set_result(message)
            return
        if message.get("body"):
            await self._give(message["body"])
        if not message.get("more_body", False):
            self._whole = not self._gone.is_set()
            await self._give(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body's parts.

        Raises:
            httpx.RemoteProtocolError: the application ended, of a fault or cancelled, amid the body.
        """
        while not self._is_over() and (part := await self._parts.get()) is not None:
            yield part
        if not self._whole:
            raise httpx.RemoteProtocolError("The application ended amid its answer.") from self._fault()

    async def aclose(self) -> None:
        """Leave; the application is told, and waited for, so that nothing runs on behind the caller."""
        self._gone.set()
        while not self._parts.empty():
            self._parts.get_nowait()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _give(self, part: bytes | None) -> None:
        # Asked before every part: once the client is gone nobody takes what is put.
        if not self._gone.is_set():
            await self._parts.put(part)

    def _is_over(self) -> bool:
        return self._task is not None and self._task.done() and self._parts.empty()

    def _fault(self) -> BaseException | None:
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def _ended(self, task: asyncio.Task[None]) -> None:
        fault = self._fault()
        if not self.started.done():
            self.started.set_exception(fault or RuntimeError("The application ended without a response."))
        # A reader that waits is woken; one that still has a part to take sees the end after it.
        with contextlib.suppress(asyncio.QueueFull):
            self._parts.put_nowait(None)
