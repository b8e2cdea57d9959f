"""Whether a hold fits, and how much of it. Pure: every store decides by these rules.

A row admits `used + held + amount <= ceiling`; the ceiling is its limit, overrides in force, and for critical
requests their allowance. All rows or none.
"""

from collections.abc import Sequence

from trivet.budgets.refusals import Obstacles, contended, exhausted, too_large
from trivet.budgets.rows import Balance
from trivet.domain.budgets import Hold
from trivet.domain.errors import BudgetError

DOES_NOT_FIT = -1


def grant(balances: Sequence[Balance], hold: Hold, now_ns: int, *, final: bool) -> int | BudgetError:
    """Return the output tokens to grant, or why nothing may be held.

    In this order: the whole output, if it fits now. Refused as too large, if not even the least output
    fits an empty window. Contended, if the whole fits once open holds settle, unless the caller will not
    wait (`final`). What fits now, if that is no less than the least output. Contended, if the least fits
    once open holds settle. Else exhausted.

    Args:
        balances: the limited rows, and request caps as rows in which nothing stands.
        hold: what is asked.
        now_ns: for an honest Retry-After.
        final: whether this is the caller's last try.
    """
    whole_amounts = hold.prompt + hold.output
    if all(b.used + b.held + whole_amounts.of(b.key.meter) <= (b.ceiling or 0) for b in balances):
        return hold.max_output
    free = min(_fit(b, b.used + b.held, hold) for b in balances)
    whole = min(_fit(balance, 0, hold) for balance in balances)
    settled = min(_fit(balance, balance.used, hold) for balance in balances)
    obstacles = Obstacles(tuple(balances), hold, largest_output=max(0, free), now_ns=now_ns)
    if whole < hold.min_output:
        small = [b for b in balances if _fit(b, 0, hold) < hold.min_output]
        return too_large(min(small, key=lambda b: b.ceiling or 0), obstacles, max(0, whole))
    if free >= hold.min_output and (final or settled < hold.max_output):
        return free
    if settled >= hold.min_output:
        useful = hold.max_output if settled >= hold.max_output else hold.min_output
        tight = [b for b in balances if _fit(b, b.used + b.held, hold) < useful]
        return contended(sorted(tight, key=lambda b: (b.ceiling or 0) - b.used - b.held), obstacles)
    spent = [b for b in balances if _fit(b, b.used, hold) < hold.min_output]
    lasting = max(spent, key=lambda b: (b.key.end_s, b.used - (b.ceiling or 0)))
    return exhausted(lasting, obstacles)


def _fit(balance: Balance, taken: int, hold: Hold) -> int:
    """Return how many output tokens fit beside what is taken; DOES_NOT_FIT: not even the prompt."""
    meter = balance.key.meter
    left = (balance.ceiling or 0) - taken - hold.prompt.of(meter)
    if left < 0:
        return DOES_NOT_FIT
    output = hold.output.of(meter)
    if output <= left:
        return hold.max_output
    return left * hold.max_output // output
