"""The ledger: what a request may use is held before an engine works, and replaced by the truth when it has.

No row ever holds and uses more than it may, whoever asks at the same time; a hold ends exactly once.
The books are kept by a LedgerStore; what is here is the same over every one of them.
"""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import func, select

from trivet.budgets.alerts import Alert, read_alerts
from trivet.budgets.approvals import Approvals
from trivet.budgets.balances import read_overrides
from trivet.budgets.history import EntryRecord, read_history, read_key_changes, read_rule_changes
from trivet.budgets.opening import books_in
from trivet.budgets.status import Limit, read_limits, read_organisation_rows, read_rows, read_status
from trivet.budgets.store import AlsoWrite, Closing, LedgerStore, OverrideRequest
from trivet.budgets.turnstile import Turnstile
from trivet.budgets.verify import VerifyReport, verify
from trivet.budgets.waiting import Attempt, Waiting
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import (
    NOTHING,
    Amounts,
    BudgetRow,
    BudgetStatus,
    Hold,
    LimitKind,
    Meter,
    Override,
    Pressure,
    Reservation,
    Settlement,
)
from trivet.domain.clock import Clock
from trivet.domain.errors import StoreError
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.delivery import awaited
from trivet.storage.promise import then
from trivet.storage.schema import entries

T = TypeVar("T")


class Ledger:
    """The owner of all budgets. Usable from any thread; futures may be waited for inside a running loop."""

    def __init__(
        self,
        database: Database | None,
        settings: BudgetSettings,
        clock: Clock,
        *,
        store: LedgerStore | None = None,
    ) -> None:
        """Take the books; blocks.

        Args:
            database: the store that keeps them; not looked at with `store`.
            settings: the section of the configuration.
            clock: tells the wall time.
            store: what keeps the books instead.
        """
        if store is None:
            if database is None:
                raise StoreError("A ledger needs a store.")
            store = books_in(database, settings, clock)
        self._store = store
        self._recovered = False
        self._clock = clock
        self._approvals = Approvals()
        self._turnstile = Turnstile()
        self._waiting = Waiting(self._turnstile, store.lasting, store.prospects)
        store.listen(self._closed, self._turnstile.freed)
        self._log = structlog.get_logger(__name__)
        self.overrun_tokens = 0
        """Tokens charged beyond holds and limits since this start; the target is 0."""

    # Holding

    def recover(self) -> int:
        """Charge every hold that an earlier opening of the store left behind, in full; return how many.

        To be called once, before the first reservation; blocks.
        """
        if self._recovered:
            return 0
        recovered = self._store.recover().result()
        self._recovered = True
        self.refresh()
        if recovered.holds:
            self._log.warning("budget.holds_recovered", holds=recovered.holds)
        return recovered.holds

    def reserve(self, hold: Hold, *, reservation_id: str, final: bool = True) -> "Future[Reservation]":
        """Hold on the scope and all above it, on every row that counts: on all rows or on none.

        Asking again with the same id and hold returns the hold that exists. `final`: whether what fits now
        is taken, if that is not all, even where more will fit when others settle.

        The future's errors: BudgetExhausted, BudgetContended, RequestTooLarge, ApprovalRequired,
        NonessentialBlocked, each with the row at fault in `details`; IdempotencyError; RequestMalformed for
        a senseless amount or an id that is taken; StoreUnavailable.
        """
        return self._store.reserve(hold, reservation_id, final=final)

    def reserve_or_wait(
        self,
        hold: Hold,
        *,
        reservation_id: str,
        wait_s: float,
        within_s: float = math.inf,
        attempt: Attempt | None = None,
    ) -> Coroutine[Any, Any, Reservation]:
        """Reserve; while others' holds are in the way, wait in line; see `budgets.waiting`.

        A caller that is cancelled leaves no hold behind. `attempt` asks instead of `reserve`.

        Raises:
            BudgetError: as `reserve`; BudgetContended only after a wait that was in vain.
        """
        if attempt is None:
            attempt = partial(self._reserve_or_undo, hold, reservation_id)
        return self._waiting.reserve(hold, attempt, wait_s=wait_s, within_s=within_s)

    def reweight(
        self,
        reservation_id: str,
        prompt: Amounts,
        output: Amounts,
        *,
        tier: str | None = None,
        dearest: bool = False,
    ) -> "Future[Reservation]":
        """Change an open hold to another tier's amounts, `output` for the output tokens that were granted.

        Where it does not fit, or the tier takes an approval, the hold stays as it was.

        The future's errors: as `reserve`; NotFound; RequestMalformed if it has ended.
        """
        future = self._store.reweight(reservation_id, prompt, output, tier=tier, dearest=dearest)
        future.add_done_callback(self._freed_by)
        return future

    def settle(
        self,
        reservation_id: str,
        usage: Usage,
        charged: Amounts | None = None,
        *,
        earlier: Sequence[AttemptCharge] = (),
        also: AlsoWrite | None = None,
        patient: bool = False,
    ) -> "Future[Settlement]":
        """Replace a hold by what was used, in the windows that admitted it.

        More than was held is charged all the same, flagged as overrun and logged. Of a hold that was charged
        on expiry the difference is corrected. What has ended otherwise stays as it is: the first settlement
        is returned, and `also` is not run again.

        Args:
            reservation_id: the hold.
            usage: in tokens, as the engine or Trivet counted them.
            charged: what that is on every meter; None: as the hold weighed its tokens.
            earlier: what attempts before the last one owe, each in an entry of its own. `usage` and `charged`
                are the last one's; the settlement tells the sum.
            also: a further write for the same transaction.
            patient: nobody waits for it, so it may be a few milliseconds later, on disk with the next
                operation. Where anybody waits for tokens it never is.

        The future's errors: NotFound, RequestMalformed, StoreUnavailable, or what `also` raised.
        """
        patient = patient and not self._turnstile.crowded
        return self._store.settle(reservation_id, usage, charged, also, earlier, patient=patient)

    def release(
        self, reservation_id: str, *, also: AlsoWrite | None = None, patient: bool = False
    ) -> "Future[Settlement]":
        """Give a hold back uncharged, since no engine worked for it. Otherwise as `settle`."""
        patient = patient and not self._turnstile.crowded
        return self._store.release(reservation_id, also, patient=patient)

    def record(
        self, scope: Scope, charged: Amounts | int, *, note: str = "", also: AlsoWrite | None = None
    ) -> "Future[Settlement]":
        """Charge usage that no hold preceded, as one entry; its settlement has no reservation id.

        What exceeds a limit is booked, flagged as overrun, and blocks what follows. A plain number is
        tokens of weight 1.
        """
        amounts = charged if isinstance(charged, Amounts) else Amounts(charged, charged)
        return self._store.record(scope, amounts, note, also)

    def expire(self) -> "Future[int]":
        """Charge in full what outside callers held and never reported in time; resolve to how many."""
        return then(self._store.expire(), self._expired)

    def note(self, also: AlsoWrite) -> "Future[None]":
        """Write what belongs to no reservation, such as the outcome of a refused request."""
        return self._store.note(also)

    # Rules

    def set_limit(
        self,
        scope: Scope,
        window: LimitKind,
        amount: int | None,
        *,
        author: str,
        meter: Meter = "tokens",
        allowance: int = 0,
    ) -> "Future[None]":
        """Set a scope's limit; None: explicitly unlimited, also where a default would apply.

        `allowance` is what critical requests may use beyond it. The future's error: RequestMalformed.
        """
        future = self._store.set_limit(scope, meter, window, amount, allowance=allowance, author=author)
        future.add_done_callback(lambda _: self._turnstile.freed(scope))
        return future

    def clear_limit(
        self, scope: Scope, window: LimitKind, *, author: str, meter: Meter = "tokens"
    ) -> "Future[None]":
        """Remove a scope's own limit; an organisation falls back to the default, others are unlimited."""
        future = self._store.clear_limit(scope, meter, window, author=author)
        future.add_done_callback(lambda _: self._turnstile.freed(scope))
        return future

    def set_time_zone(self, organisation: Scope, zone: str, *, author: str) -> "Future[None]":
        """Set the zone of an organisation's calendar, from its next windows on."""
        return self._store.set_time_zone(organisation, zone, author=author)

    def request_override(self, request: OverrideRequest) -> "Future[Override]":
        """Ask for an override; an emergency within its ceiling is in force at once."""
        return self._overridden(self._store.request_override(request))

    def decide_override(self, override_id: str, *, approve: bool, decider: str) -> "Future[Override]":
        """Approve or deny an override; not by who asked for it."""
        return self._overridden(self._store.decide_override(override_id, approve=approve, decider=decider))

    def revoke_override(self, override_id: str, *, author: str) -> "Future[Override]":
        """End an override before its time, or take back a request."""
        return self._overridden(self._store.revoke_override(override_id, author=author))

    def enter_key(self, scope: Scope, event: str, *, author: str, **facts: Any) -> "Future[None]":
        """Enter what becomes of an API key, before it does: who did what to which key is never lost."""
        return self._store.enter_key(scope, {"event": event, "author": author, **facts})

    # Reading

    def answers(self) -> bool:
        """Tell whether holds can be made and settled now, as far as is known; never blocks, asks nobody."""
        return self._store.answers()

    def pressure(self, scope: Scope) -> Pressure:
        """Tell how full the scope's budgets are and what the ladder makes of it; never blocks."""
        return self.pressing(scope) or self._store.pressure(scope)

    def pressing(self, scope: Scope) -> Pressure | None:
        """Tell the same once a step of the ladder is reached; None: budgets have no say yet. Never blocks."""
        pressure = self._store.pressing(scope)
        if pressure is not None and self._approvals.in_force(scope, self._clock.now()):
            return replace(pressure, approved=True)
        return pressure

    def refresh(self) -> None:
        """Learn anew which approvals are in force: another replica may have made some; blocks."""
        self._approvals.learn(self.overrides())

    def limits(self) -> list[Limit]:
        """Return every limit that was set; blocks."""
        return self._store.read(read_limits)

    def overrides(self) -> list[Override]:
        """Return all overrides, the latest first; blocks."""
        return self._store.read(read_overrides)

    def rows(self, scope: Scope | None = None) -> list[BudgetRow]:
        """Return the current rows of a scope and all below it; None: of all scopes; blocks."""
        view = self._store.view()
        return self._store.read(lambda connection: read_rows(connection, view, scope))

    def organisation_rows(self) -> list[BudgetRow]:
        """Return the current rows of organisations alone, without those below them; blocks."""
        view = self._store.view()
        return self._store.read(lambda connection: read_organisation_rows(connection, view))

    def status(self, scope: Scope) -> BudgetStatus:
        """Return a scope's rows and those above it, its burn rate, projection and alerts; blocks.

        The projection is that of the row which reaches its limit first, else of the fullest.
        """
        view = self._store.view()
        return self._store.read(lambda connection: read_status(connection, view, scope))

    def history(self, scope: Scope, *, limit: int = 100, before: int | None = None) -> list[EntryRecord]:
        """Return the entries of a scope and all below it, the latest first; blocks.

        Args:
            scope: whose.
            limit: how many at most.
            before: only entries with lower numbers, for paging.
        """
        return self._store.read(
            lambda connection: read_history(connection, scope, limit=limit, before=before)
        )

    def rule_changes(
        self, scope: Scope | None, *, limit: int = 100, before: int | None = None
    ) -> list[EntryRecord]:
        """Return who changed limits, overrides and calendars; as `history`; None: everywhere; blocks."""
        return self._store.read(
            lambda connection: read_rule_changes(connection, scope, limit=limit, before=before)
        )

    def key_changes(
        self, scope: Scope | None, *, limit: int = 100, before: int | None = None
    ) -> list[EntryRecord]:
        """Return who made, changed and revoked which API key; as `rule_changes`; blocks."""
        return self._store.read(
            lambda connection: read_key_changes(connection, scope, limit=limit, before=before)
        )

    def alerts(self, scope: Scope | None, *, limit: int = 100) -> list[Alert]:
        """Return the thresholds that fired for a scope and all below, the latest first; None: all; blocks."""
        return self._store.read(lambda connection: read_alerts(connection, scope, limit=limit))

    def verify(self) -> VerifyReport:
        """Recompute everything from the entries and report each difference; blocks, in proportion to them."""
        return self._store.read(verify)

    def overruns(self) -> int:
        """Return the tokens ever charged beyond holds and limits; the target is 0; blocks."""
        total = select(func.coalesce(func.sum(entries.c.overrun), 0)).where(entries.c.overrun > 0)
        return int(self._store.read(lambda connection: connection.scalar(total)) or 0)

    async def _reserve_or_undo(self, hold: Hold, reservation_id: str, *, final: bool) -> Reservation:
        try:
            return await awaited(self.reserve(hold, reservation_id=reservation_id, final=final))
        except asyncio.CancelledError:
            # It may be too late to take the reservation back; then it is released right behind it.
            self.release(reservation_id)
            raise

    def _closed(self, closing: Closing) -> Settlement:
        """Follow up what is committed: wake who waits, report an overrun."""
        settlement = closing.settlement
        if not closing.first:
            return replace(settlement, repeated=True)
        self._turnstile.freed(closing.scope)
        over = settlement.overrun_amounts
        if over is not NOTHING and over != NOTHING:
            self.overrun_tokens += settlement.overrun
            self._log.warning(
                "budget.overrun",
                scope=closing.scope,
                reservation_id=settlement.reservation_id,
                charged=settlement.charged,
                overrun=settlement.overrun,
                overrun_weighted=over.weighted_tokens,
                overrun_usd_micros=over.usd_micros,
            )
        return settlement

    def _expired(self, closings: tuple[Closing, ...]) -> int:
        for closing in closings:
            self._closed(closing)
        if closings:
            self._log.warning("budget.holds_expired", holds=len(closings))
        return len(closings)

    def _freed_by(self, done: "Future[Reservation]") -> None:
        if not done.cancelled() and done.exception() is None:
            self._turnstile.freed(done.result().scope)

    def _overridden(self, future: "Future[Override]") -> "Future[Override]":
        def freed(done: "Future[Override]") -> None:
            if not done.cancelled() and done.exception() is None:
                self._approvals.note(done.result())
                self._turnstile.freed(done.result().scope)

        future.add_done_callback(freed)
        return future
