"""Why a hold does not fit. Three kinds, never mixed, each with what would help."""

import math
from datetime import UTC, datetime

from trivet.budgets.rows import METER, Balance, least_room
from trivet.domain.errors import BudgetContended, BudgetError, BudgetExhausted, RequestTooLarge

CONTENDED_RETRY_S = 1.0


def refusal(balances: list[Balance], amount: int, now_ns: int) -> BudgetError | None:
    """Return why `amount` may not be held on all of `balances`; None when it may.

    Admission is `used + held + amount <= limit` on every limited row. Of several obstacles the one that
    lasts longest is named: too large for ever, exhausted until a reset, contended until holds settle.
    """
    limited = [(balance, balance.limit) for balance in balances if balance.limit is not None]
    too_large = [(balance, limit) for balance, limit in limited if amount > limit]
    if too_large:
        tightest, limit = min(too_large, key=lambda pair: pair[1])
        return _too_large(tightest, limit, balances, amount)
    exhausted = [(balance, limit) for balance, limit in limited if balance.used + amount > limit]
    if exhausted:
        lasting, limit = max(exhausted, key=lambda pair: (pair[0].key.end_s, pair[0].used - pair[1]))
        return _exhausted(lasting, limit, balances, amount, now_ns)
    contended = [
        (balance, limit) for balance, limit in limited if balance.used + balance.held + amount > limit
    ]
    if contended:
        fullest, limit = min(contended, key=lambda pair: pair[1] - pair[0].used - pair[0].held)
        return _contended(fullest, limit, balances, amount)
    return None


def _too_large(balance: Balance, limit: int, balances: list[Balance], amount: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request may need {amount} tokens, more than the whole {_name(balance)} of {limit}.",
        hint=_smaller(balances),
        details=_details(balance, balances, amount),
    )


def _exhausted(
    balance: Balance, limit: int, balances: list[Balance], amount: int, now_ns: int
) -> BudgetExhausted:
    resets_at = datetime.fromtimestamp(balance.key.end_s, UTC).isoformat()
    return BudgetExhausted(
        f"The {_name(balance)} has {max(0, limit - balance.used)} of {limit} tokens left;"
        f" the request may need {amount}.",
        hint=f"It resets at {resets_at}. {_smaller(balances)}",
        retry_after_s=float(max(1, math.ceil(balance.key.end_s - now_ns / 1e9))),
        details=_details(balance, balances, amount),
    )


def _contended(balance: Balance, limit: int, balances: list[Balance], amount: int) -> BudgetContended:
    return BudgetContended(
        f"The {_name(balance)} of {limit} tokens is held by requests that are running: {balance.used} used,"
        f" {balance.held} held; this one may need {amount}.",
        hint=f"Try again when they have ended. {_smaller(balances)}",
        retry_after_s=CONTENDED_RETRY_S,
        details=_details(balance, balances, amount),
    )


def _name(balance: Balance) -> str:
    return f"{balance.key.window} token budget of {balance.key.scope}"


def _smaller(balances: list[Balance]) -> str:
    room = least_room(balances)
    if not room:
        return "Nothing fits now."
    return f"A request of at most {room} tokens, prompt and output together, fits now: lower max_tokens."


def _details(balance: Balance, balances: list[Balance], amount: int) -> dict[str, object]:
    return {
        "scope": balance.key.scope,
        "meter": METER,
        "window": balance.key.window,
        "used": balance.used,
        "held": balance.held,
        "limit": balance.limit,
        "resets_at": datetime.fromtimestamp(balance.key.end_s, UTC).isoformat(),
        "requested": amount,
        "largest_amount": least_room(balances),
    }
