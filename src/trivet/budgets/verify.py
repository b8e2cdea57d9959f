"""Proof of the ledger: every counter, hold, limit, override and hash recomputed from the entries.

Repairs nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from trivet.budgets.replay import Counter, Difference, Replay
from trivet.budgets.row_texts import entries_in_full, told
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
    for entry in connection.execute(entries_in_full().order_by(entries.c.seq)):
        replay.take(entry)
    rows, differences = _counter_differences(connection, replay)
    differences += _reservation_differences(connection, replay)
    differences += _limit_differences(connection, replay)
    differences += _override_differences(connection, replay)
    differences += _zone_differences(connection, replay)
    return VerifyReport(rows, replay.count, tuple(replay.differences + differences))


def _counter_differences(connection: Connection, replay: Replay) -> tuple[int, list[Difference]]:
    stored = {
        (row.scope, row.meter, row.window, row.subject, row.window_start_s): _Counted(
            row.used, row.held, row.window_end_s
        )
        for row in connection.execute(select(counters))
    }
    entered = {
        key: _Counted(balance[0], balance[1], replay.ends[key]) for key, balance in replay.balances.items()
    }
    keys = sorted(stored.keys() | entered.keys())
    missing = _Counted(None, None, None)
    found = [
        _counter_difference(key, stored.get(key, missing), entered.get(key, missing))
        for key in keys
        # A counter at nothing must be there as well: without it a hold on it could not end.
        if stored.get(key) != entered.get(key)
    ]
    return len(keys), found


class _Counted(NamedTuple):
    """What a counter says, or what the entries say of it; None: nothing."""

    used: int | None
    held: int | None
    end_s: int | None


def _counter_difference(key: Counter, counted: _Counted, entered: _Counted) -> Difference:
    scope, meter, window, subject, start_s = key
    difference: Difference = {
        "kind": "counter",
        "scope": scope,
        "meter": meter,
        "window": window,
        "subject": subject,
        "window_start": _instant(start_s),
        "used": {"counter": counted.used, "entries": entered.used},
        "held": {"counter": counted.held, "entries": entered.held},
    }
    if counted.end_s != entered.end_s:
        difference["window_end"] = {"counter": _instant(counted.end_s), "entries": _instant(entered.end_s)}
    return difference


def _instant(seconds: int | None) -> str | None:
    """Return an instant in words; the bare number where it is none, as only tampering makes it."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _reservation_differences(connection: Connection, replay: Replay) -> list[Difference]:
    stored = {
        row.id: {
            "state": row.state,
            "held": [row.tokens, row.weighted_tokens, row.usd_micros],
            "charged": [row.charged_tokens, row.charged_weighted, row.charged_usd],
            "rows": _rows_in(row.told),
        }
        for row in connection.execute(select(reservations, told(reservations.c.rows).label("told")))
    }
    return _compared("reservation", ("reservation_id",), stored, replay.reservations(), "reservation")


def _rows_in(text: str) -> Any:
    """Return the rows of a reservation; the text itself where that is none, as only tampering makes it."""
    try:
        return sorted(list(key) for key in rows_from_text(text))
    except (ValueError, TypeError):
        return text


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
