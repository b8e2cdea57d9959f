"""What the doors ask of batches: take one in, show it, hand out its results, cancel it."""

import asyncio
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select, update

from trivet.batches.records import OPEN, STATES, Batch, LineOrder, Result
from trivet.domain.budgets import Idempotency
from trivet.domain.clock import Clock
from trivet.domain.errors import IdempotencyInFlight, IdempotencyMismatch
from trivet.domain.scopes import Scope
from trivet.storage.batch_schema import batch_lines, batches
from trivet.storage.database import Database
from trivet.storage.instants import instant_of, ns_of
from trivet.storage.writes import Writes

CHUNK_BYTES = 256 * 1024
"""So much of a batch is written in one transaction, so that the requests of others come between."""
_ENTER = """
    INSERT INTO batches (batch_id, scope, key_id, label, status, total, created_ns, deadline_ns, fingerprint)
    VALUES (:batch_id, :scope, :key_id, :label, :status, :total, :created_ns, :deadline_ns, :fingerprint)
    ON CONFLICT (batch_id) DO NOTHING
"""
CANCELLED = json.dumps(
    {"code": "batch_cancelled", "message": "The batch was cancelled before this line ran."}
)


class Batches:
    """All batches. Its methods do not block the event loop."""

    def __init__(self, database: Database, clock: Clock, *, kept_for: timedelta) -> None:
        """Take the store; `kept_for`: how long results stay after a batch has ended."""
        self.database = database
        self.kept_for = kept_for
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a plain call made after each change that is made through this object."""
        self._listeners.append(listener)

    async def submit(
        self,
        lines: Sequence[LineOrder],
        *,
        scope: Scope,
        key_id: str,
        label: str,
        deadline_at: datetime,
        idempotency: Idempotency | None = None,
    ) -> Batch:
        """Take in a batch; it is there once all of it is on disk, or not at all.

        With an idempotency key that the scope has used before, return the batch that it stands for.

        Raises:
            IdempotencyInFlight: that batch is still arriving.
            IdempotencyMismatch: it holds something else.
        """
        batch_id = _new_id(scope, idempotency)
        row = {
            "fingerprint": idempotency.fingerprint if idempotency else None,
            "batch_id": batch_id,
            "scope": scope,
            "key_id": key_id,
            "label": label,
            "status": "arriving",
            "total": len(lines),
            "created_ns": ns_of(self._clock.now()),
            "deadline_ns": ns_of(deadline_at),
        }
        before = await asyncio.wrap_future(self.database.write(partial(_enter, row)))
        if before is not None:
            return await self._same(batch_id, before, idempotency)
        for chunk in _chunks(lines):
            await self._do(partial(_put, [_row(batch_id, line) for line in chunk]))
        whole = update(batches).where(batches.c.batch_id == batch_id).values(status="queued")
        await self._do(lambda connection: connection.execute(whole))
        self._tell()
        found = await self.find(batch_id)
        assert found is not None  # noqa: S101 - nobody knows its name yet
        return found

    async def _same(self, batch_id: str, fingerprint: str, idempotency: Idempotency | None) -> Batch:
        if idempotency is None or fingerprint != idempotency.fingerprint:
            raise IdempotencyMismatch(
                "The idempotency key stood for another batch.",
                hint="Use a new key for each batch.",
                param="Idempotency-Key",
            )
        found = await self.find(batch_id)
        if found is None:
            raise IdempotencyInFlight(
                "The batch of this idempotency key is still arriving.",
                hint="Ask again in a moment.",
                retry_after_s=1.0,
                param="Idempotency-Key",
            )
        return found

    async def find(self, batch_id: str) -> Batch | None:
        """Return a batch; None: there is none of this id."""
        found = await self._select(batches.c.batch_id == batch_id, most=1)
        return found[0] if found else None

    async def of(self, scope: Scope | None, *, most: int) -> list[Batch]:
        """Return the batches of a scope and of those below it, None: of all; the latest first."""
        return await self._select(None if scope is None else _of(scope), most=most)

    async def open_count(self, scope: Scope) -> int:
        """Return how many batches of exactly this scope wait or run."""
        counted = select(func.count()).where(batches.c.scope == scope, batches.c.status.in_(OPEN))
        return int(await self.database.fetch(lambda connection: connection.scalar(counted) or 0))

    async def results(self, batch_id: str, *, after: int, most: int) -> list[Result]:
        """Return up to `most` results of lines beyond the number `after`, in the order of the file."""
        ended = (
            select(batch_lines)
            .where(
                batch_lines.c.batch_id == batch_id,
                batch_lines.c.number > after,
                batch_lines.c.answer.is_not(None),
            )
            .order_by(batch_lines.c.number)
            .limit(most)
        )
        return await self.database.fetch(
            lambda connection: [_result(row) for row in connection.execute(ended)]
        )

    async def cancel(self, batch_id: str) -> None:
        """Give up what has not begun; what runs may end. A batch that has ended stays as it is."""
        now_ns = ns_of(self._clock.now())
        await self._do(lambda connection: _cancel(connection, batch_id, now_ns, self.kept_for))
        self._tell()

    async def _select(self, which: ColumnElement[bool] | None, *, most: int) -> list[Batch]:
        def op(connection: Connection) -> list[Batch]:
            query = select(batches).where(batches.c.status != "arriving")
            if which is not None:
                query = query.where(which)
            rows = connection.execute(
                query.order_by(batches.c.created_ns.desc(), batches.c.batch_id).limit(most)
            ).all()
            tallies = _tallies(connection, [row.batch_id for row in rows])
            return [_batch(row, tallies[row.batch_id]) for row in rows]

        return await self.database.fetch(op)

    async def _do(self, op: Callable[[Connection], Any]) -> None:
        await asyncio.wrap_future(self.database.transact(lambda connection: _nothing(op(connection))))

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _new_id(scope: Scope, idempotency: Idempotency | None) -> str:
    if idempotency is None:
        return f"batch_{secrets.token_hex(12)}"
    return "batch_" + hashlib.sha256(f"{scope}\n{idempotency.key}".encode()).hexdigest()[:24]


def _enter(row: dict[str, Any], connection: Writes) -> str | None:
    """Enter a batch; return the fingerprint of the one that has its id already, None if there was none."""
    if connection.execute(_ENTER, row).rowcount:
        return None
    find = "SELECT fingerprint FROM batches WHERE batch_id = :batch_id"
    return str(connection.execute(find, {"batch_id": row["batch_id"]}).fetchone()[0])


def close_ended(
    connection: Connection, now_ns: int, kept_for: timedelta, batch_id: str | None = None
) -> list[str]:
    """Close every open batch, or the one, of which no line waits or runs; return which were closed."""
    unfinished = (
        select(batch_lines.c.number)
        .where(batch_lines.c.batch_id == batches.c.batch_id, batch_lines.c.state.in_(("waiting", "running")))
        .exists()
    )
    given_up = (
        select(batch_lines.c.number)
        .where(batch_lines.c.batch_id == batches.c.batch_id, batch_lines.c.state == "abandoned")
        .exists()
    )
    closing = and_(batches.c.status.in_(OPEN), ~unfinished)
    if batch_id is not None:
        closing = and_(closing, batches.c.batch_id == batch_id)
    ended = {
        "ended_ns": now_ns,
        "kept_until_ns": now_ns + int(kept_for.total_seconds() * 1e9),
        "runner": None,
        "lease_ns": None,
    }
    closed: list[str] = []
    for status, which in (
        ("cancelled", batches.c.status == "cancelling"),
        ("expired", given_up),
        ("completed", batches.c.status.in_(OPEN)),
    ):
        change = update(batches).where(closing, which).values(status=status, **ended)
        closed += connection.scalars(change.returning(batches.c.batch_id)).all()
    return closed


def _cancel(connection: Connection, batch_id: str, now_ns: int, kept_for: timedelta) -> None:
    cancelled = connection.execute(
        update(batches)
        .where(batches.c.batch_id == batch_id, batches.c.status.in_(OPEN))
        .values(status="cancelling")
    )
    if cancelled.rowcount:
        connection.execute(
            update(batch_lines)
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.state == "waiting")
            .values(state="abandoned", body=None, answer=CANCELLED, ended_ns=now_ns)
        )
        close_ended(connection, now_ns, kept_for, batch_id)


def old(now_ns: int, arriving_before_ns: int) -> ColumnElement[bool]:
    """Return what tells batches that were kept long enough, and those that never arrived whole."""
    return or_(
        batches.c.kept_until_ns < now_ns,
        and_(batches.c.status == "arriving", batches.c.created_ns < arriving_before_ns),
    )


def remove_old(connection: Connection, now_ns: int, arriving_before_ns: int) -> int:
    """Remove some old batches; return how many."""
    chosen = connection.scalars(
        select(batches.c.batch_id).where(old(now_ns, arriving_before_ns)).limit(10)
    ).all()
    connection.execute(delete(batch_lines).where(batch_lines.c.batch_id.in_(chosen)))
    connection.execute(delete(batches).where(batches.c.batch_id.in_(chosen)))
    return len(chosen)


def _tallies(connection: Connection, batch_ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    counted = (
        select(
            batch_lines.c.batch_id, batch_lines.c.state, batch_lines.c.deployment, func.count().label("lines")
        )
        .where(batch_lines.c.batch_id.in_(batch_ids))
        .group_by(batch_lines.c.batch_id, batch_lines.c.state, batch_lines.c.deployment)
    )
    found: dict[str, list[Row[Any]]] = {batch_id: [] for batch_id in batch_ids}
    for row in connection.execute(counted):
        found[row.batch_id].append(row)
    return found


def _batch(row: Row[Any], tallies: Iterable[Row[Any]]) -> Batch:
    counts: Counter[str] = Counter()
    deployments: dict[str, Counter[str]] = {}
    for tally in tallies:
        name = STATES[tally.state]
        counts[name] += tally.lines
        if tally.deployment is not None:
            deployments.setdefault(tally.deployment, Counter())[name] += tally.lines
    return Batch(
        batch_id=row.batch_id,
        scope=Scope(row.scope),
        key_id=row.key_id,
        label=row.label,
        status=row.status,
        total=row.total,
        created_at=instant_of(row.created_ns),
        deadline_at=instant_of(row.deadline_ns),
        started_at=_instant(row.started_ns),
        ended_at=_instant(row.ended_ns),
        kept_until=_instant(row.kept_until_ns),
        counts=counts,
        deployments=deployments,
    )


def _result(row: Row[Any]) -> Result:
    return Result(
        number=row.number,
        custom_id=row.custom_id,
        request_id=row.request_id,
        status_code=row.status_code,
        answer=row.answer,
    )


def _put(rows: list[dict[str, Any]], connection: Connection) -> None:
    connection.execute(insert(batch_lines), rows)


def _row(batch_id: str, line: LineOrder) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "number": line.number,
        "custom_id": line.custom_id,
        "url": line.url,
        "state": "waiting",
        "tries": 0,
        "body": line.body,
    }


def _chunks(lines: Sequence[LineOrder]) -> Iterable[list[LineOrder]]:
    chunk: list[LineOrder] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line.body)
        if size >= CHUNK_BYTES or len(chunk) == 500:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _of(scope: Scope) -> ColumnElement[bool]:
    return or_(batches.c.scope == scope, batches.c.scope.startswith(f"{scope}.", autoescape=True))


def _instant(at_ns: int | None) -> datetime | None:
    return None if at_ns is None else instant_of(at_ns)


def _nothing(_: Any) -> None:
    """Keep a cursor, which is the transaction's, from leaving it."""
