"""Proof of the ledger: every counter, hold, limit, override and hash recomputed from the entries.

Repairs nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from trivet.budgets.replay import Difference, Replay
from trivet.budgets.rows import rows_from_text
from trivet.storage.instants import instant_of
from trivet.storage.schema import counters, entries, limits, overrides, reservations, tenants


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


def verify(connection: Connection) -> VerifyReport:
    """Compare the whole store with its entries, on one snapshot."""
    replay = Replay()
    for entry in connection.execute(select(entries).order_by(entries.c.seq)):
        replay.take(entry)
    rows, differences = _counter_differences(connection, replay)
    differences += _reservation_differences(connection, replay)
    differences += _limit_differences(connection, replay)
    differences += _override_differences(connection, replay)
    differences += _zone_differences(connection, replay)
    return VerifyReport(rows, replay.count, tuple(replay.differences + differences))


def _counter_differences(connection: Connection, replay: Replay) -> tuple[int, list[Difference]]:
    stored = {
        (row.scope, row.meter, row.window, row.subject, row.window_start_s): [row.used, row.held]
        for row in connection.execute(select(counters))
    }
    balances, nothing = replay.balances, [0, 0]
    keys = sorted(stored.keys() | balances.keys())
    found: list[Difference] = []
    for key in keys:
        counted, entered = stored.get(key, nothing), balances.get(key, nothing)
        if counted == entered:
            continue
        scope, meter, window, subject, start_s = key
        found.append(
            {
                "kind": "counter",
                "scope": scope,
                "meter": meter,
                "window": window,
                "subject": subject,
                "window_start": datetime.fromtimestamp(start_s, UTC).isoformat(),
                "used": {"counter": counted[0], "entries": entered[0]},
                "held": {"counter": counted[1], "entries": entered[1]},
            }
        )
    return len(keys), found


def _reservation_differences(connection: Connection, replay: Replay) -> list[Difference]:
    stored = {
        row.id: {
            "state": row.state,
            "held": [row.tokens, row.weighted_tokens, row.usd_micros],
            "charged": [row.charged_tokens, row.charged_weighted, row.charged_usd],
            "rows": sorted(list(key) for key in rows_from_text(row.rows)),
        }
        for row in connection.execute(select(reservations))
    }
    return _compared("reservation", ("reservation_id",), stored, replay.reservations(), "reservation")


def _limit_differences(connection: Connection, replay: Replay) -> list[Difference]:
    stored = {
        (row.scope, row.meter, row.window): [row.amount, row.allowance]
        for row in connection.execute(select(limits))
    }
    return _compared("limit", ("scope", "meter", "window"), stored, replay.limits, "limit")


def _override_differences(connection: Connection, replay: Replay) -> list[Difference]:
    stored = {
        row.id: {
            "override_id": row.id,
            "kind": row.kind,
            "scope": row.scope,
            "meter": row.meter,
            "window": row.window,
            "amount": row.amount,
            "state": row.state,
            "requester": row.requester,
            "approver": row.approver,
            "reason": row.reason,
            "requested_at": instant_of(row.requested_ns).isoformat(),
            "expires_at": instant_of(row.expires_ns).isoformat(),
        }
        for row in connection.execute(select(overrides))
    }
    return _compared("override", ("override_id",), stored, replay.overrides, "override")


def _zone_differences(connection: Connection, replay: Replay) -> list[Difference]:
    stored = {row.scope: row.time_zone for row in connection.execute(select(tenants))}
    return _compared("zone", ("scope",), stored, replay.zones, "zone")


def _compared(
    kind: str, names: tuple[str, ...], stored: dict[Any, Any], entered: dict[Any, Any], what: str
) -> list[Difference]:
    """Return where the store and the entries disagree; "none" where one of them has nothing."""
    found = []
    for key in sorted(stored.keys() | entered.keys()):
        there, told = stored.get(key, "none"), entered.get(key, "none")
        if there != told:
            parts = key if isinstance(key, tuple) else (key,)
            found.append({"kind": kind, **dict(zip(names, parts, strict=True)), what: there, "entries": told})
    return found
