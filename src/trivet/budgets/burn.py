"""What a scope and those above it were charged lately. Bounded: the answer costs the same on a busy day.

The latest charges of the organisation are read from an index, at most an hour's and at most CHARGES_READ
of them. Rates are over the time that these cover.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, case, func, literal_column, select

from trivet.domain.budgets import Amounts, Meter
from trivet.domain.scopes import Scope, contains, organisation
from trivet.storage.instants import ns_of
from trivet.storage.schema import entries

BURN_PERIOD = timedelta(hours=1)
CHARGES_READ = 5_000
IS_CHARGE = entries.c.kind.in_(("settle", "expire", "record", "correct", "attempt"))

_NONE = Amounts()


@dataclass(frozen=True, slots=True)
class Burn:
    """What was charged to each scope, for how many requests, and over how many seconds."""

    charged: dict[Scope, tuple[Amounts, int]]
    """By the scope that asked; what lies below is not in it."""
    seconds: float

    def total(self, scope: Scope) -> tuple[Amounts, int]:
        """Return what a scope and all below it were charged, and for how many requests."""
        amounts, count = _NONE, 0
        for charged, (part, parts) in self.charged.items():
            if contains(scope, charged):
                amounts, count = amounts + part, count + parts
        return amounts, count

    def per_hour(self, scope: Scope) -> Amounts:
        """Return the charges of a scope and all below it, per hour, rounded."""
        total, _ = self.total(scope)
        factor = 3600 / self.seconds
        return Amounts(
            round(total.tokens * factor),
            round(total.weighted_tokens * factor),
            round(total.usd_micros * factor),
        ).at_least(0)

    def mean(self, scopes: Iterable[Scope], meter: Meter) -> float | None:
        """Return the mean charge of the first of the scopes that had any; None: none had."""
        for scope in scopes:
            total, count = self.total(scope)
            if count and total.of(meter) > 0:
                return total.of(meter) / count
        return None


def read_burn(connection: Connection, scope: Scope, now: datetime) -> Burn:
    """Return the latest charges of a scope's organisation."""
    since_ns = ns_of(now - BURN_PERIOD)
    latest = (
        select(
            entries.c.at_ns,
            entries.c.scope,
            entries.c.used_tokens,
            entries.c.used_weighted,
            entries.c.used_usd,
            entries.c.kind,
        )
        .where(entries.c.organisation == organisation(scope), entries.c.at_ns > since_ns, IS_CHARGE)
        .order_by(entries.c.at_ns.desc())
        .limit(CHARGES_READ)
        .subquery()
    )
    sums = [
        func.coalesce(func.sum(column), 0)
        for column in (latest.c.used_tokens, latest.c.used_weighted, latest.c.used_usd)
    ]
    # An attempt before a request's last one is a part of what that request was charged.
    requests = func.sum(case((latest.c.kind == "attempt", 0), else_=1))
    rows = connection.execute(
        select(
            latest.c.scope, *sums, requests, func.min(latest.c.at_ns), func.count(literal_column("*"))
        ).group_by(latest.c.scope)
    ).all()
    charged = {Scope(row[0]): (Amounts(int(row[1]), int(row[2]), int(row[3])), int(row[4])) for row in rows}
    seconds = BURN_PERIOD.total_seconds()
    if sum(int(row[6]) for row in rows) >= CHARGES_READ:
        seconds = max(1.0, (ns_of(now) - min(int(row[5]) for row in rows)) / 1e9)
    return Burn(charged, seconds)
