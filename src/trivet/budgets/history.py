"""Reading the entries as a history: what was done to a scope's budgets, when, and what it changed."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, TextClause, and_, func, select, text

from trivet.budgets.balances import below_or_at
from trivet.budgets.entries import digits
from trivet.budgets.key_entries import KEYS, key_scope, within_keys
from trivet.domain.budgets import Amounts
from trivet.domain.scopes import Scope, organisation
from trivet.storage.instants import instant_of
from trivet.storage.schema import entries

HISTORY_MAX = 10_000
_NEVER_NS = 2**63 - 1
IS_RULE = text("kind IN ('limit', 'zone', 'override')")
"""Written out as in the index, which is only used for the same words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRecord:
    """One entry of the ledger, as an auditor reads it."""

    seq: int
    at: datetime
    kind: str
    scope: Scope
    reservation_id: str | None
    used: Amounts
    held: Amounts
    overrun: int
    detail: dict[str, Any]
    note: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Return the entry as the API and the CLI show it."""
        return {
            "seq": self.seq,
            "at": self.at.isoformat(),
            "kind": self.kind,
            "scope": self.scope,
            "reservation_id": self.reservation_id,
            "used": self.used.as_json(),
            "held": self.held.as_json(),
            "overrun": self.overrun,
            "detail": self.detail,
            "note": self.note,
            "hash": self.hash,
        }


def read_history(
    connection: Connection, scope: Scope, *, limit: int, before: int | None = None
) -> list[EntryRecord]:
    """Return entries of a scope and all below it, the latest first; at most HISTORY_MAX of them."""
    return _records(connection, _within(scope), limit, before)


def read_rule_changes(
    connection: Connection, scope: Scope | None, *, limit: int, before: int | None = None
) -> list[EntryRecord]:
    """Return who changed which limit, override or calendar, the latest first; None: of all organisations."""
    where = IS_RULE if scope is None else and_(IS_RULE, _within(scope))
    return _rules(connection, where, limit, before)


def read_key_changes(
    connection: Connection, scope: Scope | None, *, limit: int, before: int | None = None
) -> list[EntryRecord]:
    """Return who made, changed and revoked which API key, the latest first; None: of all organisations."""
    where: ColumnElement[bool] = entries.c.organisation == KEYS
    if scope is not None:
        where = and_(where, below_or_at(entries.c.scope, within_keys(scope)))
    found = _records(connection, where, limit, before)
    return [replace(record, scope=key_scope(record.scope)) for record in found]


def _within(scope: Scope) -> ColumnElement[bool]:
    return and_(entries.c.organisation == organisation(scope), below_or_at(entries.c.scope, scope))


def _records(
    connection: Connection, where: ColumnElement[bool] | TextClause, limit: int, before: int | None
) -> list[EntryRecord]:
    """Return entries of one organisation; its instants never fall, so they are in the order of `seq`."""
    query = select(entries).where(where).order_by(entries.c.at_ns.desc(), entries.c.seq.desc())
    if before is not None:
        page = entries.alias()
        found = select(page.c.at_ns).where(page.c.seq == before).scalar_subquery()
        query = query.where(entries.c.seq < before, entries.c.at_ns <= func.coalesce(found, _NEVER_NS))
    return _read(connection, query, limit)


def _rules(
    connection: Connection, where: ColumnElement[bool] | TextClause, limit: int, before: int | None
) -> list[EntryRecord]:
    """Return changes of rules. They are few, and have an index of their own."""
    query = select(entries).where(where).order_by(entries.c.seq.desc())
    if before is not None:
        query = query.where(entries.c.seq < before)
    return _read(connection, query, limit)


def _read(connection: Connection, query: Select[Any], limit: int) -> list[EntryRecord]:
    return [
        EntryRecord(
            seq=row.seq,
            at=instant_of(row.at_ns),
            kind=row.kind,
            scope=Scope(row.scope),
            reservation_id=row.reservation_id,
            used=Amounts(row.used_tokens, row.used_weighted, row.used_usd),
            held=Amounts(row.held_tokens, row.held_weighted, row.held_usd),
            overrun=row.overrun,
            detail=json.loads(row.detail),
            note=row.note,
            hash=digits(row.hash),
        )
        for row in connection.execute(query.limit(max(1, min(limit, HISTORY_MAX))))
    ]
