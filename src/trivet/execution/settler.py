"""Owns every hold from the moment it is asked for until it has ended.

A request's coroutine may be cancelled at any await. So it never settles by itself: it tells the settler,
in a plain call that cannot be interrupted, and the settler's own task carries it through.
"""

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import structlog

from trivet.budgets import Ledger
from trivet.domain.budgets import Amounts, Hold, Pressure, Reservation, Settlement
from trivet.domain.errors import (
    BudgetError,
    RequestError,
    StoreError,
    StoreUnavailable,
)
from trivet.domain.ids import new_id
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.domain.time_limits import Deadlines
from trivet.storage.delivery import awaited, done, end_of

log = structlog.get_logger(__name__)

AlsoWrite = Callable[[sqlite3.Connection], None]
MakeAlso = Callable[[], AlsoWrite]
Closing = Callable[[AlsoWrite], "Future[Settlement]"]
T = TypeVar("T")
RETRY_DELAYS_S = (0.1, 0.5, 2.0)
STORE_TIMEOUT_S = 5.0

_WHATEVER_FAILS = contextlib.suppress(Exception)


class Ending:
    """A hold on its way to its end, where it gets whether anybody waits or not.

    Awaited, it gives the settlement once that is on disk, or None once it was given up. Whoever is cancelled
    meanwhile has cancelled nothing else.
    """

    __slots__ = ("_first", "_later", "_loop", "_operation", "_settlement", "_settler")

    def __init__(
        self,
        settler: "Settler",
        operation: "Closing",
        first: "Future[Settlement] | None",
        later: "asyncio.Task[Settlement | None] | None" = None,
    ) -> None:
        """Take what closes the hold, and the first try, which is under way; or, if none is, what goes on."""
        self._settler = settler
        self._operation = operation
        self._loop = asyncio.get_running_loop()
        self._first = first
        self._later = later
        self._settlement: Settlement | None = None
        if first is not None:
            settler.closing.add(self)
            first.add_done_callback(self._first_ended)

    def goes_on(self) -> None:
        """Try again; in the event loop's thread."""
        self._later = self._settler.try_again(self._operation)
        self._first = None
        self._settler.closing.discard(self)

    def _first_ended(self, first: "Future[Settlement]") -> None:
        """Take note, in whatever thread; nothing comes back to the event loop where all goes well."""
        fault = first.exception()
        if fault is not None:
            log.warning("settlement.failed", error=type(fault).__name__, detail=str(fault))
            self._loop.call_soon_threadsafe(self.goes_on)
            return
        self._settlement = first.result()
        self._first = None  # which refers to this, too: nothing is left for the garbage collector
        self._settler.closing.discard(self)

    def __await__(self) -> Generator[Any, Any, Settlement | None]:
        """Wait for it."""
        return self._ended().__await__()

    async def _ended(self) -> Settlement | None:
        first = self._first
        if first is not None:
            await done(first)
            if first.exception() is None:
                return first.result()
            if self._later is None:  # the loop has been told, and is about to go on
                await asyncio.sleep(0)
        return self._settlement if self._later is None else await asyncio.shield(self._later)


class Settler:
    """The supervisor of reservations. `drain()` before the ledger closes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing: set[Ending] = set()
        """Those whose first try has not ended; they leave from whatever thread resolves it."""
        self._deadlines: Deadlines[asyncio.Future[None]] = Deadlines(_end_in_vain)

    def hold(
        self, hold: Hold, *, wait_s: float, within_s: float = math.inf, reservation_id: str | None = None
    ) -> Coroutine[Any, Any, Reservation]:
        """Reserve; a caller that is cancelled meanwhile leaves no hold behind, and no place in a line.

        Args:
            hold: what is asked.
            wait_s: how long to wait for the same holds of others.
            within_s: how long to wait for others' holds in all.
            reservation_id: its name; by default one of its own.

        Raises:
            BudgetError: the hold was refused.
            StoreUnavailable: the ledger did not answer; nothing may pass unmetered.
        """
        name = reservation_id or new_id()
        return self._ledger.reserve_or_wait(
            hold,
            reservation_id=name,
            wait_s=wait_s,
            within_s=within_s,
            attempt=partial(self._attempt, hold, name),
        )

    async def _attempt(self, hold: Hold, name: str, *, final: bool) -> Reservation:
        granting = self._ledger.reserve(hold, reservation_id=name, final=final)
        if not granting.done():
            loop, waiter = asyncio.get_running_loop(), end_of(granting)
            self._deadlines.set(waiter, loop.time() + STORE_TIMEOUT_S, loop)
            try:
                await waiter
            except (asyncio.CancelledError, TimeoutError) as error:
                # Nobody waits any more, but the hold may still be granted: release it when it is.
                self._own(self._release_when_granted(granting))
                if isinstance(error, TimeoutError):
                    raise _silent() from None
                raise
            finally:
                self._deadlines.lift(waiter)
        return granting.result()

    def pressing(self, scope: Scope) -> Pressure | None:
        """Tell how full a scope's budgets are once that has consequences, else None; never blocks."""
        return self._ledger.pressing(scope)

    async def fullest(self, scope: Scope) -> dict[str, Any]:
        """Return the facts of the fullest limited row that binds a scope; empty where none is limited."""
        status = await asyncio.to_thread(self._ledger.status, scope)
        limited = [row for row in status.rows if row.percent_used is not None]
        if not limited:
            return {}
        facts = max(limited, key=lambda row: row.percent_used or 0.0).as_json()
        return {
            name: facts[name] for name in ("scope", "meter", "window", "used", "held", "limit", "resets_at")
        }

    async def take(self, take: Callable[[], Future[None]], reservation_id: str) -> None:
        """Take over a hold that was given to an outside caller; whoever is cancelled meanwhile gives it back.

        Raises:
            DecisionSpent, StoreUnavailable: it cannot be taken.
        """
        task = self._own(_awaited(take))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._own(self._release_when_taken(task, reservation_id))
            raise

    async def reweight(
        self, reservation_id: str, prompt: Amounts, output: Amounts, *, tier: str, dearest: bool
    ) -> Reservation:
        """Change a hold to another tier's amounts; where that is refused the hold stays as it was.

        Raises:
            BudgetError: it does not fit, or the tier takes an approval.
            StoreUnavailable: the ledger did not answer.
        """
        future = self._ledger.reweight(reservation_id, prompt, output, tier=tier, dearest=dearest)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await awaited(future)
        except TimeoutError:
            raise _silent() from None

    def settle(
        self,
        reservation_id: str,
        usage: Usage,
        charged: Amounts,
        also: MakeAlso,
        *,
        earlier: Sequence[AttemptCharge] = (),
    ) -> Ending:
        """Replace the hold by what was used, and write the outcome in the same transaction.

        `usage` and `charged` are the last attempt's; `earlier` is what those before it owe.
        """
        return self._carried_out(
            lambda extra: self._ledger.settle(
                reservation_id, usage, charged, earlier=earlier, also=extra, patient=True
            ),
            also,
        )

    def release(self, reservation_id: str, also: MakeAlso) -> Ending:
        """Give the hold back: no engine generated anything that the tenant owes."""
        return self._carried_out(
            lambda extra: self._ledger.release(reservation_id, also=extra, patient=True), also
        )

    def note(self, also: MakeAlso) -> None:
        """Write an outcome that has no hold, such as a refusal."""

        async def write() -> None:
            try:
                await awaited(self._ledger.note(also()))
            except StoreError as error:
                # A record, no money: while the store is away there is one for each refusal.
                log.warning("outcome.lost", error=str(error))

        self._own(write())

    async def drain(self) -> None:
        """Wait until every settlement that was asked for is in the ledger."""
        while self._tasks or self.closing:
            for ending in tuple(self.closing):
                await ending
            if self._tasks:
                await asyncio.wait(tuple(self._tasks))
            await asyncio.sleep(0)

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _release_when_granted(self, granting: "Future[Reservation]") -> None:
        try:
            reservation = await awaited(granting)
        except (BudgetError, RequestError, StoreError):
            return
        await self._carry_out(
            lambda extra: self._ledger.release(reservation.reservation_id, also=extra), _nothing_to_write
        )

    async def _release_when_taken(self, task: asyncio.Task[None], reservation_id: str) -> None:
        try:
            await task
        except (RequestError, StoreError):
            return
        await self._carry_out(
            lambda extra: self._ledger.release(reservation_id, also=extra), _nothing_to_write
        )

    def _carried_out(self, operation: Closing, also: MakeAlso) -> Ending:
        """Run a closing operation as `_carry_out` does. Only where the first try fails it takes a task."""
        with _WHATEVER_FAILS:  # whoever goes on meets it again, and tells it
            return Ending(self, operation, operation(also()))
        return Ending(self, operation, None, self._own(self._carry_out(operation, also)))

    def try_again(self, operation: Closing) -> "asyncio.Task[Settlement | None]":
        """Go on with what has failed once; for the endings."""
        return self._own(self._carry_out(operation, _nothing_to_write, RETRY_DELAYS_S))

    async def _carry_out(
        self, operation: Closing, also: MakeAlso, delays_s: Sequence[float] = (0.0, *RETRY_DELAYS_S)
    ) -> Settlement | None:
        """Run a closing operation until it is in the ledger; a hold that cannot close stays held.

        The outcome row is wanted but not worth a hold: after a first failure it is left out. What is
        still held when Trivet starts again is charged then, so a lost settlement never undercharges.
        """
        for delay_s in delays_s:
            if delay_s:
                await asyncio.sleep(delay_s)
            try:
                return await awaited(operation(also()))
            except Exception as error:  # noqa: BLE001 - whatever fails here, the hold must still be closed
                log.warning("settlement.failed", error=type(error).__name__, detail=str(error))
                also = _nothing_to_write
        return None


def _end_in_vain(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


async def _awaited(take: Callable[[], Future[None]]) -> None:
    await awaited(take())


def _silent() -> StoreUnavailable:
    return StoreUnavailable(
        f"The ledger did not answer within {STORE_TIMEOUT_S:g} s, and nothing passes unmetered.",
        retry_after_s=1.0,
    )


def _write_nothing(_: sqlite3.Connection) -> None:
    """Write nothing beside the settlement."""


def _nothing_to_write() -> AlsoWrite:
    return _write_nothing
