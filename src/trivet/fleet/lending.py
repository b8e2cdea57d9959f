"""A transport as it is lent to attempts, and closed once none of them holds it."""

import asyncio
from collections.abc import Callable

import structlog

from trivet.engines.protocol import EngineCall, Reply, Transport

log = structlog.get_logger(__name__)


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
        self._unused: asyncio.Event | None = None
        """Set when nobody holds it any more, or when nobody counts; None: that is not waited for."""
        self._recalled = False
        self._closed = False

    def held(self, returned: Callable[[], None] | None = None) -> "Lease":
        """Lend it for one attempt; `returned` is called when it has been given back."""
        self._leases += 1
        return Lease(self, returned)

    def give_back(self) -> None:
        """Take it back; for the lease."""
        self._leases -= 1
        if self._leases == 0 and self._unused is not None:
            self._unused.set()

    async def chat(self, call: EngineCall) -> Reply:
        """Dispatch; see `Transport.chat`."""
        reply = await self._transport.chat(call)
        self._answered()
        return reply

    async def retire(self) -> None:
        """Close it as soon as no attempt holds it, or it is recalled. Lend it no more before."""
        if self._leases and not self._recalled:
            self._unused = asyncio.Event()
            await self._unused.wait()
        await self.aclose()

    def recall(self) -> None:
        """Let `retire` close it now, whoever holds it."""
        self._recalled = True
        if self._unused is not None:
            self._unused.set()

    async def aclose(self) -> None:
        """Close it now, whoever holds it; idempotent."""
        if not self._closed:
            self._closed = True
            await self._transport.aclose()


class Lease:
    """A transport, held by one attempt until it is closed; idempotent. As a context manager it gives it."""

    __slots__ = ("_open", "_returned", "transport")

    def __init__(self, transport: LentTransport, returned: Callable[[], None] | None) -> None:
        self.transport = transport
        self._returned = returned
        self._open = True

    def close(self) -> None:
        """Give the transport back."""
        if self._open:
            self._open = False
            self.transport.give_back()
            if self._returned is not None:
                self._returned()

    def __enter__(self) -> Transport:
        """Return the transport."""
        return self.transport

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.close()


class Lender:
    """Lends the newest transport to an endpoint; former ones are closed when their last attempt has ended."""

    def __init__(self, name: str, answered: Callable[[], None]) -> None:
        """Take the deployment's name, for the log, and what to call at each answer."""
        self._name = name
        self._answered = answered
        self._lent: LentTransport | None = None
        self._retiring: dict[asyncio.Task[None], LentTransport] = {}

    @property
    def current(self) -> LentTransport | None:
        """Return the transport to lend now; None before the first."""
        return self._lent

    def replace(self, transport: Transport) -> None:
        """Lend this one from now on, and close it in the end."""
        former, self._lent = self._lent, LentTransport(transport, self._answered)
        if former is not None:
            task = asyncio.create_task(former.retire(), name=f"retire-{self._name}")
            self._retiring[task] = former
            task.add_done_callback(self._retired)

    async def aclose(self) -> None:
        """Close all of them now, used or not."""
        for former in self._retiring.values():
            former.recall()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._lent is not None:
            await self._lent.aclose()

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.pop(task, None)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            log.warning("transport.not_closed", deployment=self._name, error=str(fault))
