"""An httpx transport into an ASGI application in the same process, streams included.

So the library, the CLI and remote clients all speak through the same doors.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from trivet.api.asgi import Message, Scope


class InProcessTransport(httpx.AsyncBaseTransport):
    """Runs each request in a task of its own; closing the response early is a disconnect."""

    def __init__(self, application: Any) -> None:
        self._application = application

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
        try:
            start = await exchange.started
        except asyncio.CancelledError:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange, request=request)


class _Exchange(httpx.AsyncByteStream):
    """One request and its response, between the application's task and the client."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        # One part at a time: a client that reads slowly slows the application down.
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self.started: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

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
        if self._gone.is_set():
            return
        if message.get("body"):
            await self._parts.put(message["body"])
        if not message.get("more_body", False):
            await self._parts.put(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body's parts."""
        while (part := await self._parts.get()) is not None:
            yield part

    async def aclose(self) -> None:
        """Leave; the application is told, and waited for, so that nothing runs on behind the caller."""
        self._gone.set()
        while not self._parts.empty():
            self._parts.get_nowait()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        fault = None if task.cancelled() else task.exception()
        if not self.started.done():
            self.started.set_exception(fault or RuntimeError("The application ended without a response."))
