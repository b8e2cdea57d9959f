"""The baseline model: exact non-negative least squares and its interval."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trivet.metering.baseline import FitSums, fit_baseline, student_t_95

Observation = tuple[int, int, float]
# Eighths of a second: their sums are exact, so that the fit can be held to its optimality conditions.
OBSERVATIONS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 80), st.integers(1, 800).map(lambda eighths: eighths / 8)),
    min_size=8,
    max_size=30,
)


def squared_error(observations: list[Observation], coefficients: tuple[float, float, float]) -> float:
    """Return what the fit minimises."""
    c0, a, b = coefficients
    return math.fsum((d - c0 - a * p - b * c) ** 2 for p, c, d in observations)


def test_a_true_linear_law_is_found_again() -> None:
    """Observations that follow the model exactly give its coefficients and no uncertainty."""
    observations = [(p, c, 0.5 + 0.25 * p + 2.0 * c) for p in (1, 10, 40) for c in (1, 3, 8)]
    model = fit_baseline(FitSums.of(observations))
    assert model is not None
    assert model.coefficients_s == pytest.approx((0.5, 0.25, 2.0))
    assert model.seconds(2, 100, 10) == pytest.approx(46.0)
    assert model.margin_90(2, 100, 10) == pytest.approx(0.0, abs=1e-6)


def test_too_few_observations_fit_nothing() -> None:
    """Seven observations are too few for three coefficients and an interval."""
    assert fit_baseline(FitSums.of([(p, p * p, float(p)) for p in range(1, 8)])) is None


def test_a_negative_slope_is_held_at_zero() -> None:
    """Where longer prompts happened to be faster, the prompt's coefficient is 0 and without variance."""
    observations = [(100 - 10 * i, i, 1.0 + i) for i in range(8)]
    model = fit_baseline(FitSums.of([(p, 1, d) for p, _, d in observations]))
    assert model is not None
    assert model.coefficients_s[1] == 0.0
    assert model.covariance[1] == (0.0, 0.0, 0.0)
    assert model.seconds(1, 50, 1) == pytest.approx(4.5)


def test_the_interval_of_a_constant_model_is_the_textbook_one() -> None:
    """With the constant alone, m requests scatter by t * s * sqrt(m^2 / n + m), in closed form."""
    seconds = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    model = fit_baseline(FitSums.of([(0, 0, d) for d in seconds]))
    assert model is not None
    assert model.coefficients_s == (4.5, 0.0, 0.0)
    assert model.residual_variance == pytest.approx(6.0)
    assert model.margin_90(10, 0, 0) == pytest.approx(student_t_95(7) * math.sqrt(6.0 * (100 / 8 + 10)))


@pytest.mark.parametrize(
    ("degrees", "expected"), [(5, 2.015048), (10, 1.812461), (30, 1.697261), (10**6, 1.644854)]
)
def test_student_t_agrees_with_the_tables(degrees: int, expected: float) -> None:
    """The quantile's expansion is within 0.1 % of the tabulated value."""
    assert student_t_95(degrees) == pytest.approx(expected, rel=1e-3)


@settings(deadline=None)
@given(
    observations=OBSERVATIONS,
    rivals=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=20),
)
def test_no_rival_fits_better(
    observations: list[Observation], rivals: list[tuple[float, float, float]]
) -> None:
    """No other non-negative coefficients have a smaller squared error, near or far."""
    model = fit_baseline(FitSums.of(observations))
    assert model is not None
    least = squared_error(observations, model.coefficients_s)
    near = [
        (
            max(0.0, model.coefficients_s[0] * (1 + c0 / 500)),
            max(0.0, model.coefficients_s[1] + (a - 0.5) / 100),
            max(0.0, model.coefficients_s[2] + (b - 2.5) / 100),
        )
        for c0, a, b in rivals
    ]
    assert min(model.coefficients_s) >= 0.0
    for rival in [*rivals, *near]:
        assert least <= squared_error(observations, rival) * (1 + 1e-9) + 1e-9


@settings(deadline=None)
@given(observations=OBSERVATIONS)
def test_the_fit_meets_the_optimality_conditions(observations: list[Observation]) -> None:
    """The error's slope is 0 along every coefficient in use, and not downhill along those held at 0."""
    assume(len({(p, c) for p, c, _ in observations}) > 1)
    model = fit_baseline(FitSums.of(observations))
    assert model is not None
    c0, a, b = model.coefficients_s
    residuals = [c0 + a * p + b * c - d for p, c, d in observations]
    features = [
        [1.0] * len(observations),
        [float(p) for p, _, _ in observations],
        [float(c) for _, c, _ in observations],
    ]
    for feature, coefficient in zip(features, model.coefficients_s, strict=True):
        slope = math.fsum(x * r for x, r in zip(feature, residuals, strict=True))
        tolerance = 1e-6 * (
            1 + math.fsum(abs(x * d) for x, (_, _, d) in zip(feature, observations, strict=True))
        )
        assert slope >= -tolerance
        if coefficient > 0:
            assert slope <= tolerance
