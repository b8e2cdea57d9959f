"""The state that the ledger's entries lead to, from the first to the last. Pure."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from trivet.budgets.entries import FIRST_HASH, NOTHING, chained, digits
from trivet.budgets.rows import RowKey, rows_from_text
from trivet.domain.budgets import Amounts

Difference = dict[str, Any]
Counter = tuple[str, str, str, str, int]
"""Scope, meter, window, subject, and start of the window in seconds."""

_STATE = {"settle": "settled", "release": "released", "expire": "expired_charged"}


@dataclass(slots=True)
class _Replayed:
    """A reservation on its way."""

    held: Amounts
    rows: list[RowKey]
    state: str = "held"
    charged: Amounts = NOTHING


@dataclass(slots=True)
class Replay:
    """Takes entries in the order of `seq`; what cannot be is a difference."""

    count: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    balances: dict[Counter, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    ends: dict[Counter, int] = field(default_factory=dict)
    """When each counter's window ends, in seconds, as it was when the counter was made."""
    holds: dict[str, _Replayed] = field(default_factory=dict)
    limits: dict[tuple[str, str, str], list[int | None]] = field(default_factory=dict)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def take(self, entry: Any) -> None:
        """Apply one row of the table of entries."""
        self.count += 1
        self._check_hash(entry)
        try:
            self._apply(entry)
        except (ValueError, TypeError, KeyError) as fault:
            self._doubt(entry, f"its content cannot be read: {fault}")

    def _apply(self, entry: Any) -> None:
        used = Amounts(entry.used_tokens, entry.used_weighted, entry.used_usd)
        held = Amounts(entry.held_tokens, entry.held_weighted, entry.held_usd)
        for key in rows_from_text(entry.rows):
            balance = self.balances[key[:5]]
            self.ends.setdefault(key[:5], key.end_s)
            balance[0] += used.of(key.meter)
            balance[1] += held.of(key.meter)
        if entry.reservation_id is not None:
            self._take_reservation(entry, used, held)
        else:
            self._take_rule(entry)

    def reservations(self) -> dict[str, dict[str, Any]]:
        """Return what became of every reservation."""
        return {
            name: {
                "state": hold.state,
                "held": list(hold.held.as_json().values()),
                "charged": list(hold.charged.as_json().values()),
                "rows": sorted(list(key) for key in hold.rows),
            }
            for name, hold in self.holds.items()
        }

    def _take_rule(self, entry: Any) -> None:
        facts = json.loads(entry.detail)
        if entry.kind == "limit":
            name = entry.scope, facts["meter"], facts["window"]
            if facts.get("cleared"):
                self.limits.pop(name, None)
            else:
                self.limits[name] = [facts["amount"], facts["allowance"]]
        elif entry.kind == "open":
            for adopter in facts["adopted"]:
                hold = self.holds.get(adopter)
                if hold is None or hold.state not in ("held", "expired_charged"):
                    self._doubt(entry, f"a counter adopted by {adopter}, which has ended")
                else:
                    hold.rows += rows_from_text(entry.rows)
        elif entry.kind == "override":
            author = facts.pop("author", None)
            self.overrides[facts["override_id"]] = facts
            if facts["state"] == "approved" and facts["kind"] != "emergency" and author == facts["requester"]:
                self._doubt(entry, "an override approved by who asked for it")
        elif entry.kind == "zone":
            self.zones[entry.scope] = facts["time_zone"]

    def _take_reservation(self, entry: Any, used: Amounts, held: Amounts) -> None:
        name, kind = entry.reservation_id, entry.kind
        hold = self.holds.get(name)
        if kind == "reserve" and hold is None:
            self.holds[name] = _Replayed(held, list(rows_from_text(entry.rows)))
        elif kind == "reweight" and hold is not None and hold.state == "held":
            hold.held += held
        elif kind == "attempt" and hold is not None and hold.state in ("held", "expired_charged"):
            hold.charged += used
            if held != NOTHING:
                self._doubt(entry, f"an attempt that changes what the reservation {name} holds")
        elif kind in _STATE and hold is not None and hold.state == "held":
            hold.state, hold.charged = _STATE[kind], hold.charged + used
            if NOTHING - held != hold.held:
                self._doubt(entry, f"it frees another amount than the reservation {name} held")
        elif kind == "correct" and hold is not None and hold.state == "expired_charged":
            hold.state, hold.charged = "settled", hold.charged + used
        else:
            self._doubt(entry, f"a second or unexpected {kind} of the reservation {name}")

    def _check_hash(self, entry: Any) -> None:
        previous = self.hashes.get(entry.organisation, FIRST_HASH)
        # The columns in their order: seq, what the hash covers, prev_hash, hash.
        fields, stored = tuple(entry)[1:-2], digits(entry.hash)
        prev_hash = entry.prev_hash or previous  # which is not told where it goes without saying
        if prev_hash != previous:
            self._doubt(entry, "does not follow the entry before it")
        if stored != chained(prev_hash, fields):
            self._doubt(entry, "its content does not match its hash")
        self.hashes[entry.organisation] = stored

    def _doubt(self, entry: Any, problem: str) -> None:
        self.differences.append(
            {"kind": "entry", "seq": entry.seq, "organisation": entry.organisation, "problem": problem}
        )
