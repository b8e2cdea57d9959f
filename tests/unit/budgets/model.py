"""A ledger's rules over a plain history: too simple to be wrong, too slow to be used."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from trivet.budgets.entries import NOTHING
from trivet.domain.budgets import METERS, WINDOW_KINDS, Amounts, Hold, LimitKind, Meter
from trivet.domain.errors import BudgetContended, BudgetError, BudgetExhausted, RequestTooLarge
from trivet.domain.scopes import Scope, contains, lineage

Row = tuple[Scope, Meter, LimitKind]


def windows_at(instant: datetime) -> dict[LimitKind, str]:
    """Return the names of the windows at an instant, in UTC."""
    year, week, _ = instant.isocalendar()
    return {
        "daily": f"{instant:%Y-%m-%d}",
        "weekly": f"{year}-{week}",
        "monthly": f"{instant:%Y-%m}",
        "total": "",
    }


@dataclass(slots=True)
class Deed:
    """A reservation or a record: when it was admitted, what it holds or was charged."""

    scope: Scope
    windows: dict[LimitKind, str]
    state: str
    held: Amounts = NOTHING
    charged: Amounts = NOTHING
    critical: bool = False
    expires_at: datetime | None = None


@dataclass(slots=True)
class Books:
    """Everything that ever happened, and the limits now."""

    daily: int
    monthly: int
    deeds: dict[str, Deed] = field(default_factory=dict)
    limits: dict[Row, tuple[int | None, int]] = field(default_factory=dict)
    grants: dict[Row, int] = field(default_factory=dict)

    def limit(self, row: Row) -> int | None:
        """Return what bounds a row."""
        if row in self.limits:
            return self.limits[row][0]
        scope, meter, kind = row
        if "." in scope or meter != "tokens":
            return None
        return {"daily": self.daily, "monthly": self.monthly}.get(kind)

    def ceiling(self, row: Row, *, critical: bool) -> int:
        """Return what a request may fill a limited row up to."""
        limit = self.limit(row)
        assert limit is not None
        return limit + self.grants.get(row, 0) + (self.limits.get(row, (0, 0))[1] if critical else 0)

    def limited(self, scope: Scope) -> Iterable[Row]:
        """Yield the limited rows of a lineage."""
        for above in lineage(scope):
            for meter in METERS:
                for kind in (*WINDOW_KINDS, "request"):
                    if self.limit((above, meter, kind)) is not None:  # type: ignore[arg-type]
                        yield above, meter, kind  # type: ignore[misc]

    def used(self, row: Row, now: datetime) -> int:
        """Return what was charged in a row's current window."""
        return sum(deed.charged.of(row[1]) for deed in self._of(row, now))

    def held(self, row: Row, now: datetime) -> int:
        """Return what is held in a row's current window."""
        return sum(deed.held.of(row[1]) for deed in self._of(row, now) if deed.state == "held")

    def verdict(self, hold: Hold, now: datetime) -> int | type[BudgetError]:
        """Return the output tokens to grant to a caller that will not wait, or the refusal, by trying all."""
        rows = list(self.limited(hold.scope))
        critical = hold.priority == "critical"
        nothing = dict.fromkeys(rows, 0)
        used = {row: self.used(row, now) for row in rows}
        taken = {row: used[row] + self.held(row, now) for row in rows}

        def fits(output: int, standing: dict[Row, int]) -> bool:
            amounts = hold.amounts(output)
            return all(
                standing[row] + amounts.of(row[1]) <= self.ceiling(row, critical=critical) for row in rows
            )

        for output in range(hold.max_output, hold.min_output - 1, -1):
            if fits(output, taken):
                return output
        if not fits(hold.min_output, nothing):
            return RequestTooLarge
        return BudgetContended if fits(hold.min_output, used) else BudgetExhausted

    def _of(self, row: Row, now: datetime) -> list[Deed]:
        scope, _, kind = row
        if kind == "request":
            return []
        window = windows_at(now)[kind]
        return [
            deed
            for deed in self.deeds.values()
            if contains(scope, deed.scope) and deed.windows[kind] == window
        ]
