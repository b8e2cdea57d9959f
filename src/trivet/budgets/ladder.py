"""The graduated response: what happens as a budget fills up. Pure.

Steps look at settled use, never at holds: a burst of worst-case holds is no alarm. The hard limit is not a
step; it looks at used and held, in `budgets.admission`.
"""

from collections.abc import Iterable, Sequence

from trivet.budgets.refusals import approval_required, nonessential_blocked
from trivet.budgets.rows import Balance
from trivet.config.settings import BudgetSettings, LadderStep
from trivet.domain.budgets import WINDOW_KINDS, Hold, LadderAction, Priority
from trivet.domain.errors import BudgetError

_ALL = 100
_DEFAULT = (LadderStep(percent=70, actions=("prefer_cheaper",)),)
_STRICT = (
    *_DEFAULT,
    LadderStep(percent=85, actions=("enforce_cheaper", "approve_heavy")),
    LadderStep(percent=95, actions=("block_nonessential",)),
    LadderStep(percent=100, actions=("critical_only",)),
)


class Ladder:
    """The configured steps."""

    def __init__(self, settings: BudgetSettings) -> None:
        """Take the preset's steps, or the configuration's own."""
        named = {"default": _DEFAULT, "strict": _STRICT}
        told = settings.ladder
        steps: Sequence[LadderStep] = named[told] if isinstance(told, str) else told
        self._percent_of: dict[LadderAction, int] = {}
        for step in sorted(steps, key=lambda step: -step.percent):
            for action in step.actions:
                self._percent_of[action] = step.percent
        notices = {step.percent for step in steps if "notify" in step.actions}
        self.thresholds: tuple[int, ...] = tuple(sorted({*settings.thresholds, *notices}))
        """Percentages that are announced, once per window each."""
        refusing: tuple[LadderAction, ...] = ("approve_heavy", "block_nonessential", "critical_only")
        self._first_refusal = min(self._percent_of.get(action, _ALL + 1) for action in refusing)

    @property
    def announces_from(self) -> int | None:
        """Return the percentage of use that is announced first; None: none is."""
        return self.thresholds[0] if self.thresholds else None

    @property
    def refuses_above(self) -> int | None:
        """Return the percentage of use below which no hold is refused; None: none ever is."""
        return None if self._first_refusal > _ALL else self._first_refusal

    @property
    def begins_at(self) -> int | None:
        """Return the percentage of use below which nothing is in force; None: there are no steps."""
        return min(self._percent_of.values(), default=None)

    def actions(self, percent_used: float) -> frozenset[LadderAction]:
        """Return what is in force once so much is used."""
        return frozenset(action for action, percent in self._percent_of.items() if percent_used >= percent)

    def refusal(
        self, balances: Iterable[Balance], hold: Hold, *, approved: bool, now_ns: int
    ) -> BudgetError | None:
        """Return why policy refuses a hold, by the row that lasts longest; None when it does not.

        Args:
            balances: the limited rows of the hold's lineage.
            hold: what is asked.
            approved: whether an approval for the dearest tier is in force.
            now_ns: for an honest Retry-After.
        """
        if self._first_refusal > _ALL or (hold.priority == "critical" and (approved or not hold.dearest)):
            return None
        reached = [b for b in balances if self._reached(b, self._first_refusal)]
        if not reached:
            return None
        if hold.priority != "critical" and (row := self._lasting(reached, "critical_only")):
            return nonessential_blocked(
                row, self._percent_of["critical_only"], hold, now_ns, critical_only=True
            )
        if hold.priority == "batch" and (row := self._lasting(reached, "block_nonessential")):
            percent = self._percent_of["block_nonessential"]
            return nonessential_blocked(row, percent, hold, now_ns, critical_only=False)
        if hold.dearest and not approved and (row := self._lasting(reached, "approve_heavy")):
            return approval_required(row, self._percent_of["approve_heavy"], hold)
        return None

    def refuses_from(self, priority: Priority, *, dearest: bool, approved: bool) -> int | None:
        """Return from which percentage of any row on `refusal` refuses such a hold; None: never."""
        actions: list[LadderAction] = []
        if priority != "critical":
            actions.append("critical_only")
        if priority == "batch":
            actions.append("block_nonessential")
        if dearest and not approved:
            actions.append("approve_heavy")
        percents = [self._percent_of[action] for action in actions if action in self._percent_of]
        return min(percents, default=None)

    def _lasting(self, balances: Iterable[Balance], action: LadderAction) -> Balance | None:
        """Return the row that has an action in force for longest: an earlier reset is no help; None: none."""
        percent = self._percent_of.get(action)
        if percent is None:
            return None
        reached = [balance for balance in balances if self._reached(balance, percent)]
        return max(reached, key=lambda row: (row.key.end_s, share_used(row)), default=None)

    def _reached(self, balance: Balance, percent: int) -> bool:
        if balance.key.window not in WINDOW_KINDS or balance.ceiling is None:
            return False
        return balance.used * 100 >= percent * balance.ceiling


def share_used(balance: Balance) -> float:
    """Return settled use as a percentage of what may be used; 100 where that is nothing."""
    return 100.0 * balance.used / balance.ceiling if balance.ceiling else 100.0
