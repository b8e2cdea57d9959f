"""The ledger: tokens are held before an engine works, and replaced by the truth when it has.

No row ever holds and uses more than its limit, whoever asks at the same time; a hold ends exactly once.
All operations go through the store's writer thread; their futures resolve when they are on disk.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, and_, func, select

from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.operations import Closing, Operations
from trivet.budgets.rows import DefaultLimits
from trivet.budgets.status import Limit, View, read_limits, read_rows, read_status
from trivet.budgets.turnstile import Turnstile
from trivet.budgets.verify import VerifyReport, verify
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import BudgetRow, BudgetStatus, Reservation, Settlement, WindowKind
from trivet.domain.clock import Clock
from trivet.domain.errors import BudgetContended
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.instants import instant_of
from trivet.storage.schema import counters, entries

AlsoWrite = Callable[[sqlite3.Connection], None]
"""A further write for the same transaction; if it fails, the operation fails as a whole."""


class Ledger:
    """The owner of all budgets. Usable from any thread; futures may be waited for inside a running loop."""

    def __init__(self, database: Database, settings: BudgetSettings, clock: Clock) -> None:
        """Read where the ledger stands; blocks."""
        self._database = database
        self._thresholds = settings.thresholds
        self._defaults = DefaultLimits.of(settings)
        last_seen_ns, open_windows = database.read(_standing)
        zone = ZoneInfo(settings.time_zone)
        self._calendar = LedgerCalendar(clock, zone, last_seen_ns, open_windows)
        self._operations = Operations(self._calendar, self._defaults)
        self._turnstile = Turnstile()
        self._log = structlog.get_logger(__name__)
        self.overrun_tokens = 0
        """Tokens charged beyond holds and limits since this start; the target is 0."""

    def recover(self) -> int:
        """Charge every hold that an earlier opening of the store left behind, in full; return how many.

        To be called once, before the first reservation; blocks.
        """
        if self._operations.epoch:
            return 0
        self._operations.epoch, recovered = self._database.write(self._operations.recover).result()
        if recovered:
            self._log.warning("budget.holds_recovered", holds=recovered)
        return recovered

    def reserve(self, scope: Scope, amount: int, *, reservation_id: str) -> "Future[Reservation]":
        """Hold `amount` tokens on the scope and all above it, in every window: on all rows or on none.

        Asking again with the same id, scope and amount returns the hold that exists.

        The future's errors: BudgetExhausted, BudgetContended, RequestTooLarge, each with the row at fault
        in `details`; RequestMalformed for a senseless amount or an id that is taken; StoreUnavailable.
        """
        return self._database.write(
            lambda connection: self._operations.reserve(connection, scope, amount, reservation_id)
        )

    async def reserve_or_wait(
        self, scope: Scope, amount: int, *, reservation_id: str, wait_s: float
    ) -> Reservation:
        """Reserve; while others' holds are in the way, wait in line for up to `wait_s` seconds.

        A caller that is cancelled leaves no hold behind.

        Raises:
            BudgetError: as `reserve`; BudgetContended only after the wait and a last try.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        line = self._turnstile.line_of(scope) if wait_s > 0 else None
        if line is None:
            try:
                return await self._reserve_or_undo(scope, amount, reservation_id)
            except BudgetContended as contended:
                if wait_s <= 0:
                    raise
                line = Scope(contended.details["scope"])
        waiter = self._turnstile.join(line)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline_s):
                        await waiter.turn.wait()
                last = loop.time() >= deadline_s
                waiter.turn.clear()
                try:
                    return await self._reserve_or_undo(scope, amount, reservation_id)
                except BudgetContended as contended:
                    if last:
                        raise
                    self._turnstile.change(waiter, Scope(contended.details["scope"]))
        finally:
            self._turnstile.leave(waiter)

    def settle(
        self, reservation_id: str, usage: Usage, *, also: AlsoWrite | None = None
    ) -> "Future[Settlement]":
        """Replace a hold by what was used, in the windows that admitted it.

        More than was held is charged all the same, flagged as overrun and logged. What has ended already
        stays as it is: the first settlement is returned, and `also` is not run again.

        The future's errors: NotFound, RequestMalformed, StoreUnavailable, or what `also` raised.
        """
        return self._close(
            lambda connection: self._operations.settle(connection, reservation_id, usage), also
        )

    def release(self, reservation_id: str, *, also: AlsoWrite | None = None) -> "Future[Settlement]":
        """Give a hold back uncharged, since no engine worked for it. Otherwise as `settle`."""
        return self._close(lambda connection: self._operations.release(connection, reservation_id), also)

    def record(
        self, scope: Scope, tokens: int, *, note: str = "", also: AlsoWrite | None = None
    ) -> "Future[Settlement]":
        """Charge usage that no hold preceded, as one entry; its settlement has no reservation id.

        What exceeds a limit is booked, flagged as overrun, and blocks what follows.
        """
        return self._close(lambda connection: self._operations.record(connection, scope, tokens, note), also)

    def note(self, also: AlsoWrite) -> "Future[None]":
        """Write only `also`: what is to be remembered of a request that held nothing."""
        return self._database.write(also)

    def set_limit(
        self, scope: Scope, window: WindowKind, amount: int | None, *, author: str
    ) -> "Future[None]":
        """Set a scope's limit in tokens (None: explicitly unlimited), at once; nothing is clawed back."""
        future = self._database.write(
            lambda connection: self._operations.set_limit(connection, scope, window, amount, author)
        )
        future.add_done_callback(lambda _: self._turnstile.freed(scope))
        return future

    def clear_limit(self, scope: Scope, window: WindowKind, *, author: str) -> "Future[None]":
        """Remove a scope's own limit; an organisation falls back to the default, others are unlimited."""
        future = self._database.write(
            lambda connection: self._operations.clear_limit(connection, scope, window, author)
        )
        future.add_done_callback(lambda _: self._turnstile.freed(scope))
        return future

    def limits(self) -> list[Limit]:
        """Return every limit that was set; blocks."""
        return self._database.read(read_limits)

    def rows(self, scope: Scope | None = None) -> list[BudgetRow]:
        """Return the current rows of a scope and all below it; None: of all scopes; blocks."""
        view = self._view()
        return self._database.read(lambda connection: read_rows(connection, view, scope))

    def status(self, scope: Scope) -> BudgetStatus:
        """Return a scope's rows and those above it, its burn rate, projection and alerts; blocks.

        The projection is that of the row which reaches its limit first, else of the fullest.
        """
        view = self._view()
        return self._database.read(lambda connection: read_status(connection, view, scope))

    def verify(self) -> VerifyReport:
        """Recompute everything from the entries and report each difference; blocks, in proportion to them."""
        return self._database.read(verify)

    def overruns(self) -> int:
        """Return the tokens ever charged beyond holds and limits; the target is 0; blocks."""
        total = select(func.coalesce(func.sum(entries.c.overrun), 0)).where(entries.c.overrun > 0)
        return int(self._database.read(lambda connection: connection.scalar(total)) or 0)

    async def _reserve_or_undo(self, scope: Scope, amount: int, reservation_id: str) -> Reservation:
        try:
            return await asyncio.wrap_future(self.reserve(scope, amount, reservation_id=reservation_id))
        except asyncio.CancelledError:
            # It may be too late to take the reservation back; then it is released right behind it.
            self.release(reservation_id)
            raise

    def _close(
        self, operation: Callable[[sqlite3.Connection], Closing], also: AlsoWrite | None
    ) -> "Future[Settlement]":
        closings: list[Closing] = []

        def op(connection: sqlite3.Connection) -> Settlement:
            closing = operation(connection)
            if closing.first:
                closings.append(closing)
                if also is not None:
                    also(connection)
            return closing.settlement

        future = self._database.write(op)
        future.add_done_callback(lambda done: self._closed(done, closings))
        return future

    def _closed(self, done: "Future[Settlement]", closings: list[Closing]) -> None:
        """Follow up what is committed: wake who waits, report an overrun."""
        if done.cancelled() or done.exception() is not None:
            return
        for closing in closings:
            self._turnstile.freed(closing.scope)
            settlement = closing.settlement
            if settlement.overrun:
                self.overrun_tokens += settlement.overrun
                self._log.warning(
                    "budget.overrun",
                    scope=closing.scope,
                    reservation_id=settlement.reservation_id,
                    charged=settlement.charged,
                    overrun=settlement.overrun,
                )

    def _view(self) -> View:
        now_ns = self._calendar.now_ns()
        return View(instant_of(now_ns), self._calendar.windows(now_ns), self._defaults, self._thresholds)


def _standing(connection: Connection) -> tuple[int, dict[WindowKind, tuple[int, int]]]:
    """Return the instant of the last entry, and the windows that were open then."""
    last_seen_ns = connection.scalar(select(entries.c.at_ns).order_by(entries.c.seq.desc()).limit(1)) or 0
    last_seen_s = last_seen_ns // 1_000_000_000
    is_open = and_(counters.c.window_start_s <= last_seen_s, counters.c.window_end_s > last_seen_s)
    windows = (
        select(counters.c.window, counters.c.window_start_s, counters.c.window_end_s)
        .where(is_open)
        .distinct()
        .order_by(counters.c.window_start_s)
    )
    # After an edit of the time zone two may overlap; the newer one counts.
    return last_seen_ns, {kind: (start_s, end_s) for kind, start_s, end_s in connection.execute(windows)}
