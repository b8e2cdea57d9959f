"""The comparison with HEAVY, with figures worked out by hand."""

from datetime import UTC, datetime

import pytest

from tests.unit.metering.makers import TIERS
from trivet.metering.baseline import BaselineModel, FitSums, fit_baseline
from trivet.metering.savings import Comparison, SavingsReport, Work, compare, tokens_saved

BY_NAME = {tier.name: tier for tier in TIERS}


def exact_model() -> BaselineModel:
    """Return a model of 1 s + 0.01 s a prompt token + 0.1 s an output token."""
    model = fit_baseline(
        FitSums.of([(p, c, 1 + p / 100 + c / 10) for p in (0, 50, 300) for c in (1, 20, 80)])
    )
    assert model is not None
    return model


def work(
    tier: str,
    device_s: float,
    *,
    tokens: tuple[int, int] = (100, 10),
    requests: int = 1,
    delivered: bool = True,
    gpu: bool = False,
    remote: bool = False,
) -> Work:
    """Return the work of some attempts."""
    return Work(
        tier=tier,
        delivered=delivered,
        gpu=gpu,
        remote=remote,
        requests=requests,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        device_s=device_s,
    )


def compared(works: list[Work], model: BaselineModel | None, unit: str = "engine_seconds") -> Comparison:
    """Compare with HEAVY among the three default tiers."""
    return compare(
        works,
        unit="gpu_seconds" if unit == "gpu_seconds" else "engine_seconds",
        tiers=BY_NAME,
        heavy="heavy",
        model=model,
    )


@pytest.mark.parametrize(
    ("works", "fitted", "actual_s", "baseline_s", "basis", "share"),
    [
        ([], True, 0.0, 0.0, "modelled", 0.0),
        ([work("heavy", 4.0)], False, 4.0, 4.0, "measured", 1.0),
        ([work("heavy", 4.0), work("heavy", 1.5, delivered=False)], False, 5.5, 4.0, "measured", 1.0),
        ([work("light", 0.5)], True, 0.5, 3.0, "measured", 1.0),
        ([work("light", 0.5)], False, 0.5, 5.0, "modelled", 0.0),
        ([work("standard", 1.5)], False, 1.5, 5.0, "modelled", 0.0),
        ([work("light", 0.5), work("heavy", 5.0)], False, 5.5, 10.0, "mixed", 0.5),
        ([work("light", 2.0, delivered=False, tokens=(0, 0))], True, 2.0, 0.0, "modelled", 0.0),
        ([work("light", 0.0, remote=True)], True, 0.0, 0.0, "modelled", 0.0),
        ([work("retired", 2.0)], False, 2.0, 2.0, "modelled", 0.0),
    ],
    ids=[
        "nothing",
        "heavy costs what it cost",
        "a failed attempt is a loss",
        "light against the fitted model",
        "light against ten times itself",
        "standard against its weight ratio",
        "part measured, part modelled",
        "a request that delivered nothing",
        "a remote request stands on neither side",
        "a tier that is no longer configured saves nothing",
    ],
)
def test_both_sides_are_counted(
    works: list[Work], fitted: bool, actual_s: float, baseline_s: float, basis: str, share: float
) -> None:
    """Actual counts every attempt on a device; the baseline says whether it was measured or modelled."""
    result = compared(works, exact_model() if fitted else None)
    assert (result.actual_s, result.baseline_s) == pytest.approx((actual_s, baseline_s))
    assert result.saved_s == pytest.approx(baseline_s - actual_s)
    assert result.basis == basis
    assert result.measured_share == pytest.approx(share)
    assert (result.interval_90_s is None) == (basis != "measured")


def test_with_a_gpu_only_gpu_time_counts() -> None:
    """CPU time is on neither side; what the CPU served is GPU time saved if a fitted model can tell."""
    works = [work("light", 7.0), work("standard", 1.0, gpu=True), work("heavy", 4.0, gpu=True)]
    fitted = compared(works, exact_model(), "gpu_seconds")
    assert (fitted.actual_s, fitted.baseline_s, fitted.requests) == pytest.approx((5.0, 10.0, 3))
    modelled = compared(works, None, "gpu_seconds")
    assert (modelled.actual_s, modelled.baseline_s, modelled.requests) == pytest.approx(
        (5.0, 4.0 + 10 / 3, 2)
    )


def test_the_interval_is_the_models_margin_about_the_saving() -> None:
    """The 90 % interval lies evenly about the saving, as wide as the fitted part's prediction interval."""
    model = fit_baseline(FitSums.of([(0, 0, d) for d in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)]))
    assert model is not None
    result = compared([work("light", 9.0, requests=10), work("heavy", 2.0)], model)
    margin_s = model.margin_90(10, 100, 10)
    assert result.interval_90_s == pytest.approx((36.0 - margin_s, 36.0 + margin_s))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({}, (0, 0.0)),
        ({"heavy": 500}, (0, 0.0)),
        ({"light": 120, "standard": 20, "heavy": 230}, (122, 33.0)),
        ({"light": 1}, (1, 90.0)),
        ({"retired": 100}, (0, 0.0)),
    ],
)
def test_tokens_saved_are_weighted_by_cost(tokens: dict[str, int], expected: tuple[int, float]) -> None:
    """A token counts the share of HEAVY's weight that its tier did not cost, rounded once at the end."""
    assert tokens_saved(tokens, tiers=BY_NAME, heavy="heavy") == expected


@pytest.mark.parametrize(("unit", "gpu_hours"), [("gpu_seconds", 0.002), ("engine_seconds", 0.0)])
def test_the_report_keeps_gpu_hours_for_gpus(unit: str, gpu_hours: float) -> None:
    """`gpu_hours_saved` is 0.0 without a GPU; `engine_hours_saved` always tells."""
    report = SavingsReport(
        since=datetime(2026, 1, 1, tzinfo=UTC),
        until=datetime(2026, 1, 2, tzinfo=UTC),
        unit="gpu_seconds" if unit == "gpu_seconds" else "engine_seconds",
        busy_s=3.0,
        attributed_s=3.0,
        comparison=Comparison(
            actual_s=3.0,
            baseline_s=10.2,
            saved_s=7.2,
            basis="measured",
            measured_share=1.0,
            interval_90_s=(6.12345678, 8.0),
            requests=4,
        ),
        tokens_saved=10,
        cost_reduction_pct=33.3,
        busy_check_s=3.0000004,
        wall_times_devices_s=4.0,
    )
    assert report.as_json() == {
        "since": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-02T00:00:00+00:00",
        "unit": unit,
        "busy": 3.0,
        "attributed": 3.0,
        "actual": 3.0,
        "baseline": 10.2,
        "saved": 7.2,
        "basis": "measured",
        "measured_share": 1.0,
        "interval_90": [6.123457, 8.0],
        "tokens_saved": 10,
        "cost_reduction_pct": 33.3,
        "gpu_hours_saved": gpu_hours,
        "engine_hours_saved": 0.002,
        "busy_check": 3.0,
        "wall_times_devices": 4.0,
        "requests": 4,
        "cached_requests": 0,
        "cached": 0.0,
    }
