"""Holds that were given to outside callers: what was decided, and who has taken it up, if anybody.

A caller that runs a request elsewhere is given a hold and reports what it used. The hold is a reservation
like any other, whose id is the decision's; here is kept what else a later report or execution needs, so that
it may come after a restart and at another replica. Only one of both ends a hold: whoever takes it first.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert, select, update

from trivet.domain.clock import Clock
from trivet.domain.errors import DecisionSpent
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.instants import ns_of
from trivet.storage.schema import outside_calls, reservations

TakenBy = Literal["execution", "report"]
KEPT_NS = 7 * 24 * 3600 * 1_000_000_000
"""For a week a late report corrects what was charged."""
_STATES = {
    "held": "is held",
    "settled": "was reported or executed",
    "released": "was given back",
    "expired_charged": "was not used in time and was charged",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideCall:
    """A hold in the hands of an outside caller."""

    decision_id: str
    scope: Scope
    key_id: str
    facts: Mapping[str, Any]
    """What was decided, as JSON."""


class OutsideCalls:
    """All that were given out within the last week."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def keep(self, call: OutsideCall) -> "Future[None]":
        """Remember a hold that was given out."""
        values = {
            "decision_id": call.decision_id,
            "scope": call.scope,
            "key_id": call.key_id,
            "facts": json.dumps(call.facts, separators=(",", ":")),
            "created_ns": self._now_ns(),
            "taken_by": None,
        }
        return self._database.transact(lambda connection: _put(connection, values))

    async def find(self, decision_id: str) -> OutsideCall | None:
        """Return what was given out under this id; None: nothing, or too long ago."""
        return await self._database.fetch(lambda connection: _find(connection, decision_id))

    def take_to_execute(self, decision_id: str, *, until_ns: int) -> "Future[None]":
        """Take the hold to execute its request here, and keep it open until then. Only one can.

        The future's error: DecisionSpent.
        """
        now_ns = self._now_ns()

        def op(connection: Connection) -> None:
            held = connection.execute(
                update(reservations)
                .where(
                    reservations.c.id == decision_id,
                    reservations.c.state == "held",
                    reservations.c.expires_ns > now_ns,
                )
                .values(expires_ns=until_ns)
            )
            if not held.rowcount:
                raise _spent(connection, decision_id)
            mine = connection.execute(
                update(outside_calls)
                .where(outside_calls.c.decision_id == decision_id, outside_calls.c.taken_by.is_(None))
                .values(taken_by="execution")
            )
            if not mine.rowcount:
                raise _spent(connection, decision_id)

        return self._database.transact(op)

    def take_to_report(self, decision_id: str) -> "Future[None]":
        """Take the hold to report what it was used for; a report may be repeated, and may come late.

        The future's error: DecisionSpent, if Trivet executes or executed the request itself.
        """

        def op(connection: Connection) -> None:
            free = outside_calls.c.taken_by.is_(None) | (outside_calls.c.taken_by == "report")
            mine = connection.execute(
                update(outside_calls)
                .where(outside_calls.c.decision_id == decision_id, free)
                .values(taken_by="report")
            )
            if not mine.rowcount:
                raise _spent(connection, decision_id)

        return self._database.transact(op)

    def prune(self) -> "Future[None]":
        """Forget what was given out more than a week ago."""
        before_ns = self._now_ns() - KEPT_NS

        def op(connection: Connection) -> None:
            connection.execute(delete(outside_calls).where(outside_calls.c.created_ns < before_ns))

        return self._database.transact(op)

    def _now_ns(self) -> int:
        return ns_of(self._clock.now())


def _put(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(outside_calls).values(values))


def _find(connection: Connection, decision_id: str) -> OutsideCall | None:
    row = connection.execute(
        select(outside_calls).where(outside_calls.c.decision_id == decision_id)
    ).one_or_none()
    if row is None:
        return None
    return OutsideCall(
        decision_id=row.decision_id, scope=Scope(row.scope), key_id=row.key_id, facts=json.loads(row.facts)
    )


def _spent(connection: Connection, decision_id: str) -> DecisionSpent:
    row = connection.execute(
        select(reservations.c.state, outside_calls.c.taken_by)
        .join(outside_calls, outside_calls.c.decision_id == reservations.c.id)
        .where(reservations.c.id == decision_id)
    ).one_or_none()
    state, taken_by = (None, None) if row is None else row
    words = (
        "is being executed" if taken_by == "execution" and state == "held" else _STATES.get(state or "", "")
    )
    if state == "held" and taken_by is None:
        words = "has run out"
    return DecisionSpent(
        f"The hold of decision {decision_id[:40]} {words or 'is gone'}.",
        hint="POST /api/v1/route decides anew.",
        param="x-trivet-decision-id",
        details={"state": state, "taken_by": taken_by},
    )
