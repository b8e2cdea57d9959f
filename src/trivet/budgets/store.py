"""What a ledger asks of the store that keeps its books: one method per verb, and reading.

Every verb is one transaction, all of it or nothing, and its future resolves when it is on disk. The rules
are the same in every store; `budgets/sqlite_*` runs them in Python on the writer thread, another store may
run them as functions of its own. A verb's future fails with the errors named here, or StoreUnavailable.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from trivet.budgets.prospects import Prospects
from trivet.budgets.refusals import Contention
from trivet.budgets.rows import RowKey
from trivet.budgets.status import View
from trivet.domain.budgets import (
    Amounts,
    Hold,
    LimitKind,
    Meter,
    Override,
    OverrideKind,
    Pressure,
    Reservation,
    Settlement,
)
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.domain.values import value

T = TypeVar("T")

AlsoWrite = Callable[[Any], None]
"""A further write for the same transaction, on the store's own connection; if it fails, all of it fails."""


@value()
class Closing:
    """A settlement, whose it is, and whether it was this call that made it."""

    settlement: Settlement
    scope: Scope
    first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideRequest:
    """What is asked for; see `domain.budgets.Override`."""

    override_id: str
    kind: OverrideKind
    scope: Scope
    meter: Meter = "tokens"
    window: LimitKind = "daily"
    amount: int = 0
    requester: str
    reason: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Recovered:
    """What opening the books found: holds of a dead owner, which were charged in full."""

    holds: int
    closings: tuple[Closing, ...] = field(default=())


class LedgerStore(Protocol):
    """The books of a ledger."""

    def recover(self) -> "Future[Recovered]":
        """Begin to own reservations; charge in full what earlier owners, now dead, left open.

        To be called once, before the first reservation. With several owners: those whose lease has ended.
        """
        ...

    def reserve(self, hold: Hold, reservation_id: str, *, final: bool) -> "Future[Reservation]":
        """Hold on every row or on none; see `budgets.admission` for the rules, which every store shares.

        The same id and hold again return the hold that exists. `final`: the caller will not wait, so what
        is free now is granted, if it takes `min_output`, although more will be free later.

        Errors: BudgetExhausted, BudgetContended, RequestTooLarge, ApprovalRequired, NonessentialBlocked,
        IdempotencyError, RequestMalformed (a senseless amount, an id that is taken).
        """
        ...

    def reweight(
        self,
        reservation_id: str,
        prompt: Amounts,
        output: Amounts,
        *,
        tier: str | None = None,
        dearest: bool = False,
    ) -> "Future[Reservation]":
        """Change an open hold to another tier's amounts, for the output tokens that were granted.

        On all of its rows or, with the errors of `reserve`, on none: then the hold stays as it was.
        `output` is for the granted `max_output`. Error: NotFound; RequestMalformed if it has ended.
        """
        ...

    def settle(
        self,
        reservation_id: str,
        usage: Usage,
        charged: Amounts | None,
        also: AlsoWrite | None,
        earlier: Sequence[AttemptCharge] = (),
        *,
        patient: bool = False,
    ) -> "Future[Settlement]":
        """Replace a hold by what was used, in the windows that admitted it.

        `usage` and `charged` are the last attempt's; what `earlier` ones owe is charged beside it, each as an
        entry of its own of kind `attempt`, before that of the settlement. `charged` None: `usage` in tokens
        of weight 1, and on the other meters in proportion to the hold. Of an expired one the signed
        difference is corrected, once. What has ended otherwise stays as it is, and `also` is not run. What is
        told is what the listener to closings makes of it; it cannot be cancelled. `patient`: nobody waits for
        it, and a store that gathers writes may let it wait for others. Error: NotFound, RequestMalformed,
        what `also` raised.
        """
        ...

    def release(
        self, reservation_id: str, also: AlsoWrite | None, *, patient: bool = False
    ) -> "Future[Settlement]":
        """Give a hold back uncharged. Otherwise as `settle`; an expired one stays charged."""
        ...

    def record(
        self, scope: Scope, charged: Amounts, note: str, also: AlsoWrite | None
    ) -> "Future[Settlement]":
        """Charge what no hold preceded, whether it fits or not."""
        ...

    def lasting(self, rows: Sequence[RowKey], since_ns: int) -> "Future[RowKey | None]":
        """Tell on which of the rows a hold stands now that was made by `since_ns`: on the first such."""
        ...

    def prospects(self, contention: Contention) -> "Future[Prospects]":
        """Read what is known of when the holds in the way of another may end."""
        ...

    def expire(self) -> "Future[tuple[Closing, ...]]":
        """Charge in full every hold whose `expires_at_ns` has passed, and forget old idempotency keys."""
        ...

    def note(self, also: AlsoWrite) -> "Future[None]":
        """Write what belongs to no operation, and what nobody waits for."""
        ...

    def set_limit(
        self,
        scope: Scope,
        meter: Meter,
        kind: LimitKind,
        amount: int | None,
        *,
        allowance: int,
        author: str,
    ) -> "Future[None]":
        """Set a limit; None: explicitly unlimited. A counter that was not kept until now is opened.

        `allowance`: what critical requests may use beyond it.
        """
        ...

    def clear_limit(self, scope: Scope, meter: Meter, kind: LimitKind, *, author: str) -> "Future[None]":
        """Remove a scope's own limit; nothing if it has none."""
        ...

    def set_time_zone(self, organisation: Scope, zone: str, *, author: str) -> "Future[None]":
        """Set the zone of an organisation's calendar; it applies from the next window of each kind."""
        ...

    def enter_key(self, scope: Scope, facts: Mapping[str, Any]) -> "Future[None]":
        """Enter what becomes of an API key of a scope; see `budgets.key_entries`."""
        ...

    def request_override(self, request: OverrideRequest) -> "Future[Override]":
        """Enter a request. One of kind `emergency` within its ceiling is approved at once.

        Error: RequestMalformed (nothing to override, a past end, a ceiling exceeded).
        """
        ...

    def decide_override(self, override_id: str, *, approve: bool, decider: str) -> "Future[Override]":
        """Approve or deny a request. Error: NotFound; PermissionDenied to the requester; RequestMalformed."""
        ...

    def revoke_override(self, override_id: str, *, author: str) -> "Future[Override]":
        """End an override, or take back a request, before its time."""
        ...

    def listen(self, closed: Callable[[Closing], Settlement], freed: Callable[[Scope], None]) -> None:
        """Take what is to be told what; to be called once, before anything else.

        Args:
            closed: makes of each closing that was asked for, once it is on disk, what its asker is told.
            freed: is told of scopes of which tokens come free that this ledger did not free itself.
        """
        ...

    def answers(self) -> bool:
        """Tell, without waiting and without asking, whether a verb would be carried out now."""
        ...

    def pressure(self, scope: Scope) -> Pressure:
        """Tell how full the scope's budgets are, from memory: never blocks, may be a moment old."""
        ...

    def pressing(self, scope: Scope) -> Pressure | None:
        """Tell the same once a step of the ladder is reached; None: none is."""
        ...

    def view(self) -> View:
        """Return the instant, the calendar and the rules that a reading is made under."""
        ...

    def read(self, op: Callable[[Connection], T]) -> T:
        """Run a reading on one consistent snapshot; blocks. `budgets.status` holds such readings."""
        ...
