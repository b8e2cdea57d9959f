"""A transport as it is lent to attempts, and closed once none of them holds it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from trivet.engines.protocol import EngineCall, Reply, Transport


class LentTransport:
    """A transport with the count of the attempts that hold it.

    Use it as the transport itself. It tells its lender of every answer, since an engine that answers
    does not hang, whatever its health check says.
    """

    def __init__(self, transport: Transport, answered: Callable[[], None]) -> None:
        """Take the transport, which this object closes, and what to call at each answer."""
        self._transport = transport
        self._answered = answered
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._closed = False

    @contextlib.contextmanager
    def held(self) -> Iterator[Transport]:
        """Lend it for one attempt."""
        self._leases += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._leases -= 1
            if self._leases == 0:
                self._unused.set()

    async def chat(self, call: EngineCall) -> Reply:
        """Dispatch; see `Transport.chat`."""
        reply = await self._transport.chat(call)
        self._answered()
        return reply

    async def retire(self) -> None:
        """Close it as soon as no attempt holds it, or it is recalled. Lend it no more before."""
        await self._unused.wait()
        await self.aclose()

    def recall(self) -> None:
        """Let `retire` close it now, whoever holds it."""
        self._unused.set()

    async def aclose(self) -> None:
        """Close it now, whoever holds it; idempotent."""
        if not self._closed:
            self._closed = True
            await self._transport.aclose()
