"""A receiver of webhooks: a real HTTP server that keeps what it was sent and answers as it is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Received:
    """One POST."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """What it got, and what it will answer: a status each time, then 204. `hang` answers nothing."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False

    async def take(self, request: web.Request) -> web.Response:
        """Take one POST."""
        body = await request.read()
        named = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, named, body))
        if self.hang:
            await asyncio.sleep(60)
        status = self.answers.pop(0) if self.answers else 204
        return web.Response(status=status, headers=self.headers)


@contextlib.asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """Run a receiver on a loopback port; give it."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/alerts"
    try:
        yield receiver
    finally:
        await runner.cleanup()
