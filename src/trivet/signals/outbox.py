"""The outbox: news that was written in the transaction which made it true, until it is delivered.

Who delivers claims first: the claim is a short lease, so that of several replicas one delivers, and what a
dead one had claimed is delivered by another. So an item may arrive twice, and has an id to tell by.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update

from trivet.domain.clock import Clock
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.instants import instant_of, ns_of
from trivet.storage.schema import alerts, outbox

GIVEN_UP_NS = 2**62
"""In `next_ns`: it is a dead letter, and not tried again by itself."""
DEAD_LETTERS_SHOWN = 50
TEST_KIND = "signals.test"
SELECTION = "model.selection"
LATENCY_WARNING = "model.latency_warning"
MODEL_KINDS = (SELECTION, LATENCY_WARNING)
MODEL_EVENTS_KEPT = timedelta(days=1)
"""Events of models come every few seconds, and nobody owes an account of them: so long they are kept."""
_LONGEST_WINDOW = timedelta(days=32)

_WAITING = outbox.c.delivered_ns.is_(None)
_DEAD = and_(_WAITING, outbox.c.next_ns == GIVEN_UP_NS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One item of news, with how often it was tried to deliver it, this time included."""

    seq: int
    organisation: Scope
    kind: str
    at: datetime
    data: dict[str, Any]
    attempts: int
    delivery_id: str
    """The same at every try, and in a restored store: what a receiver knows repetitions by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxState:
    """How the deliveries stand."""

    waiting: int
    """To be delivered, first tries and further ones."""
    dead: int
    """Given up."""
    delivered: int
    oldest_waiting_at: datetime | None
    last_error: str | None
    """Of the latest item that is waiting or dead."""
    dead_letters: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the state as the API and the CLI show it."""
        return {
            "waiting": self.waiting,
            "dead": self.dead,
            "delivered": self.delivered,
            "oldest_waiting_at": self.oldest_waiting_at.isoformat() if self.oldest_waiting_at else None,
            "last_error": self.last_error,
            "dead_letters": list(self.dead_letters),
        }


class Outbox:
    """The table of what is to be delivered. Reading blocks."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def is_due(self) -> bool:
        """Tell whether anything may be tried now; blocks."""
        now_ns = ns_of(self._clock.now())
        due = select(outbox.c.seq).where(_WAITING, outbox.c.next_ns <= now_ns).limit(1)
        return self._database.read(lambda connection: connection.scalar(due)) is not None

    def put(self, organisation: Scope, kind: str, data: Mapping[str, Any]) -> "Future[str]":
        """Enter news that no operation of the ledger enters; resolve to its delivery id."""
        now_ns = ns_of(self._clock.now())
        row = {
            "organisation": organisation,
            "kind": kind,
            "at_ns": now_ns,
            "payload": json.dumps(data, separators=(",", ":")),
            "attempts": 0,
            "next_ns": now_ns,
        }
        enter = insert(outbox).values(**row).returning(outbox)
        return self._database.transact(
            lambda connection: _delivery(connection.execute(enter).one()).delivery_id
        )

    def claim(self, most: int, lease: timedelta) -> "Future[list[Delivery]]":
        """Take up to `most` due items, the oldest first; whoever claims has until the lease ends."""
        now_ns = ns_of(self._clock.now())
        until_ns = ns_of(self._clock.now() + lease)
        due = and_(_WAITING, outbox.c.next_ns <= now_ns)
        chosen = select(outbox.c.seq).where(due).order_by(outbox.c.seq).limit(most).scalar_subquery()
        # `due` once more: where another replica was quicker, its lease is seen once its lock is gone.
        claim = (
            update(outbox)
            .where(outbox.c.seq.in_(chosen), due)
            .values(attempts=outbox.c.attempts + 1, next_ns=until_ns)
            .returning(outbox)
        )

        def run(connection: Connection) -> list[Delivery]:
            return sorted((_delivery(row) for row in connection.execute(claim)), key=lambda item: item.seq)

        return self._database.transact(run)

    def delivered(self, seqs: Sequence[int]) -> "Future[None]":
        """Enter that items have arrived."""
        values = {"delivered_ns": ns_of(self._clock.now()), "last_error": None}
        return self._change(outbox.c.seq.in_(seqs), values)

    def failed(self, seq: int, why: str, *, again_at: datetime | None) -> "Future[None]":
        """Enter why an item did not arrive, and when to try again; None: never, it is a dead letter."""
        next_ns = GIVEN_UP_NS if again_at is None else ns_of(again_at)
        return self._change(outbox.c.seq == seq, {"last_error": why[:500], "next_ns": next_ns})

    def revive(self) -> "Future[int]":
        """Try all dead letters anew, from now on; resolve to how many there are."""
        now_ns = ns_of(self._clock.now())
        again = update(outbox).where(_DEAD).values(next_ns=now_ns, attempts=0)
        return self._database.transact(lambda connection: int(connection.execute(again).rowcount))

    def prune(self, retention: timedelta) -> "Future[int]":
        """Forget what was delivered or given up longer ago, and alerts of windows that began before."""
        before = self._clock.now() - retention
        past = or_(
            outbox.c.at_ns < ns_of(before),
            and_(
                outbox.c.kind.in_(MODEL_KINDS),
                outbox.c.at_ns < ns_of(self._clock.now() - min(retention, MODEL_EVENTS_KEPT)),
            ),
        )
        done = and_(past, (outbox.c.delivered_ns.is_not(None)) | _DEAD)

        def run(connection: Connection) -> int:
            # While a window lasts, its alerts say what has fired already; `total` lasts for ever.
            began_s = int((before - _LONGEST_WINDOW).timestamp())
            ended = and_(alerts.c.window != "total", alerts.c.window_start_s < began_s)
            connection.execute(delete(alerts).where(ended))
            return int(connection.execute(delete(outbox).where(done)).rowcount)

        return self._database.transact(run)

    def state(self) -> OutboxState:
        """Return how the deliveries stand; blocks."""
        return self._database.read(_state)

    def _change(self, where: Any, values: dict[str, Any]) -> "Future[None]":
        def run(connection: Connection) -> None:
            connection.execute(update(outbox).where(where, _WAITING).values(**values))

        return self._database.transact(run)


def _state(connection: Connection) -> OutboxState:
    delivered = connection.scalar(
        select(func.count()).select_from(outbox).where(outbox.c.delivered_ns.is_not(None))
    )
    waiting, oldest = connection.execute(
        select(func.count(), func.min(outbox.c.at_ns)).where(_WAITING, outbox.c.next_ns != GIVEN_UP_NS)
    ).one()
    dead = connection.scalar(select(func.count()).select_from(outbox).where(_DEAD))
    last_error = connection.scalar(
        select(outbox.c.last_error)
        .where(_WAITING, outbox.c.last_error.is_not(None))
        .order_by(outbox.c.seq.desc())
        .limit(1)
    )
    letters = connection.execute(
        select(outbox).where(_DEAD).order_by(outbox.c.seq.desc()).limit(DEAD_LETTERS_SHOWN)
    )
    return OutboxState(
        waiting=int(waiting),
        dead=int(dead or 0),
        delivered=int(delivered or 0),
        oldest_waiting_at=None if oldest is None else instant_of(oldest),
        last_error=last_error,
        dead_letters=tuple(_dead_letter(row) for row in letters),
    )


def _dead_letter(row: Row[Any]) -> dict[str, Any]:
    item = _delivery(row)
    return {
        "id": item.delivery_id,
        "type": item.kind,
        "at": item.at.isoformat(),
        "attempts": item.attempts,
        "error": row.last_error,
        "data": item.data,
    }


def _delivery(row: Row[Any]) -> Delivery:
    identity = "\x1f".join((str(row.seq), row.organisation, row.kind, str(row.at_ns), row.payload))
    return Delivery(
        seq=row.seq,
        organisation=Scope(row.organisation),
        kind=row.kind,
        at=instant_of(row.at_ns),
        data=json.loads(row.payload),
        attempts=row.attempts,
        delivery_id=f"msg_{hashlib.sha256(identity.encode()).hexdigest()[:32]}",
    )
