"""Device seconds saved against sending everything to the dearest tier. Pure: figures in, report out.

    saved = sum of baseline - sum of actual

- *actual*: the device time of every attempt, the failed ones included.
- *baseline*, for each request that a tier delivered something for (`ok`, `cut`, `cancelled`):
  served by HEAVY: the device time of that very attempt, so its saving is 0 less its failed attempts;
  served elsewhere: the fitted model of HEAVY at the tokens really produced; without enough of HEAVY's
  attempts to fit, the serving tier's own seconds times the ratio of the cost weights (*modelled*).
- A request that delivered nothing has no baseline: its time is a loss.
- Remote attempts use no device here: they stand on neither side.
- With a GPU at work only GPU time is counted, on both sides; a request that the CPU served counts as a
  saving of GPU time only if there is a fitted model, because CPU seconds say nothing of GPU seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from trivet.domain.tiers import Tier
from trivet.metering.baseline import BaselineModel

Unit = Literal["gpu_seconds", "engine_seconds"]
Basis = Literal["measured", "modelled", "mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the attempts of one kind on one tier did, summed."""

    tier: str
    delivered: bool
    """These attempts served their requests; else they failed."""
    gpu: bool
    remote: bool
    requests: int
    prompt_tokens: int
    """As the engines reported them; unknown ones count 0, so that the baseline is never overstated."""
    completion_tokens: int
    device_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both sides, in device seconds of one unit."""

    actual_s: float
    baseline_s: float
    saved_s: float
    basis: Basis
    measured_share: float
    """Share of the baseline's seconds that rests on measurement: own attempts or the fitted model."""
    interval_90_s: tuple[float, float] | None
    """Of `saved_s`; None when any part of the baseline is modelled, whose error nobody knows."""
    requests: int
    """Requests on the baseline's side."""


def compare(
    works: Iterable[Work], *, unit: Unit, tiers: Mapping[str, Tier], heavy: str, model: BaselineModel | None
) -> Comparison:
    """Compare what was done with what HEAVY would have needed for it."""
    actual_s = own_s = fitted_s = margin_s = modelled_s = 0.0
    own = modelled = fitted = fitted_prompt = fitted_completion = 0
    for work in works:
        if work.remote:
            continue
        counted = work.gpu or unit == "engine_seconds"
        actual_s += work.device_s if counted else 0.0
        if not work.delivered:
            continue
        if work.tier != heavy and model is not None:
            fitted += work.requests
            fitted_prompt += work.prompt_tokens
            fitted_completion += work.completion_tokens
        elif work.tier == heavy and counted:
            own += work.requests
            own_s += work.device_s
        elif counted:
            modelled += work.requests
            modelled_s += work.device_s * _weight_ratio(tiers, heavy, work.tier)
    if model is not None:
        fitted_s = model.seconds(fitted, fitted_prompt, fitted_completion)
        margin_s = model.margin_90(fitted, fitted_prompt, fitted_completion)
    measured = own + fitted
    measured_s = own_s + fitted_s
    baseline_s = measured_s + modelled_s
    saved_s = baseline_s - actual_s
    all_measured = measured > 0 and modelled == 0
    basis: Basis = "measured" if all_measured else "mixed" if measured else "modelled"
    return Comparison(
        actual_s=actual_s,
        baseline_s=baseline_s,
        saved_s=saved_s,
        basis=basis,
        measured_share=measured_s / baseline_s if baseline_s else float(all_measured),
        interval_90_s=(saved_s - margin_s, saved_s + margin_s) if all_measured else None,
        requests=measured + modelled,
    )


def _weight_ratio(tiers: Mapping[str, Tier], heavy: str, tier: str) -> float:
    """Return HEAVY's cost weight over the tier's; 1 for a tier that is no longer configured."""
    if heavy not in tiers or tier not in tiers:
        return 1.0
    return tiers[heavy].cost_weight / tiers[tier].cost_weight


def tokens_saved(
    tokens_by_tier: Mapping[str, int], *, tiers: Mapping[str, Tier], heavy: str
) -> tuple[int, float]:
    """Return the weighted tokens saved, and the cost reduction in percent, as the seed's guide counts them.

    tokens_saved = sum over delivered requests of tokens * (heavy_weight - tier_weight) / heavy_weight,
    rounded once at the end: the HEAVY tokens' worth that was not spent. cost_reduction_pct is 100 times
    that sum (unrounded) over all delivered tokens, to one decimal; 0.0 without tokens. It speaks of the
    configured weights and counts remote tiers too; `saved` speaks of measured time.
    """
    saved = sum(
        tokens * (1 - 1 / _weight_ratio(tiers, heavy, tier)) for tier, tokens in tokens_by_tier.items()
    )
    total = sum(tokens_by_tier.values())
    return round(saved), round(100 * saved / total, 1) if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingsReport:
    """The answer to `GET /api/v1/savings`. Seconds are device seconds of `unit`."""

    since: datetime
    until: datetime
    """The range in whole minutes: the asked one, rounded outward."""
    unit: Unit
    busy_s: float
    """Device time with work, by the device clock, over the unit's devices; the whole machine's."""
    attributed_s: float
    """The part of it that is on record as used by attempts of requests that ended in the range."""
    comparison: Comparison
    tokens_saved: int
    cost_reduction_pct: float
    busy_check_s: float
    """`busy_s` recomputed as interval unions of the attempts' instants, by code of its own."""
    wall_times_devices_s: float
    """From the first dispatch to the last end within the range, times the devices seen."""
    remote_requests: int = 0
    """Requests served remotely: on neither side of the comparison."""
    cached_requests: int = 0
    """Requests answered from the cache: on neither side, since no engine worked for them."""
    cached_s: float = 0.0
    """Device time that their answers had taken when they were made; not part of what `comparison` saved."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as the API and the CLI show it; seconds and hours to six decimals.

        `engine_hours_saved` is `saved` in hours, whatever the device; `gpu_hours_saved` is the same when
        the unit is GPU seconds, and 0.0 without a GPU. `requests` counts the baseline's requests.
        """
        compared = self.comparison
        hours = round(compared.saved_s / 3600, 6)
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "unit": self.unit,
            "busy": round(self.busy_s, 6),
            "attributed": round(self.attributed_s, 6),
            "actual": round(compared.actual_s, 6),
            "baseline": round(compared.baseline_s, 6),
            "saved": round(compared.saved_s, 6),
            "basis": compared.basis,
            "measured_share": round(compared.measured_share, 6),
            "interval_90": [round(bound, 6) for bound in compared.interval_90_s]
            if compared.interval_90_s
            else None,
            "tokens_saved": self.tokens_saved,
            "cost_reduction_pct": self.cost_reduction_pct,
            "gpu_hours_saved": hours if self.unit == "gpu_seconds" else 0.0,
            "engine_hours_saved": hours,
            "busy_check": round(self.busy_check_s, 6),
            "wall_times_devices": round(self.wall_times_devices_s, 6),
            "requests": compared.requests,
            "cached_requests": self.cached_requests,
            "cached": round(self.cached_s, 6),
        }
