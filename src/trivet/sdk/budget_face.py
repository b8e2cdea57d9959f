"""`BudgetManager`: the ledger in the plain calls of a small program: check, record, report."""

import math
import threading
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Settlement
from trivet.domain.clock import Clock, SystemClock
from trivet.domain.errors import ConfigError, RequestMalformed
from trivet.domain.scopes import Scope, lineage, parse_scope
from trivet.domain.tiers import ModelTier
from trivet.sdk.cost_weights import CostWeights, cost_reduction_pct
from trivet.storage import Database

TenantId = uuid.UUID | str
"""A UUID, or a scope such as `acme` or `acme.search`; never seen before, it is an organisation like any."""

LARGEST_COUNT = 2**53


@dataclass(slots=True)
class _Tally:
    """What one tenant used on one tier through this object."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    latency_s: float = 0.0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class _Tallies:
    """The tallies by tenant and tier, for reports; the ledger alone decides about budgets."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    by_tenant: dict[Scope, dict[str, _Tally]] = field(default_factory=dict)


class BudgetManager:
    """Token budgets per tenant, daily and monthly.

    All methods are plain functions, safe from many threads and inside a running event loop (each waits
    for one write or read of the store). `check_budget` is advice: between it and `record_usage` others may
    spend. What must never overspend goes through `Trivet`, which reserves before it executes.
    """

    def __init__(
        self,
        default_daily_limit: int | None = 1_000_000,
        default_monthly_limit: int | None = 20_000_000,
        *,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        cost_weights: Mapping[str, float] | None = None,
    ) -> None:
        """Take the limits of every tenant, in tokens; None: unlimited.

        Args:
            default_daily_limit: per UTC calendar day.
            default_monthly_limit: per UTC calendar month.
            ledger: an open ledger to use, with its own limits and clock; by default a private one in memory.
            clock: of the private ledger.
            cost_weights: by tier, for the savings report; by default 1, 3 and 10.

        Raises:
            ConfigError: a limit is not a whole number of at least 1, or a weight is not above 0.
        """
        self._weights = CostWeights(dict(cost_weights)) if cost_weights is not None else CostWeights()
        self._tallies = _Tallies()
        if ledger is None:
            settings = BudgetSettings(
                default_daily_tokens=_checked_limit(default_daily_limit, "default_daily_limit"),
                default_monthly_tokens=_checked_limit(default_monthly_limit, "default_monthly_limit"),
            )
            database = Database.open(None)
            # Nobody closes a budget manager; its store closes when it is collected, or at exit.
            weakref.finalize(self, database.close)
            ledger = Ledger(database, settings, clock or SystemClock())
        self._ledger = ledger

    def check_budget(self, tenant_id: TenantId, estimated_tokens: int) -> bool:
        """Tell whether so many tokens fit every limit of the tenant now. Holds nothing.

        Raises:
            RequestMalformed: the number is not a whole one of at least 0, or the tenant id is no scope.
        """
        tokens = _checked_count(estimated_tokens, "estimated_tokens")
        rows = [
            row
            for scope in lineage(_scope(tenant_id))
            for row in self._ledger.rows(scope)
            if row.scope == scope and row.meter == "tokens"
        ]
        return all(row.limit is None or row.used + row.held + tokens <= row.limit for row in rows)

    def record_usage(
        self,
        tenant_id: TenantId,
        model_tier: ModelTier | str,
        input_tokens: int,
        output_tokens: int,
        complexity_score: float | None = None,
        *,
        latency_ms: float | None = None,
    ) -> Settlement:
        """Book what a request used: one ledger entry, whatever the limits say.

        What exceeds a limit is booked all the same; it is the `overrun` of the value returned, and what
        follows is refused by `check_budget` until the window resets.

        Args:
            tenant_id: whom to charge.
            model_tier: the tier that served; further tiers by name.
            input_tokens: of the prompt.
            output_tokens: generated.
            complexity_score: noted in the entry.
            latency_ms: of the request, for `engine_hours_saved`.

        Raises:
            RequestMalformed: a number is not a whole one of at least 0, or the tenant id is no scope.
        """
        scope = _scope(tenant_id)
        tier = _tier(model_tier)
        tokens_in = _checked_count(input_tokens, "input_tokens")
        tokens_out = _checked_count(output_tokens, "output_tokens")
        note = f"tier={tier} input={tokens_in} output={tokens_out}"
        if complexity_score is not None:
            note += f" complexity={float(complexity_score):.4g}"
        tokens = tokens_in + tokens_out
        weighted = math.ceil(Fraction(str(self._weights.of(tier))) * tokens)
        settlement = self._ledger.record(scope, Amounts(tokens, weighted), note=note).result()
        with self._tallies.lock:
            tally = self._tallies.by_tenant.setdefault(scope, {}).setdefault(tier, _Tally())
            tally.requests += 1
            tally.input_tokens += tokens_in
            tally.output_tokens += tokens_out
            tally.latency_s += max(0.0, latency_ms or 0.0) / 1000
        return settlement

    def get_savings_report(self, tenant_id: TenantId) -> dict[str, Any]:
        """Return what the tenant saved against sending all to the heaviest tier, by cost weights.

        `tokens_saved` is the sum over the tiers of tokens * (heaviest - weight) / heaviest;
        `cost_reduction_pct` is 100 * tokens_saved / tokens_used. `engine_hours_saved` is modelled from the
        latencies that were given; `gpu_hours_saved` is 0.0, because a latency is no GPU time
        (`Trivet.savings` has the measured figure). All since this object was made.
        """
        scope = _scope(tenant_id)
        with self._tallies.lock:
            used = {tier: replace(tally) for tier, tally in self._tallies.by_tenant.get(scope, {}).items()}
        tokens = sum(tally.tokens for tally in used.values())
        saved = sum(self._weights.saved_tokens(tier, tally.tokens) for tier, tally in used.items())
        saved_s = sum(self._weights.saved_seconds(tier, tally.latency_s) for tier, tally in used.items())
        return {
            "tenant_id": scope,
            "requests": sum(tally.requests for tally in used.values()),
            "tokens_used": tokens,
            "tokens_saved": round(saved),
            "cost_reduction_pct": cost_reduction_pct(saved, tokens),
            "by_tier": {
                tier: {
                    "requests": tally.requests,
                    "tokens": tally.tokens,
                    "input_tokens": tally.input_tokens,
                    "output_tokens": tally.output_tokens,
                    "tokens_saved": round(self._weights.saved_tokens(tier, tally.tokens)),
                }
                for tier, tally in used.items()
            },
            "gpu_hours_saved": 0.0,
            "engine_hours_saved": round(saved_s / 3600, 6),
            "basis": "modelled",
        }

    def get_status(self, tenant_id: TenantId) -> dict[str, Any]:
        """Return the tenant's budgets as `GET /api/v1/budgets/{scope}/status` shows them."""
        return self._ledger.status(_scope(tenant_id)).as_json()


def _scope(tenant_id: TenantId) -> Scope:
    return parse_scope(str(tenant_id))


def _tier(model_tier: ModelTier | str) -> str:
    name = model_tier.value if isinstance(model_tier, ModelTier) else str(model_tier)
    if not name or len(name) > 64 or not name.isprintable():
        raise RequestMalformed("model_tier must be a ModelTier or a tier's name.", param="model_tier")
    return name


def _checked_count(tokens: object, param: str) -> int:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= LARGEST_COUNT:
        raise RequestMalformed(
            f"{param} must be a whole number of tokens, 0 or more, not {tokens!r:.40}.", param=param
        )
    return tokens


def _checked_limit(limit: object, param: str) -> int | None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(
            f"{param} must be a whole number of tokens, 1 or more, or None, not {limit!r}.", param=param
        )
    return limit
