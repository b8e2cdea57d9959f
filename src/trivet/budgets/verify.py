"""Proof of the ledger: every counter, hold, limit and hash recomputed from the entries. Repairs nothing."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from trivet.budgets.entries import FIRST_HASH, chained
from trivet.budgets.rows import METER, rows_from_text
from trivet.storage.schema import counters, entries, limits, reservations

Difference = dict[str, Any]
_Row = tuple[str, str, int]
"""Scope, window kind, and start of the window in seconds."""

_STATE = {"reserve": "held", "settle": "settled", "release": "released", "expire": "expired_charged"}


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was compared, and every difference by name."""

    rows: int
    """Counter rows compared."""
    entries: int
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Tell whether everything agrees."""
        return not self.differences

    def as_json(self) -> dict[str, Any]:
        """Return the report as the API and the CLI show it."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "entries": self.entries,
            "differences": list(self.differences),
        }


@dataclass(slots=True)
class _Replay:
    """The state that the entries lead to."""

    count: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    balances: dict[_Row, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    holds: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[tuple[str, str], int | None] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def take(self, entry: Row[Any]) -> None:
        """Apply one entry, in the order of `seq`."""
        self.count += 1
        self._check_hash(entry)
        for key in rows_from_text(entry.rows):
            balance = self.balances[key.scope, key.window, key.start_s]
            balance[0] += entry.used_delta
            balance[1] += entry.held_delta
        if entry.reservation_id is not None:
            self._take_reservation(entry)
        elif entry.kind == "limit":
            facts = json.loads(entry.detail)
            if facts.get("cleared"):
                self.limits.pop((entry.scope, facts["window"]), None)
            else:
                self.limits[entry.scope, facts["window"]] = facts["amount"]

    def _check_hash(self, entry: Row[Any]) -> None:
        previous = self.hashes.get(entry.organisation, FIRST_HASH)
        # The columns in their order: seq, what the hash covers, prev_hash, hash.
        fields, prev_hash, stored = tuple(entry)[1:-2], entry.prev_hash, entry.hash
        where = {"kind": "entry", "seq": entry.seq, "organisation": entry.organisation}
        if prev_hash != previous:
            self.differences.append({**where, "problem": "does not follow the entry before it"})
        if stored != chained(prev_hash, fields):
            self.differences.append({**where, "problem": "its content does not match its hash"})
        self.hashes[entry.organisation] = stored

    def _take_reservation(self, entry: Row[Any]) -> None:
        hold = self.holds.get(entry.reservation_id)
        if entry.kind == "reserve" and hold is None:
            self.holds[entry.reservation_id] = {"state": "held", "amount": entry.held_delta, "charged": 0}
        elif entry.kind in _STATE and hold is not None and hold["state"] == "held":
            hold["state"] = _STATE[entry.kind]
            hold["charged"] = entry.used_delta
        else:
            problem = f"a second or unexpected {entry.kind} of the reservation {entry.reservation_id}"
            self.differences.append(
                {
                    "kind": "entry",
                    "seq": entry.seq,
                    "organisation": entry.organisation,
                    "problem": problem,
                }
            )


def verify(connection: Connection) -> VerifyReport:
    """Compare the whole store with its entries, on one snapshot."""
    replay = _Replay()
    for entry in connection.execute(select(entries).order_by(entries.c.seq)):
        replay.take(entry)
    rows, differences = _counter_differences(connection, replay.balances)
    differences += _reservation_differences(connection, replay.holds)
    differences += _limit_differences(connection, replay.limits)
    return VerifyReport(rows, replay.count, tuple(replay.differences + differences))


def _counter_differences(
    connection: Connection, balances: dict[_Row, list[int]]
) -> tuple[int, list[Difference]]:
    stored = {
        (row.scope, row.window, row.window_start_s): [row.used, row.held]
        for row in connection.execute(select(counters))
    }
    keys = sorted(stored.keys() | balances.keys())
    return len(keys), [
        {
            "kind": "counter",
            "scope": scope,
            "meter": METER,
            "window": window,
            "window_start": datetime.fromtimestamp(start_s, UTC).isoformat(),
            "used": {"counter": counted[0], "entries": entered[0]},
            "held": {"counter": counted[1], "entries": entered[1]},
        }
        for scope, window, start_s in keys
        if (counted := stored.get((scope, window, start_s), [0, 0]))
        != (entered := balances.get((scope, window, start_s), [0, 0]))
    ]


def _reservation_differences(connection: Connection, holds: dict[str, dict[str, Any]]) -> list[Difference]:
    stored = {
        row.id: {"state": row.state, "amount": row.amount, "charged": row.charged}
        for row in connection.execute(select(reservations))
    }
    return [
        {
            "kind": "reservation",
            "reservation_id": key,
            "reservation": stored.get(key),
            "entries": holds.get(key),
        }
        for key in sorted(stored.keys() | holds.keys())
        if stored.get(key) != holds.get(key)
    ]


def _limit_differences(
    connection: Connection, entered: dict[tuple[str, str], int | None]
) -> list[Difference]:
    stored = {(row.scope, row.window): row.amount for row in connection.execute(select(limits))}
    missing = "none"
    return [
        {
            "kind": "limit",
            "scope": key[0],
            "window": key[1],
            "limit": stored.get(key, missing),
            "entries": entered.get(key, missing),
        }
        for key in sorted(stored.keys() | entered.keys())
        if stored.get(key, missing) != entered.get(key, missing)
    ]
