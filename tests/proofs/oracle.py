"""What the books were at each commit, told from their entries: the judge of every refusal.

It shares no code with the ledger's admission: it adds up entries, which `verify` has proven against hashes
and counters, and which the engine's own count is compared with.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from tests.proofs.clients import Refusal
from trivet.budgets.row_texts import told
from trivet.budgets.rows import rows_from_text
from trivet.storage.schema import entries

Row = tuple[str, str]
"""Scope and window, of the meter tokens."""
SLACK_NS = 50_000_000
WAIT_NS = 2_000_000_000


@dataclass(slots=True)
class Standing:
    """A row after one commit, until the next one that changed it."""

    at_ns: int
    used: int
    held: int


@dataclass(slots=True)
class _Life:
    """When a hold began and ended."""

    rows: frozenset[Row]
    begun_ns: int
    ended_ns: int | None = None


@dataclass(slots=True)
class History:
    """Every standing of every row in the order of commits."""

    standings: dict[Row, list[Standing]] = field(default_factory=lambda: defaultdict(list))
    lives: dict[str, _Life] = field(default_factory=dict)

    @classmethod
    def read(cls, connection: Connection) -> "History":
        """Add up all entries."""
        history = cls()
        columns = (
            entries.c.at_ns,
            entries.c.kind,
            entries.c.reservation_id,
            entries.c.used_tokens,
            entries.c.held_tokens,
            told(entries.c.rows).label("rows"),
        )
        for entry in connection.execute(select(*columns).order_by(entries.c.seq)):
            rows = [(key.scope, key.window) for key in rows_from_text(entry.rows) if key.meter == "tokens"]
            for row in rows:
                history._step(row, entry.at_ns, entry.used_tokens, entry.held_tokens)
            if entry.kind == "reserve":
                history.lives[entry.reservation_id] = _Life(frozenset(rows), entry.at_ns)
            elif entry.kind in ("settle", "release", "expire"):
                history.lives[entry.reservation_id].ended_ns = entry.at_ns
        return history

    def most(self, row: Row) -> int:
        """Return the most that a row ever used and held."""
        return max((each.used + each.held for each in self.standings[row]), default=0)

    def used(self, row: Row) -> int:
        """Return what a row has used in the end."""
        standings = self.standings[row]
        return standings[-1].used if standings else 0

    def is_false(self, refusal: Refusal, minimum_hold: int) -> str | None:
        """Return why a refusal was wrong; None if it was right.

        It was wrong if by its own figures the least useful hold fitted, if the books never stood as it says
        between question and answer, or if every hold that it waited for had ended within two seconds.
        """
        if refusal.code == "request_too_large":
            return "nothing that was asked for is larger than the limit"
        if refusal.used + refusal.held + minimum_hold <= refusal.limit:
            return "the least useful hold fitted"
        row = (refusal.row_scope, refusal.window)
        refused_ns = self._refused_at(row, refusal)
        if refused_ns is None:
            return "the books never stood like that while it was asked"
        if refusal.code == "budget_contended" and self._freed_in_time(row, refusal, refused_ns):
            return "every hold that it waited for had ended within 2 s"
        return None

    def _step(self, row: Row, at_ns: int, used: int, held: int) -> None:
        standings = self.standings[row]
        before = standings[-1] if standings else Standing(0, 0, 0)
        standings.append(Standing(at_ns, before.used + used, before.held + held))

    def _refused_at(self, row: Row, refusal: Refusal) -> int | None:
        """Return until when the books last stood as it says, while it was asked; None if they never did."""
        found = None
        standings = [Standing(0, 0, 0), *self.standings[row]]
        for index, each in enumerate(standings):
            if each.at_ns > refusal.received_ns + SLACK_NS:
                break
            last = index + 1 == len(standings)
            until_ns = refusal.received_ns if last else standings[index + 1].at_ns
            if until_ns + SLACK_NS < refusal.sent_ns:
                continue
            if (each.used, each.held) == (refusal.used, refusal.held):
                found = max(refusal.sent_ns, min(until_ns, refusal.received_ns))
        return found

    def _freed_in_time(self, row: Row, refusal: Refusal, refused_ns: int) -> bool:
        since_ns = max(refusal.sent_ns, refused_ns - WAIT_NS)
        waited_for = [
            life
            for life in self.lives.values()
            if row in life.rows
            and life.begun_ns <= since_ns
            and (life.ended_ns is None or life.ended_ns > since_ns)
        ]
        return all(
            life.ended_ns is not None and life.ended_ns - since_ns <= WAIT_NS - SLACK_NS
            for life in waited_for
        )


def false_refusals(
    history: History, refusals: Iterable[Refusal], minimum_hold: int
) -> list[dict[str, object]]:
    """Return the refusals that were wrong, and why."""
    found: list[dict[str, object]] = []
    for refusal in refusals:
        why = history.is_false(refusal, minimum_hold)
        if why is not None:
            found.append(
                {"why": why, **{name: getattr(refusal, name) for name in Refusal.__dataclass_fields__}}
            )
    return found
