"""A transport as it is lent to attempts, and closed once none of them holds it."""

import asyncio

import structlog

from trivet.engines.protocol import Transport

log = structlog.get_logger(__name__)


class LentTransport:
    """A transport with the count of the attempts that hold it."""

    def __init__(self, transport: Transport) -> None:
        """Take the transport, which this object closes."""
        self.transport = transport
        self.leases = 0
        """How many hold it."""
        self._unused: asyncio.Event | None = None
        """Set when nobody holds it any more, or when nobody counts; None: that is not waited for."""
        self._recalled = False
        self._closed = False

    def held(self) -> "Lease":
        """Lend it for one attempt, in nobody's name."""
        return Lease(self, None)

    def unused(self) -> None:
        """Tell whoever waits for it that nobody holds it any more; for the leases."""
        if self._unused is not None:
            self._unused.set()

    async def retire(self) -> None:
        """Close it as soon as no attempt holds it, or it is recalled. Lend it no more before."""
        if self.leases and not self._recalled:
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
            await self.transport.aclose()


class Lease:
    """A transport, held by one attempt until it is closed; idempotent. As a context manager it gives it."""

    __slots__ = ("_lender", "_lent", "transport")

    def __init__(self, lent: LentTransport, lender: "Lender | None") -> None:
        self.transport = lent.transport
        self._lent: LentTransport | None = lent
        self._lender = lender
        lent.leases += 1
        if lender is not None:
            lender.in_flight += 1

    def answered(self) -> None:
        """Tell the lender that the engine answers: it does not hang, whatever its health check says."""
        if self._lender is not None:
            self._lender.misses = 0

    def close(self) -> None:
        """Give the transport back."""
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.leases -= 1
            if not lent.leases:
                lent.unused()
            if self._lender is not None:
                self._lender.in_flight -= 1

    def __enter__(self) -> Transport:
        """Return the transport."""
        return self.transport

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.close()


class Lender:
    """Lends the newest transport to an endpoint; former ones are closed when their last attempt has ended."""

    def __init__(self, name: str) -> None:
        """Take the deployment's name, for the log."""
        self.in_flight = 0
        """How many attempts hold a transport of its."""
        self.misses = 0
        """Probes that were missed one after the other, as its endpoint counts; an answer ends the row."""
        self._name = name
        self._lent: LentTransport | None = None
        self._retiring: dict[asyncio.Task[None], LentTransport] = {}

    def lend(self) -> Lease | None:
        """Lend the newest transport for one attempt; None before the first."""
        return Lease(self._lent, self) if self._lent is not None else None

    def replace(self, transport: Transport) -> None:
        """Lend this one from now on, and close it in the end."""
        former, self._lent = self._lent, LentTransport(transport)
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
