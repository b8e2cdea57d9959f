"""One operation on its way to PostgreSQL and back: what is sent of it, what its answer means."""

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Literal

from trivet.budgets.entries import as_detail, attempt_detail, usage_detail
from trivet.budgets.granting import (
    check_reweight,
    check_same,
    granted_output,
    hold_detail,
    reservation_of,
)
from trivet.budgets.idempotency import repeated
from trivet.budgets.ladder import Ladder
from trivet.budgets.rows import Balance, Cap, Stored, least_room
from trivet.budgets.store import AlsoWrite, Closing
from trivet.domain.budgets import PRIORITIES, Amounts, Hold, ReservationState, Settlement
from trivet.domain.errors import NotFound, RequestMalformed, StoreError
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage.writes import Answer

Verb = Literal["reserve", "reweight", "settle", "release", "expire", "record", "note"]


@dataclass(frozen=True, slots=True)
class Told:
    """What the function answered for one operation; see `ledger__answer` in postgres_functions.sql."""

    status: str
    granted: int | None
    at_ns: int
    used: Sequence[int]
    held: Sequence[int]
    facts: Any


@dataclass(slots=True, kw_only=True, eq=False)
class Operation:
    """What is asked, who waits for it, and what is to be written beside it."""

    verb: Verb
    reservation_id: str | None = None
    scope: Scope | None = None
    """Of closings it is found out."""
    hold: Hold | None = None
    final: bool = True
    amounts: tuple[Amounts, Amounts] | None = None
    """Of a reweight: prompt and output."""
    usage: Usage | None = None
    charged: Amounts | None = None
    earlier: tuple[AttemptCharge, ...] = ()
    note: str = ""
    also: AlsoWrite | None = None
    beside: "Recorded | None" = None
    """What `also` wants to write, once it was asked."""
    future: "Future[Any]" = field(default_factory=Future)
    submitted_s: float = 0.0
    tries: int = 0
    sent_before: bool = False
    """Whether an earlier sending of it may have been carried out."""
    caps: tuple[Cap, ...] = ()
    approved: bool = False
    tier: str | None = None
    dearest: bool = False
    token: str = ""

    def take_down(self) -> None:
        """Ask, once, what is to be written beside the operation."""
        if self.also is not None and self.beside is None:
            recorded = Recorded()
            self.also(recorded)
            self.beside = recorded

    def answer(self, result: Any) -> bool:
        """Give the result to who waits; False: they were told already that there will be none."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            return False
        return True

    def fail(self, error: BaseException) -> bool:
        """Give the error to who waits; False as `answer`."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def trace(self) -> str:
        """Return what makes the entry of a record known again, for it has no id of its own."""
        return as_detail({"operation": self.token})

    def as_json(self, ladder: Ladder, *, first: bool) -> dict[str, Any]:
        """Return what the function is told, but for where it stands in its batch."""
        sent: dict[str, Any] = {"verb": self.verb, "id": self.reservation_id, "scope": self.scope}
        if self.hold is not None:
            sent |= _hold_as_json(self.hold, ladder, final=self.final, approved=self.approved)
        elif self.amounts is not None:
            sent |= {
                "prompt": _list(self.amounts[0]),
                "output": _list(self.amounts[1]),
                "max_output": 0,
                "refuse_percents": _percents(ladder, dearest=True, approved=self.approved)
                if self.dearest
                else [None] * len(PRIORITIES),
            }
        elif self.verb == "record":
            sent |= {
                "first": first,
                "charged": _list(self.charged or Amounts()),
                "note": _storable(self.note),
                "detail": self.trace(),
            }
        else:
            sent["first"] = first
            if self.charged is not None:
                sent["charged"] = _list(self.charged)
            if self.earlier:
                sent["earlier"] = [
                    {"charged": _list(attempt.charged), "detail": attempt_detail(attempt)}
                    for attempt in self.earlier
                ]
            if self.usage is not None:
                sent |= {"tokens": self.usage.total_tokens, "detail": usage_detail(self.usage)}
        return sent


@dataclass(slots=True)
class Recorded:
    """Statements that somebody wants to run in the transaction, taken down to be sent along.

    It looks like the connection that writes, but for answers: there are none yet.
    """

    statements: list[tuple[str, list[Any]]] = field(default_factory=list)

    def execute(self, sql: str, parameters: Any = (), /) -> Answer:
        """Take down one statement."""
        self.statements.append((sql, [parameters]))
        return _NoAnswer()

    def executemany(self, sql: str, parameters: Any, /) -> Answer:
        """Take down one statement with several sets of values."""
        self.statements.append((sql, list(parameters)))
        return _NoAnswer()


class _NoAnswer:
    """The answer of a statement that has not run."""

    rowcount = -1

    def fetchone(self) -> Any:
        """Refuse."""
        raise StoreError("What is written beside an operation cannot read.")

    def fetchall(self) -> list[Any]:
        """Refuse."""
        raise StoreError("What is written beside an operation cannot read.")

    def __iter__(self) -> Any:
        raise StoreError("What is written beside an operation cannot read.")


def outcome(operation: Operation, told: Told, ladder: Ladder) -> Any:
    """Return what the asker gets: a Reservation, a Closing.

    Raises:
        TrivetError: what `budgets.store.LedgerStore` names.
    """
    if told.status == "missing":
        raise NotFound(f"There is no reservation {(operation.reservation_id or '')[:80]}.")
    if operation.verb == "reserve":
        return _reserved(operation, told, ladder)
    if operation.verb == "reweight":
        return _reweighted(operation, told, ladder)
    if operation.verb == "record":
        assert operation.scope is not None and operation.charged is not None  # noqa: S101, PT018
        over = Amounts(*(max(0, part) for part in told.facts["overrun"]))
        room = least_room(balances_of(operation.caps, told))
        settlement = Settlement(
            "", "settled", operation.charged.tokens, room, over.tokens, operation.charged, over
        )
        return Closing(settlement, operation.scope)
    return _closed(operation, told)


def balances_of(caps: Sequence[Cap], told: Told, *, critical: bool = False) -> list[Balance]:
    """Return the limited rows as the function saw them."""
    if len(told.used) != len(caps):
        # After a closing there is nothing to say of the caps on single requests.
        caps = [cap for cap in caps if cap.key.window != "request"]
    return [
        Balance(cap.key, used, held, cap.limit, cap.granted + (cap.critical if critical else 0))
        for cap, used, held in zip(caps, told.used, told.held, strict=True)
    ]


def stored_of(facts: Any) -> Stored:
    """Return a reservation as a value; `facts` is its row."""
    return Stored(
        facts["id"],
        Scope(facts["scope"]),
        Amounts(facts["tokens"], facts["weighted_tokens"], facts["usd_micros"]),
        facts["max_output"],
        facts["priority"],
        facts["state"],
        Amounts(facts["charged_tokens"], facts["charged_weighted"], facts["charged_usd"]),
        facts["remaining"],
        facts["expires_ns"],
        facts["rows"],
    )


def _hold_as_json(hold: Hold, ladder: Ladder, *, final: bool, approved: bool) -> dict[str, Any]:
    return {
        "prompt": _list(hold.prompt),
        "output": _list(hold.output),
        "max_output": hold.max_output,
        "min_output": hold.min_output,
        "priority": hold.priority,
        "final": final,
        "refuse_percents": _percents(ladder, dearest=hold.dearest, approved=approved),
        "decision_id": hold.decision_id,
        "expires_ns": hold.expires_at_ns,
        "idempotency_key": None if hold.idempotency is None else _storable(hold.idempotency.key),
        "fingerprint": None if hold.idempotency is None else hold.idempotency.fingerprint,
        "detail": hold_detail(hold, hold.max_output),
        # The function puts the number in.
        "clamped": hold_detail(hold, -1),
    }


def _reserved(operation: Operation, told: Told, ladder: Ladder) -> Any:
    hold, reservation_id = operation.hold, operation.reservation_id
    assert hold is not None and reservation_id is not None  # noqa: S101, PT018
    if told.status == "repeated":
        facts = told.facts
        state: ReservationState | None = facts["state"]
        charged = (facts["charged_tokens"], facts["charged_weighted"], facts["charged_usd"])
        assert hold.idempotency is not None  # noqa: S101 - else nothing is repeated
        error = repeated(
            hold.idempotency, facts["fingerprint"], state, None if state is None else Amounts(*charged)
        )
        raise error or StoreError("The store took an idempotency key for a repeated one.")
    balances = balances_of(operation.caps, told, critical=hold.priority == "critical")
    if told.status == "done":
        output = told.granted or 0
        return reservation_of(hold, reservation_id, balances, hold.amounts(output), output)
    if told.status == "exists":
        stored = stored_of(told.facts)
        check_same(stored, hold)
        return reservation_of(hold, reservation_id, balances, stored.held, stored.max_output, more=Amounts())
    granted_output(balances, hold, ladder, told.at_ns, approved=operation.approved, final=operation.final)
    raise StoreError("The store refused a hold that fits.")


def _reweighted(operation: Operation, told: Told, ladder: Ladder) -> Any:
    stored = stored_of(told.facts) if told.facts else None
    assert operation.amounts is not None and operation.reservation_id is not None  # noqa: S101, PT018
    if told.status == "ended" and stored is not None:
        raise RequestMalformed(f"The reservation {stored.reservation_id[:80]} is {stored.state} already.")
    amounts = operation.amounts[0] + operation.amounts[1]
    if stored is None:
        raise StoreError("The store said nothing of the reservation.")
    more = amounts - stored.held
    balances = balances_of(operation.caps, told, critical=stored.priority == "critical")
    asked = Hold(
        scope=stored.scope,
        prompt=more.at_least(0),
        priority=stored.priority,
        tier=operation.tier,
        dearest=operation.dearest,
        expires_at_ns=stored.expires_ns,
    )
    if told.status == "refused":
        check_reweight(balances, asked, more, ladder, told.at_ns, approved=operation.approved)
        raise StoreError("The store refused a hold that fits.")
    return reservation_of(asked, operation.reservation_id, balances, amounts, stored.max_output, more=more)


def _closed(operation: Operation, told: Told) -> Closing:
    stored = stored_of(told.facts)
    if told.status == "ended":
        ours = operation.sent_before and (operation.verb, stored.state) in _ENDS
        return Closing(stored.settlement(), stored.scope, first=ours)
    charged = Amounts(*told.facts["charged"])
    over = (charged - stored.held).at_least(0)
    room = least_room(balances_of(operation.caps, told, critical=stored.priority == "critical"))
    state = next(state for verb, state in _ENDS if verb == operation.verb)
    settlement = Settlement(stored.reservation_id, state, charged.tokens, room, over.tokens, charged, over)
    return Closing(settlement, stored.scope)


_ENDS: tuple[tuple[Verb, ReservationState], ...] = (
    ("settle", "settled"),
    ("release", "released"),
    ("expire", "expired_charged"),
)


def _percents(ladder: Ladder, *, dearest: bool, approved: bool) -> list[int | None]:
    return [ladder.refuses_from(each, dearest=dearest, approved=approved) for each in PRIORITIES]


def _list(amounts: Amounts) -> list[int]:
    return [amounts.tokens, amounts.weighted_tokens, amounts.usd_micros]


def _storable(text: str) -> str:
    """Return the text without the one character that PostgreSQL cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
