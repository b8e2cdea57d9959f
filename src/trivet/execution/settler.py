"""Owns every hold from the moment it is asked for until it has ended.

A request's coroutine may be cancelled at any await. So it never settles by itself: it tells the settler,
in a plain call that cannot be interrupted, and the settler's own task carries it through.
"""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

from trivet.budgets import Ledger
from trivet.domain.budgets import Reservation, Settlement
from trivet.domain.errors import BudgetError, StoreError
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope

log = structlog.get_logger(__name__)

AlsoWrite = Callable[[sqlite3.Connection], None]
T = TypeVar("T")
RETRY_DELAYS_S = (0.1, 0.5, 2.0)


class Settler:
    """The supervisor of reservations. `drain()` before the ledger closes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tasks: set[asyncio.Task[Any]] = set()

    async def hold(self, scope: Scope, amount: int, *, wait_s: float) -> Reservation:
        """Reserve tokens; a caller that is cancelled meanwhile leaves no hold behind.

        Raises:
            BudgetError: the hold was refused.
            StoreUnavailable: the ledger did not answer; nothing may pass unmetered.
        """
        reservation_id = uuid.uuid4().hex
        task = self._own(
            self._ledger.reserve_or_wait(scope, amount, reservation_id=reservation_id, wait_s=wait_s)
        )
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Nobody waits any more, but the hold may still be granted: release it when it is.
            self._own(self._release_when_granted(task))
            raise

    def settle(self, reservation_id: str, usage: Usage, also: AlsoWrite) -> asyncio.Task[Settlement | None]:
        """Replace the hold by what was used, and write the outcome in the same transaction."""
        return self._own(
            self._carry_out(lambda extra: self._ledger.settle(reservation_id, usage, also=extra), also)
        )

    def release(self, reservation_id: str, also: AlsoWrite | None) -> asyncio.Task[Settlement | None]:
        """Give the hold back: no engine generated anything that the tenant owes."""
        return self._own(
            self._carry_out(lambda extra: self._ledger.release(reservation_id, also=extra), also)
        )

    def note(self, also: AlsoWrite) -> None:
        """Write an outcome that has no hold, such as a refusal."""

        async def write() -> None:
            try:
                await asyncio.wrap_future(self._ledger.note(also))
            except StoreError as error:
                log.exception("outcome.lost", error=str(error))

        self._own(write())

    async def drain(self) -> None:
        """Wait until every settlement that was asked for is in the ledger."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _release_when_granted(self, task: asyncio.Task[Reservation]) -> None:
        try:
            reservation = await task
        except (BudgetError, StoreError):
            return
        await self._carry_out(
            lambda extra: self._ledger.release(reservation.reservation_id, also=extra), None
        )

    async def _carry_out(
        self, operation: Callable[[AlsoWrite | None], Future[Settlement]], also: AlsoWrite | None
    ) -> Settlement | None:
        """Run a closing operation until it is in the ledger; a hold that cannot close stays held.

        The outcome row is wanted but not worth a hold: after a first failure it is left out. What is
        still held when Trivet starts again is charged then, so a lost settlement never undercharges.
        """
        extra = also
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                return await asyncio.wrap_future(operation(extra))
            except StoreError as error:
                log.exception("settlement.failed", error=str(error), with_outcome=extra is not None)
                extra = None
                if delay_s is None:
                    break
                await asyncio.sleep(delay_s)
        return None
