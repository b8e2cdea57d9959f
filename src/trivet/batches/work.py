"""What working batches off asks of the store: whose a batch is, which lines wait, what became of them.

A batch is worked off by one process at a time. It claims the batch for a while and renews the claim; what a
dead one had claimed is claimed by another, and lines that ran then are run again.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select, true, update

from trivet.batches.records import OPEN, WaitingLine
from trivet.batches.store import Batches, close_ended, old, remove_old
from trivet.domain.clock import Clock
from trivet.domain.scopes import Scope
from trivet.storage.batch_schema import batch_lines, batches
from trivet.storage.instants import ns_of
from trivet.storage.writes import Writes

T = TypeVar("T")

LEASE = timedelta(seconds=30)
ARRIVAL_MAX = timedelta(hours=1)
"""A batch that has not arrived whole by then never will."""
_EXPIRED = json.dumps({"code": "batch_expired", "message": "The batch's time was over before this line ran."})
_INTERRUPTED = json.dumps(
    {
        "code": "batch_interrupted",
        "message": "Trivet ended while this line ran, as often as it may be tried. Each try was charged.",
    }
)
# In the transaction that charges for the answer, so that none that was charged is lost.
_KEEP = """
    UPDATE batch_lines
       SET state = :state, status_code = :status_code, answer = :answer, deployment = :deployment,
           request_id = :request_id, ended_ns = :ended_ns, body = NULL
     WHERE batch_id = :batch_id AND number = :number AND answer IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A batch that this process works off."""

    batch_id: str
    scope: Scope
    key_id: str
    deadline_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What became of a line."""

    batch_id: str
    number: int
    completed: bool
    status_code: int | None
    """None: it was never run."""
    answer: str
    deployment: str | None
    request_id: str | None


class BatchWork:
    """The batches as the process sees them that works them off."""

    def __init__(self, doors: Batches, clock: Clock, *, runner: str, max_tries: int) -> None:
        """Take the batches, the name of this process, and how often a line may be begun."""
        self._database = doors.database
        self._kept_for = doors.kept_for
        self._clock = clock
        self._runner = runner
        self._max_tries = max_tries
        self._begun = False
        self._started_ns = self._now_ns()

    @property
    def shared(self) -> bool:
        """Tell whether other processes may work off batches of this store, too."""
        return self._database.shared

    async def anything_waits(self) -> bool:
        """Tell whether there is a batch to claim; cheap, where as a rule there is none."""
        return await self._exists(and_(batches.c.status.in_(OPEN), self._free()))

    async def anything_old(self) -> bool:
        """Tell whether there is a batch to remove."""
        return await self._exists(old(self._now_ns(), self._arriving_before_ns()))

    async def claim(self) -> list[Claim]:
        """Take every batch that waits or whose process is gone; lines that it ran wait again.

        A line that was begun as often as it may be has failed instead. In a store that nobody shares,
        whatever is claimed at first was so by a process that is gone.
        """
        now_ns = self._now_ns()
        free = self._free()
        self._begun = True
        # Of a claim that two replicas make at once, the second finds the lease of the first.
        take = (
            update(batches)
            .where(batches.c.status.in_(OPEN), free)
            .values(runner=self._runner, lease_ns=now_ns + _ns(LEASE))
            .returning(batches)
        )

        def op(connection: Connection) -> list[Claim]:
            claims = [
                Claim(
                    batch_id=row.batch_id,
                    scope=Scope(row.scope),
                    key_id=row.key_id,
                    deadline_ns=row.deadline_ns,
                )
                for row in connection.execute(take).all()
            ]
            ids = [claim.batch_id for claim in claims]
            if ids:
                self._put_back_running(connection, ids, now_ns)
                begin = update(batches).where(batches.c.batch_id.in_(ids), batches.c.status == "queued")
                connection.execute(begin.values(status="in_progress", started_ns=now_ns))
                close_ended(connection, now_ns, self._kept_for)
            return claims

        return await self._transact(op)

    def _free(self) -> ColumnElement[bool]:
        if not self._begun and not self._database.shared:
            return true()
        return or_(batches.c.runner.is_(None), batches.c.lease_ns < self._now_ns())

    def _put_back_running(self, connection: Connection, ids: Iterable[str], now_ns: int) -> None:
        running = and_(batch_lines.c.batch_id.in_(list(ids)), batch_lines.c.state == "running")
        cancelled = select(batches.c.batch_id).where(batches.c.status == "cancelling")
        connection.execute(
            update(batch_lines)
            .where(
                running,
                or_(batch_lines.c.tries >= self._max_tries, batch_lines.c.batch_id.in_(cancelled)),
            )
            .values(state="failed", answer=_INTERRUPTED, body=None, ended_ns=now_ns)
        )
        connection.execute(update(batch_lines).where(running).values(state="waiting"))

    async def renew(self, ids: Iterable[str]) -> dict[str, str]:
        """Go on with batches; return the status of those that still are this process's and not ended."""
        mine = and_(
            batches.c.batch_id.in_(list(ids)), batches.c.runner == self._runner, batches.c.status.in_(OPEN)
        )
        renewed = (
            update(batches)
            .where(mine)
            .values(lease_ns=self._now_ns() + _ns(LEASE))
            .returning(batches.c.batch_id, batches.c.status)
        )
        return await self._transact(
            lambda connection: {row.batch_id: row.status for row in connection.execute(renewed).all()}
        )

    async def release(self) -> None:
        """Let go of all batches at the end of this process; what was running waits again."""

        def op(connection: Connection) -> None:
            mine = connection.scalars(
                update(batches)
                .where(batches.c.runner == self._runner)
                .values(runner=None, lease_ns=None)
                .returning(batches.c.batch_id)
            ).all()
            self._put_back_running(connection, mine, self._now_ns())
            close_ended(connection, self._now_ns(), self._kept_for)

        await self._transact(op)

    async def waiting(self, batch_id: str, *, after: int, most: int) -> list[WaitingLine]:
        """Return up to `most` lines that wait, beyond the number `after`."""
        query = (
            select(batch_lines)
            .where(
                batch_lines.c.batch_id == batch_id,
                batch_lines.c.number > after,
                batch_lines.c.state == "waiting",
            )
            .order_by(batch_lines.c.number)
            .limit(most)
        )
        return await self._database.fetch(
            lambda connection: [
                WaitingLine(batch_id=batch_id, number=row.number, url=row.url, body=row.body, tries=row.tries)
                for row in connection.execute(query)
            ]
        )

    async def line(self, batch_id: str, number: int) -> WaitingLine | None:
        """Return one line that waits; None: it does so no more."""
        found = await self.waiting(batch_id, after=number - 1, most=1)
        return found[0] if found and found[0].number == number else None

    async def choose(self, batch_id: str, chosen: Mapping[int, str]) -> None:
        """Enter the deployments that were chosen for lines, by their numbers."""
        change = (
            update(batch_lines)
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.number == bindparam("line"))
            .values(deployment=bindparam("chosen"))
        )
        rows = [{"line": number, "chosen": name} for number, name in chosen.items()]
        if rows:
            await self._transact(lambda connection: _run(connection, change, rows))

    async def begin(self, line: WaitingLine, *, request_id: str) -> bool:
        """Enter that a line runs; False: it waits no more, or the batch is another process's."""
        mine = select(batches.c.batch_id).where(
            batches.c.batch_id == line.batch_id, batches.c.runner == self._runner
        )
        change = (
            update(batch_lines)
            .where(
                batch_lines.c.batch_id.in_(mine),
                batch_lines.c.number == line.number,
                batch_lines.c.state == "waiting",
            )
            .values(state="running", tries=batch_lines.c.tries + 1, request_id=request_id)
        )
        return bool(await self._transact(lambda connection: connection.execute(change).rowcount))

    async def put_back(self, line: WaitingLine, *, counts: bool) -> None:
        """Let a line wait again; unless the try counts it was none. Of a cancelled batch it is given up."""
        cancelled = select(batches.c.batch_id).where(
            batches.c.batch_id == line.batch_id, batches.c.status == "cancelling"
        )
        this = and_(
            batch_lines.c.batch_id == line.batch_id,
            batch_lines.c.number == line.number,
            batch_lines.c.state == "running",
        )
        given_up = {"state": "abandoned", "body": None, "ended_ns": self._now_ns()}
        error = {"code": "batch_cancelled", "message": "The batch was cancelled before this line could run."}
        tries = batch_lines.c.tries if counts else batch_lines.c.tries - 1

        def op(connection: Connection) -> None:
            abandon = update(batch_lines).where(this, batch_lines.c.batch_id.in_(cancelled))
            connection.execute(abandon.values(answer=json.dumps(error), **given_up))
            connection.execute(update(batch_lines).where(this).values(state="waiting", tries=tries))

        await self._transact(op)

    def keep(self, ending: Ending) -> Callable[[Writes], None]:
        """Return the write that enters a line's end, for any transaction; only the first end counts."""
        values = {
            "batch_id": ending.batch_id,
            "number": ending.number,
            "state": "completed" if ending.completed else "failed",
            "status_code": ending.status_code,
            # PostgreSQL's text holds no NUL, and JSON none that is not escaped.
            "answer": ending.answer.replace("\x00", ""),
            "deployment": ending.deployment,
            "request_id": ending.request_id,
            "ended_ns": self._now_ns(),
        }

        def write(connection: Writes) -> None:
            connection.execute(_KEEP, values)

        return write

    async def end(self, ending: Ending) -> None:
        """Enter a line's end in a transaction of its own."""
        await asyncio.wrap_future(self._database.write(self.keep(ending)))

    async def expire(self, ids: Iterable[str]) -> None:
        """Give up all lines of these batches that wait: their time is over."""
        waiting = and_(batch_lines.c.batch_id.in_(list(ids)), batch_lines.c.state == "waiting")
        give_up = (
            update(batch_lines)
            .where(waiting)
            .values(state="abandoned", body=None, answer=_EXPIRED, ended_ns=self._now_ns())
        )
        await self._transact(lambda connection: _run(connection, give_up))

    async def close_ended(self) -> list[str]:
        """Close the batches of which no line waits or runs; return which."""
        return await self._transact(
            lambda connection: close_ended(connection, self._now_ns(), self._kept_for)
        )

    async def remove_old(self) -> int:
        """Remove some batches that were kept long enough; return how many."""
        now_ns, arriving_before_ns = self._now_ns(), self._arriving_before_ns()
        return await self._transact(lambda connection: remove_old(connection, now_ns, arriving_before_ns))

    async def _exists(self, which: ColumnElement[bool]) -> bool:
        query = select(batches.c.batch_id).where(which).limit(1)
        return await self._database.fetch(lambda connection: connection.scalar(query)) is not None

    def _arriving_before_ns(self) -> int:
        before_ns = self._now_ns() - _ns(ARRIVAL_MAX)
        # Where nobody shares the store, what was arriving before this process began never will.
        return before_ns if self.shared else max(before_ns, self._started_ns)

    async def _transact(self, op: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self._database.transact(op))

    def _now_ns(self) -> int:
        return ns_of(self._clock.now())


def _run(connection: Connection, statement: Any, rows: list[dict[str, Any]] | None = None) -> None:
    connection.execute(statement, rows)


def _ns(span: timedelta) -> int:
    return int(span.total_seconds() * 1_000_000_000)
