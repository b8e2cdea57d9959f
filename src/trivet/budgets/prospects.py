"""When tokens that are held may come free: what an honest Retry-After of a contended budget says.

Nobody knows when a request ends, but the ledger knows how long holds lasted lately, how long each has stood,
and when those of outside callers end at the latest:

- a hold younger than the mean of the organisation's latest settlements is reckoned to end at that age;
- one that has outlived the mean, or of which there is none, to stand as long again as it has until now: what
  has lasted long goes on to. So whoever comes back in vain is told a longer time;
- no hold outlasts its expiry.

By that the holds of a row end one after the other, and the row has room once so many have ended that the
least useful hold fits. Of several rows the last one decides.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from trivet.budgets.open_holds import open_holds
from trivet.budgets.refusals import Contention
from trivet.budgets.rows import RowKey
from trivet.domain.budgets import Amounts
from trivet.domain.scopes import organisation

RETRY_LEAST_S = 1.0
RETRY_MOST_S = 60.0
"""OpenAI's clients follow no advice that is longer; see `_calculate_retry_timeout` in openai-python."""
_NS_PER_S = 1_000_000_000
_LATEST = 32
_LATELY_NS = 24 * 3600 * _NS_PER_S

_LASTED = text(
    "SELECT entries.at_ns - reservations.created_ns FROM entries"
    " JOIN reservations ON reservations.id = entries.reservation_id"
    " WHERE entries.organisation = :organisation AND entries.at_ns >= :since_ns AND entries.kind = 'settle'"
    " ORDER BY entries.at_ns DESC LIMIT :latest"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """An open hold: how old it is, when it ends at the latest (None: nobody knows), and what it holds."""

    age_s: float
    within_s: float | None
    held: Amounts

    def left_s(self, mean_s: float | None) -> float:
        """Return for how long it may still stand, holds having lasted `mean_s` lately; None: unknown."""
        left = self.age_s if mean_s is None or mean_s <= self.age_s else mean_s - self.age_s
        return max(0.0, left if self.within_s is None else min(left, self.within_s))


@dataclass(frozen=True, slots=True)
class Prospects:
    """What stands in the way of a hold, and how long such holds lasted lately."""

    standing: Mapping[RowKey, Sequence[Standing]]
    mean_s: float | None

    def retry_after_s(self, contention: Contention) -> float:
        """Return after which time it is worth trying again, in whole seconds, within sane bounds."""
        until_room = (
            room_in_s(self.standing.get(row, ()), row, lacking, self.mean_s)
            for row, lacking in contention.lacking()
        )
        return float(min(RETRY_MOST_S, max(RETRY_LEAST_S, math.ceil(max(until_room, default=0.0)))))


def room_in_s(holds: Iterable[Standing], row: RowKey, lacking: int, mean_s: float | None) -> float:
    """Return when so many of the holds may have ended that what is lacking in their row has come free."""
    until_s = 0.0
    for left_s, hold in sorted(((hold.left_s(mean_s), hold) for hold in holds), key=lambda pair: pair[0]):
        if lacking <= 0:
            break
        until_s, lacking = left_s, lacking - hold.held.of(row.meter)
    return until_s


def read_prospects(connection: Connection, contention: Contention) -> Prospects:
    """Read what stands on the rows that are in the way, and how long the organisation's holds lasted."""
    rows, now_ns = contention.rows, contention.at_ns
    owner = organisation(rows[0].scope)
    standing: dict[RowKey, list[Standing]] = {row: [] for row in rows}
    for each in open_holds(connection, owner, now_ns):
        hold = Standing(
            max(0, now_ns - each.created_ns) / _NS_PER_S,
            None if each.expires_ns is None else (each.expires_ns - now_ns) / _NS_PER_S,
            each.held,
        )
        for row in standing.keys() & each.rows:
            standing[row].append(hold)
    asked = {"organisation": owner, "since_ns": now_ns - _LATELY_NS, "latest": _LATEST}
    lasted = [max(0, int(lasted_ns)) for (lasted_ns,) in connection.execute(_LASTED, asked)]
    return Prospects(standing, sum(lasted) / len(lasted) / _NS_PER_S if lasted else None)
