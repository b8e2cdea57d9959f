"""How long a request waits for tokens that others hold, and when it may be told that it waited in vain."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from trivet.budgets.prospects import Prospects
from trivet.budgets.refusals import Contention
from trivet.budgets.rows import RowKey
from trivet.budgets.turnstile import Line, Turnstile
from trivet.domain.budgets import Hold, Reservation
from trivet.domain.errors import BudgetContended, BudgetExhausted, StoreError

NS_PER_S = 1_000_000_000
SAY_WHEN_WITHIN_S = 0.5
"""A refusal is not kept waiting longer for what it could advise."""

Lasting = Callable[[Sequence[RowKey], int], "Future[RowKey | None]"]
"""Tells on which of the rows a hold stands that was made by an instant, if on any."""


class Attempt(Protocol):
    """Tries once to hold. A caller that is cancelled meanwhile leaves no hold behind."""

    def __call__(self, *, final: bool) -> Awaitable[Reservation]:
        """Return the hold; `final`: take what fits now, if it is useful at all."""
        ...


class Waiting:
    """Lets requests wait in line for others' holds.

    A wait lasts `wait_s`. It was in vain if a hold that stood on the row when it began still stands at its
    end; then the request is refused as contended. If all of those have ended, tokens are flowing, only that
    others who had come before took them: how long a line is, and how busy the machine, is no reason to
    refuse. So the request keeps its place and waits anew, until it is served, its budget is spent, a hold
    outlasts a wait, or the request's own deadline comes. From its first wait's end on it takes what fits
    rather than wait for all of it.
    """

    def __init__(
        self,
        turnstile: Turnstile,
        lasting: Lasting,
        prospects: Callable[[Contention], "Future[Prospects]"],
    ) -> None:
        """Take the lines, and how to look for holds that last, and for when they may end."""
        self._turnstile = turnstile
        self._lasting = lasting
        self._prospects = prospects

    async def reserve(
        self, hold: Hold, attempt: Attempt, *, wait_s: float, within_s: float = math.inf
    ) -> Reservation:
        """Hold, after a wait where one is needed.

        Args:
            hold: what is asked.
            attempt: asks for it.
            wait_s: how long to wait for the same holds; 0: not at all.
            within_s: how long to wait in all.

        Raises:
            BudgetError: as the attempt's; BudgetContended only after a wait that was in vain.
        """
        critical = hold.priority == "critical"
        line = self._turnstile.line_of(hold) if wait_s > 0 and not critical else None
        if line is None:
            try:
                return await attempt(final=wait_s <= 0)
            except BudgetContended as contended:
                if wait_s <= 0:
                    await self._say_when(contended)
                    raise
                line = Line.of(contended.details, critical=critical)
        try:
            return await self._in_line(line, attempt, wait_s, within_s)
        except BudgetContended as contended:
            await self._say_when(contended)
            raise

    async def _in_line(self, line: Line, attempt: Attempt, wait_s: float, within_s: float) -> Reservation:
        time = asyncio.get_running_loop().time
        waiter = self._turnstile.join(line)
        wait = _Wait(time(), wait_s)
        first_until_s, last_s = wait.until_s, time() + max(wait_s, within_s)
        served = False
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(wait.until_s, last_s)):
                        await waiter.turn.wait()
                waiter.turn.clear()
                try:
                    reservation = await attempt(final=time() >= first_until_s)
                    served = True
                except BudgetContended as contended:
                    self._turnstile.refused(waiter, Line.of(contended.details, critical=line.critical))
                    over = await self._is_over(wait, contended, last_s)
                    if over is not None:
                        raise over from None
                else:
                    return reservation
        except BudgetExhausted:
            self._turnstile.spent(waiter)
            raise
        finally:
            self._turnstile.leave(waiter, served=served)

    async def _is_over(
        self, wait: "_Wait", contended: BudgetContended, last_s: float
    ) -> BudgetContended | None:
        """Return with which refusal the wait is over, after another; None: it is not.

        The one that is returned may be better founded: it names the row on which a hold lasts.
        """
        now_s = asyncio.get_running_loop().time()
        contention: Contention = contended.contention
        since_ns = wait.since_ns(contention.at_ns, now_s)
        if now_s < wait.until_s and now_s < last_s:
            return None
        lasting = None
        # Who cannot look waits on: if the store is silent, the next attempt will say so.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait.wait_s):
                lasting = await asyncio.wrap_future(self._lasting(contention.rows, since_ns))
        if lasting is None:
            wait.begin_anew(contention.at_ns, now_s)
            return contended if now_s >= last_s else None
        return contended if lasting == contention.rows[0] else contention.naming(lasting)

    async def _say_when(self, contended: BudgetContended) -> None:
        """Put into a refusal when it is worth trying again; what cannot be found out is left as it is."""
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(SAY_WHEN_WITHIN_S):
                prospects = await asyncio.wrap_future(self._prospects(contended.contention))
            contended.retry_after_s = prospects.retry_after_s(contended.contention)


class _Wait:
    """One wait: since when on both clocks, and until when."""

    def __init__(self, began_s: float, wait_s: float) -> None:
        self.wait_s = wait_s
        self._began_s = began_s
        self._since_ns: int | None = None
        """On the store's clock; None: it has told no time yet."""

    @property
    def until_s(self) -> float:
        """Return when it ends, by the loop's time."""
        return self._began_s + self.wait_s

    def since_ns(self, at_ns: int, now_s: float) -> int:
        """Return when it began on the store's clock, which showed `at_ns` just before `now_s`.

        That is kept: a store's clock may stand still where the machine's was set back.
        """
        if self._since_ns is None:
            self._since_ns = at_ns - math.ceil((now_s - self._began_s) * NS_PER_S)
        return self._since_ns

    def begin_anew(self, at_ns: int, now_s: float) -> None:
        """Wait once more, for what stands now."""
        self._since_ns, self._began_s = at_ns, now_s
