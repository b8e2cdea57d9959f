"""Limits as operators write them: by names such as `daily` or `usd_micros.monthly`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trivet.domain.budgets import LIMIT_KINDS, METERS, LimitKind, Meter
from trivet.domain.errors import RequestMalformed

LARGEST_LIMIT = 10**15
"""The largest limit: sums of a few of them stay within the store's 64 bits."""


@dataclass(frozen=True, slots=True)
class LimitOrder:
    """One limit to be set; `amount` None lifts it."""

    meter: Meter
    kind: LimitKind
    amount: int | None
    allowance: int


def parse_limits(told: Mapping[str, Any]) -> list[LimitOrder]:
    """Check limits and return them in the order of meters and kinds.

    Raises:
        RequestMalformed: there is none, a name is unknown, or a value is no limit.
    """
    if not told:
        raise RequestMalformed(
            "No limit was given.", hint='Send for example {"daily": 100000, "monthly": 2000000}.'
        )
    orders = [_order(name, value) for name, value in told.items()]
    return sorted(orders, key=lambda o: (METERS.index(o.meter), LIMIT_KINDS.index(o.kind)))


def _order(name: str, value: Any) -> LimitOrder:
    first, dot, rest = name.partition(".")
    meter = next((known for known in METERS if known == first), None) if dot else "tokens"
    kind = next((known for known in LIMIT_KINDS if known == (rest if dot else first)), None)
    if meter is None or kind is None:
        raise RequestMalformed(
            f"{name[:40]!r} is not a budget window.",
            hint=f"Use {', '.join(LIMIT_KINDS)}, for another meter than tokens as in usd_micros.monthly.",
            param=name[:40] if name.isprintable() else None,
        )
    amount, allowance = value, 0
    if isinstance(value, Mapping):
        amount, allowance = value.get("limit"), value.get("critical_allowance", 0)
    if not (amount is None or _is_amount(amount)) or not _is_amount(allowance):
        raise RequestMalformed(
            f"{name}: a limit is a whole number from 0 to {LARGEST_LIMIT:,}, or null for none.", param=name
        )
    return LimitOrder(meter, kind, amount, allowance)


def _is_amount(amount: Any) -> bool:
    return isinstance(amount, int) and not isinstance(amount, bool) and 0 <= amount <= LARGEST_LIMIT
