"""Refusals in words. Three kinds of too little, never mixed, and policy; each with what would help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from trivet.budgets.rows import Balance, Cap, RowKey, reset_of
from trivet.domain.budgets import Hold, Meter
from trivet.domain.errors import (
    ApprovalRequired,
    BudgetContended,
    BudgetExhausted,
    NonessentialBlocked,
    PriceUnknown,
    RequestTooLarge,
)

CONTENDED_RETRY_S = 1.0
"""Until it is known better; see `budgets.prospects`."""

UNITS: dict[Meter, str] = {
    "tokens": "tokens",
    "weighted_tokens": "weighted tokens",
    "usd_micros": "millionths of a dollar",
}


@dataclass(frozen=True, slots=True)
class Obstacles:
    """All that a refusal may speak of: the limited rows, what was asked, what fits now."""

    balances: tuple[Balance, ...]
    hold: Hold
    largest_output: int
    """Output tokens that fit now."""
    now_ns: int

    def requested(self, meter: Meter) -> int:
        """Return what was asked of one meter."""
        return self.hold.amounts(self.hold.max_output).of(meter)

    @property
    def largest_amount(self) -> int | None:
        """Return how many tokens fit now at this tier, prompt and output together; None: any number.

        However they are divided: on each meter it reckons with the dearer of the two.
        """
        fitting = [tokens for row in self.balances if (tokens := self._tokens_in(row)) is not None]
        return min(fitting, default=None)

    def _tokens_in(self, balance: Balance) -> int | None:
        room, meter = balance.room, balance.key.meter
        if room is None or meter == "tokens":
            return room
        parts = [(part.of(meter), part.tokens) for part in (self.hold.prompt, self.hold.output)]
        rates = [(amount, tokens) for amount, tokens in parts if amount and tokens]
        if not rates:
            return None
        amount, tokens = max(rates, key=lambda rate: rate[0] / rate[1])
        # Prompt and output are each rounded up, so that both together may need one more.
        return max(0, room - (1 if amount % tokens else 0)) * tokens // amount


def too_large(balance: Balance, obstacles: Obstacles, largest_output: int) -> RequestTooLarge:
    """Say that an empty window would not take it; `largest_output` tokens would be accepted."""
    unit = UNITS[balance.key.meter]
    details = _details(balance, obstacles)
    details["largest_max_tokens"] = largest_output
    hint = _smaller(obstacles)
    if obstacles.hold.max_output and largest_output:
        hint = f"max_tokens of at most {largest_output} is accepted."
    return RequestTooLarge(
        f"The request may need {obstacles.requested(balance.key.meter)} {unit}, more than the whole"
        f" {_name(balance)} of {balance.ceiling}.",
        hint=hint,
        details=details,
    )


def exhausted(balance: Balance, obstacles: Obstacles) -> BudgetExhausted:
    """Say that what is used leaves too little until the window resets."""
    key, unit = balance.key, UNITS[balance.key.meter]
    left = max(0, (balance.ceiling or 0) - balance.used)
    resets_at = reset_of(key)
    return BudgetExhausted(
        f"The {_name(balance)} has {left} of {balance.ceiling} {unit} left;"
        f" the request may need {obstacles.requested(key.meter)}.",
        hint=f"{_reset_words(balance)} {_smaller(obstacles)}",
        retry_after_s=None if resets_at is None else _seconds_until(balance, obstacles.now_ns),
        details=_details(balance, obstacles),
    )


@dataclass(frozen=True, slots=True)
class Contention:
    """Every row that open holds make too tight, the tightest first."""

    balances: tuple[Balance, ...]
    obstacles: Obstacles

    @property
    def at_ns(self) -> int:
        """Return when it was like this, in nanoseconds since 1970 on the store's clock."""
        return self.obstacles.now_ns

    @property
    def rows(self) -> tuple[RowKey, ...]:
        """Return which rows they are."""
        return tuple(balance.key for balance in self.balances)

    def lacking(self) -> list[tuple[RowKey, int]]:
        """Return how much each row lacks for the least that is useful to the asker."""
        hold = self.obstacles.hold
        least = hold.amounts(hold.min_output)
        return [(b.key, b.used + b.held + least.of(b.key.meter) - (b.ceiling or 0)) for b in self.balances]

    def naming(self, row: RowKey) -> BudgetContended:
        """Return the refusal that names this one of the rows."""
        first = [balance for balance in self.balances if balance.key == row]
        others = [balance for balance in self.balances if balance.key != row]
        return contended((*first, *others), self.obstacles)


def contended(tight: Sequence[Balance], obstacles: Obstacles) -> BudgetContended:
    """Say that open holds are in the way; of the rows that they make too tight the first one is named."""
    balance = tight[0]
    unit = UNITS[balance.key.meter]
    smaller = f" {_smaller(obstacles)}" if obstacles.largest_output else ""
    refusal = BudgetContended(
        f"The {_name(balance)} of {balance.ceiling} {unit} is held by requests that are running:"
        f" {balance.used} used, {balance.held} held;"
        f" this one may need {obstacles.requested(balance.key.meter)}.",
        hint=f"Try again when they have ended.{smaller}",
        retry_after_s=CONTENDED_RETRY_S,
        details=_details(balance, obstacles),
    )
    refusal.contention = Contention(tuple(tight), obstacles)
    return refusal


def approval_required(balance: Balance, percent: int, hold: Hold) -> ApprovalRequired:
    """Say that the dearest tier takes an approval from here on."""
    return ApprovalRequired(
        f"{percent} % of the {_name(balance)} is used: tier {hold.tier or 'asked for'} takes an approval.",
        hint=f"Ask for an override, or use a cheaper tier. {_reset_words(balance)}",
        details={
            **_facts(balance),
            "threshold": percent,
            "still_works": ["cheaper tiers", "this tier with an approved override"],
        },
    )


def nonessential_blocked(
    balance: Balance, percent: int, hold: Hold, now_ns: int, *, critical_only: bool
) -> NonessentialBlocked:
    """Say that requests of this priority are not served from here on."""
    works = ["priority critical"] if critical_only else ["priority interactive", "priority critical"]
    return NonessentialBlocked(
        f"{percent} % of the {_name(balance)} is used: {hold.priority} requests are not served.",
        hint=_reset_words(balance),
        retry_after_s=None if reset_of(balance.key) is None else _seconds_until(balance, now_ns),
        details={**_facts(balance), "threshold": percent, "still_works": works},
    )


def price_unknown(cap: Cap, hold: Hold) -> PriceUnknown:
    """Say that a limit in dollars cannot be kept for a model whose price nobody knows."""
    return PriceUnknown(
        f"{cap.key.scope} has a {cap.key.window} dollar budget, and no price is known of the model in tier"
        f" {hold.tier or 'asked for'}.",
        hint="Add the model to the table of pricing.path, or use another model.",
        details={
            "scope": cap.key.scope,
            "meter": cap.key.meter,
            "window": cap.key.window,
            "limit": cap.limit,
            "still_works": ["models with a known price", "models on your own machines"],
        },
    )


def _seconds_until(balance: Balance, now_ns: int) -> float:
    return float(max(1, math.ceil(balance.key.end_s - now_ns / 1e9)))


def _name(balance: Balance) -> str:
    key = balance.key
    unit = {"tokens": "token", "weighted_tokens": "weighted token", "usd_micros": "dollar"}[key.meter]
    if key.subject:
        return f"{unit} budget of {key.window} {key.subject!a} in {key.scope}"
    return f"{'per-request' if key.window == 'request' else key.window} {unit} budget of {key.scope}"


def _reset_words(balance: Balance) -> str:
    resets_at = reset_of(balance.key)
    return "It does not reset." if resets_at is None else f"It resets at {resets_at.isoformat()}."


def _smaller(obstacles: Obstacles) -> str:
    """Say what would fit now: fewer output tokens, or where not even the prompt fits, a shorter one."""
    hold = obstacles.hold
    if hold.max_output and obstacles.largest_output:
        return f"max_tokens of at most {obstacles.largest_output} fits now."
    most = obstacles.largest_amount
    if not most:
        return "Nothing fits now."
    what = f"A request of at most {most} {'token' if most == 1 else 'tokens'}"
    if not hold.max_output:
        return f"{what} fits now."
    return (
        f"{what}, prompt and output together, fits now, and the prompt alone may need {hold.prompt.tokens}."
    )


def _facts(balance: Balance) -> dict[str, object]:
    key, resets_at = balance.key, reset_of(balance.key)
    facts: dict[str, object] = {
        "scope": key.scope,
        "meter": key.meter,
        "window": key.window,
        "used": balance.used,
        "held": balance.held,
        "limit": balance.ceiling,
        "resets_at": None if resets_at is None else resets_at.astimezone(UTC).isoformat(),
    }
    if key.subject:
        facts["subject"] = key.subject
    return facts


def _details(balance: Balance, obstacles: Obstacles) -> dict[str, object]:
    hold, meter = obstacles.hold, balance.key.meter
    most = obstacles.largest_amount
    works = [f"requests of at most {most} tokens"] if most else []
    if hold.max_output and obstacles.largest_output:
        works = [f"max_tokens of at most {obstacles.largest_output}"]
    if meter == "weighted_tokens" and hold.prompt.weighted_tokens > hold.prompt.tokens:
        works.append("cheaper tiers")
    if meter == "usd_micros":
        works.append("models on your own machines")
    return {
        **_facts(balance),
        "requested": obstacles.requested(meter),
        "largest_amount": most,
        "largest_max_tokens": obstacles.largest_output if hold.max_output else None,
        "still_works": works,
    }
