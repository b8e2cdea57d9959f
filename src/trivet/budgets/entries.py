"""Entries of the ledger: append-only, each with the hash of the one before it in its organisation."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trivet.budgets import statements
from trivet.budgets.rows import METER
from trivet.domain.scopes import Scope, organisation

EntryKind = Literal["reserve", "settle", "release", "expire", "record", "correct", "limit"]

FIRST_HASH = "0" * 64
"""What stands for the entry before an organisation's first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change. The deltas apply to every one of `rows`; `rows` and `detail` are JSON texts."""

    at_ns: int
    kind: EntryKind
    scope: Scope
    reservation_id: str | None = None
    used_delta: int = 0
    held_delta: int = 0
    overrun: int = 0
    rows: str = "[]"
    detail: str = "{}"
    note: str = ""


def append(connection: sqlite3.Connection, entry: Entry) -> None:
    """Write an entry at the end of its organisation's chain. Runs on the writer thread."""
    owner = organisation(entry.scope)
    last = connection.execute(statements.LAST_HASH, (owner,)).fetchone()
    previous = last[0] if last else FIRST_HASH
    fields = (
        owner,
        entry.at_ns,
        entry.kind,
        entry.reservation_id,
        entry.scope,
        METER,
        entry.used_delta,
        entry.held_delta,
        entry.overrun,
        entry.rows,
        entry.detail,
        entry.note,
    )
    connection.execute(statements.APPEND_ENTRY, (*fields, previous, chained(previous, fields)))


def chained(previous: str, fields: tuple[Any, ...]) -> str:
    """Return SHA-256 of the previous hash and the entry's fields in the order of the table, as JSON."""
    text = json.dumps(fields, separators=(",", ":"))
    return hashlib.sha256(f"{previous}{text}".encode()).hexdigest()


def as_detail(facts: Mapping[str, Any]) -> str:
    """Return facts as the JSON object of an entry's `detail`."""
    return json.dumps(facts, separators=(",", ":"), sort_keys=True)
